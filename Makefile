# make regression [T=60]   reproduce the disconnect and prove the fix, in containers
# make test                every check, and the tests, containers included
#
# Both do their own set-up and keep everything of theirs in .venv/ and build/.
# Also: make extended (more tests), make green, make chaos [SECONDS=60] [SEED=...], make soak [HOURS=1], make cluster [ROUNDS=5],
# make migration [MESSAGES=20000], make roles [SCENARIO=router], make oslo, make bench,
# make coverage, make docs, make venv, make images, make lint, make clean. ARGS="..." reaches the
# command at the end.

PYTHON ?= python3
VENV := .venv
BUILD := $(CURDIR)/build
BIN := $(VENV)/bin

# Tools that would write elsewhere write under build/.
export PYTHONPYCACHEPREFIX := $(BUILD)/pycache
unexport PYTHONDONTWRITEBYTECODE
export PIP_CACHE_DIR := $(BUILD)/pip
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export MPLCONFIGDIR := $(BUILD)/matplotlib
export MYPY_CACHE_DIR := $(BUILD)/mypy
export RUFF_CACHE_DIR := $(BUILD)/ruff
export HYPOTHESIS_STORAGE_DIRECTORY := $(BUILD)/hypothesis

# Named after what went into the environment, so that a second run does nothing and a changed
# dependency, interpreter or place does everything.
INPUTS := $(shell { cat setup.py pyproject.toml; $(PYTHON) --version; echo '$(CURDIR)'; } 2>&1 \
	| sha256sum | cut -c1-16)
# A process that ended over a test that hung is not replaced: it would only run that test again.
PYTEST := HBSHIM_REQUIRE_BROKER=1 $(BIN)/python -m pytest -o cache_dir=$(BUILD)/pytest \
  --max-worker-restart=0
JOBS ?= 5
STAMP := $(VENV)/.installed-$(INPUTS)

.PHONY: regression test extended green bench chaos cluster compiled coverage docs migration oslo roles soak \
  venv images lint clean
.DEFAULT_GOAL := test

regression: venv
	$(BIN)/python -m wsgi_harness $(if $(T),--heartbeat $(T)) $(ARGS)

# What the tests marked `extended` and the green runs show takes as long again; each has a part here.
# Most tests wait for heartbeats: side by side, a file to a process, all of them at one broker
# (tests/brokers.py). What measures, or starts a fleet, shares the machine with one other file, no
# more; a cluster of three brokers has it for itself.
# ARGS choose tests, in one process. What comes first keeps one core busy each.
test: venv
	@$(MAKE) --no-print-directory -j3 --output-sync=line lint images $(if $(ARGS),,compiled)
	$(PYTEST) $(if $(ARGS),$(ARGS),-m "not alone and not extended" -n $(JOBS) --dist loadfile \
	  --no-loadscope-reorder)
	$(if $(ARGS),,$(PYTEST) -m "alone and not extended" --ignore=tests/cluster -n 2 \
	  --dist loadfile --no-loadscope-reorder)
	$(if $(ARGS),,$(PYTEST) tests/cluster/test_failover.py)
	$(if $(ARGS),,$(MAKE) --no-print-directory green GREEN-1="$(GREEN-PART-1)" GREEN-2="$(GREEN-PART-2)")

# The rest: other versions of RabbitMQ, more drivers and schemes, green threads throughout.
extended: venv images
	$(PYTEST) -m "extended and not alone" -n $(JOBS) --dist loadfile --no-loadscope-reorder
	$(PYTEST) -m "extended and alone" -n 2 --dist loadfile --no-loadscope-reorder
	$(MAKE) --no-print-directory green

# What touches sockets and connections, once more where eventlet or gevent has patched everything;
# two processes for each, all four at one broker. Not by pytest-xdist: what connects its processes
# does not work where gevent has patched it.
GREEN-1 := tests/heartbeat tests/adapters tests/test_status.py tests/messaging/pool
GREEN-2 := $(addprefix tests/messaging/,test_connection.py test_driver.py \
  test_driver_servers.py test_driver_notify.py test_driver_hosts.py hybrid/test_models.py \
  $(addprefix contract/,test_call.py test_cut.py test_notify.py test_serve.py test_store.py))

# The part of `make test`.
GREEN-PART-1 := tests/heartbeat tests/test_status.py
GREEN-PART-2 := tests/messaging/test_connection.py tests/messaging/contract/test_call.py

green: venv
	$(BIN)/python -m tests.brokers $(MAKE) --no-print-directory -j4 --output-sync=target $(foreach part,1 2,\
	  green-eventlet-$(part) green-gevent-$(part))

green-%: venv
	HBSHIM_TEST_CONCURRENCY=$(firstword $(subst -, ,$*)) $(PYTEST) $(GREEN-$(lastword $(subst -, ,$*)))

# Branches too, and in programs that tests start; fails below the floor of pyproject.toml. ARGS
# choose tests, which have no floor. Pages: build/coverage.
coverage: images
	@$(BIN)/python -m pip install --quiet --editable '.[coverage]'
	rm -rf $(BUILD)/coverage && mkdir -p $(BUILD)/coverage
	COVERAGE_FILE=$(BUILD)/coverage/data $(PYTEST) --cov --cov-config=$(CURDIR)/pyproject.toml \
	  --cov-report=term --cov-report=html:$(BUILD)/coverage/html \
	  $(if $(ARGS),--cov-fail-under=0 $(ARGS),\
	    -m "not alone" -n $(JOBS) --dist loadfile --no-loadscope-reorder)

bench: venv
	$(BIN)/python -m wsgi_harness.with_broker $(BIN)/hbshim bench $(ARGS)

chaos: venv
	$(BIN)/python -m tests.stress.chaos $(if $(SECONDS),--seconds $(SECONDS)) \
	  $(if $(SEED),--seed $(SEED)) $(ARGS)

# Nodes of a cluster of three brokers fail under load; one round is part of `make test`.
cluster: images
	HBSHIM_CLUSTER_ROUNDS=$(or $(ROUNDS),5) $(PYTEST) tests/cluster -s $(ARGS)

oslo: venv
	$(BIN)/python -m tests.stress.oslo $(ARGS)

# A deployment moves from RabbitMQ to a router and back under load; every message is counted.
migration: venv
	$(BIN)/python -m tests.stress.migration $(if $(MESSAGES),--messages $(MESSAGES)) $(ARGS)

# The Ansible roles on hosts that are containers, at most 40 minutes for all. SCENARIO names
# one or more of them.
roles: venv
	$(BIN)/python -m wsgi_harness.roles $(SCENARIO) $(ARGS)

soak: venv
	$(BIN)/python -m tests.stress.soak $(if $(HOURS),--hours $(HOURS)) $(ARGS)

# The test suite builds the site too, and opens it in a browser.
docs: venv
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=$(CURDIR) $(BIN)/python -m mkdocs build --strict --quiet \
	  --config-file docs/site/mkdocs.yml --site-dir $(BUILD)/docs
	@echo "hbshim: $(BUILD)/docs/index.html; with search: $(BIN)/python -m http.server -d $(BUILD)/docs"

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --cache-dir $(BUILD)/import-linter

# What pytest makes of the tests; all of its processes would do it at the same time otherwise.
compiled: venv
	@mkdir -p $(BUILD)
	@$(PYTEST) --collect-only -qq >$(BUILD)/collected 2>&1 || { cat $(BUILD)/collected; exit 1; }

images: venv
	$(BIN)/python -m wsgi_harness.engine.images

venv: $(STAMP)

$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "hbshim: $(PYTHON) is missing or older than 3.10; name another: make PYTHON=python3.11"; \
	  exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  install="apt-get install -y --no-install-recommends python3-venv"; \
	  if [ "$$(id -u)" = 0 ] && [ -z "$${HBSHIM_INSTALL_ENGINE#1}" ] && command -v apt-get >/dev/null; \
	  then echo "hbshim: Python's venv module is missing; installing: $$install"; \
	    apt-get -o DPkg::Lock::Timeout=120 update -qq || true; \
	    DEBIAN_FRONTEND=noninteractive $$install -qq -o DPkg::Lock::Timeout=120 >/dev/null; \
	  else echo "hbshim: Python's venv module is missing; as root: $$install"; exit 1; fi; }
	@echo "hbshim: setting up $(VENV)"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@# Python compiles what is imported; all of it would take pip most of the time.
	@$(BIN)/python -m pip install --quiet --no-compile --editable '.[test]'
	@rm -f $(VENV)/.installed-* && touch $@

# The engine of this checkout goes first: its data lies under build/.
clean:
	@$(PYTHON) -c 'from wsgi_harness.engine import dockerd; dockerd.stop(progress=print)'
	rm -rf $(VENV) $(BUILD) dist report .tox *.egg-info .pytest_cache
