"""oslo.messaging's own functional suite, one test of each kind; `make oslo` runs all of it."""

import itertools
import subprocess
import sys
from pathlib import Path

from tests.oslo.conftest import WORLDS
from wsgi_harness.oslo.processes import clean_environment
from wsgi_harness.oslo.run import SUBSET, Cell, Outcome, complaints, repeat, run
from wsgi_harness.oslo.schemes import STOCK, ours
from wsgi_harness.oslo.suite import GuardedUrl


def cell(scheme, world="green", amqp_url=""):
    return Cell(scheme, "18.3", world, Path(sys.executable), amqp_url)


def test_one_test_of_each_kind_passes(broker, rabbitmqctl, tmp_path):
    """Of every scheme, in green threads and in native ones, with the newest oslo.messaging."""
    cells = []
    for scheme, world in itertools.product(ours(), WORLDS):
        # Its own: the suite's topics have the same names in each run.
        vhost = f"{scheme}-{world}"
        rabbitmqctl("add_vhost", vhost)
        rabbitmqctl("set_permissions", "-p", vhost, broker.user, ".*", ".*", ".*")
        cells.append(cell(scheme, world, broker.amqp_url(vhost=vhost)))
    for first in run(cells, tmp_path, only=SUBSET, parts=1, limit=400):
        # As the command does: one of the tests counts what comes within two seconds.
        outcome = repeat(first, tmp_path)
        assert outcome.failures() == [], outcome.texts
        assert outcome.count("passed") == len(SUBSET), outcome.tests


def test_a_broker_that_is_not_there_fails(tmp_path):
    """The runner can see a failure, and a test that never ends."""
    nowhere = cell("hbrabbit", amqp_url="amqp://nobody:secret@127.0.0.1:1/")
    (outcome,) = run(
        [nowhere], tmp_path, only=["CastTestCase.test_specific_server"], parts=1, limit=8
    )
    assert outcome.count("passed") == 0
    assert len(outcome.failures()) == 1
    assert complaints([outcome])


def test_parts_without_a_test_are_none(broker, tmp_path):
    one = ["CallTestCase.test_specific_server"]
    here = cell("hbrabbit", amqp_url=broker.amqp_url())
    (outcome,) = run([here], tmp_path, only=one, parts=2)
    assert list(outcome.tests.values()) == ["passed"], outcome.texts


def test_a_second_try_is_told_as_one(broker, tmp_path):
    names = [
        "oslo_messaging.tests.functional.test_functional.CallTestCase.test_specific_server",
        "gone",
    ]
    first = Outcome(
        cell("hbrabbit", amqp_url=broker.amqp_url()), dict.fromkeys(names, "failed"), {}, 1.0
    )
    second = repeat(first, tmp_path)
    assert second.repeated == (names[0],)
    assert second.failures() == ["gone"]


def test_only_what_stock_does_not_pass_either_may_be_skipped():
    stock = Outcome(cell(STOCK), {"a": "passed", "b": "skipped", "c": "failed"}, {}, 1.0)
    same = Outcome(cell("hbrabbit"), {"a": "passed", "b": "skipped", "c": "passed"}, {}, 1.0)
    assert complaints([stock, same]) == []
    for worse in ({"a": "skipped"}, {"a": "failed"}, {}, {"a": "passed", "b": "failed"}):
        assert complaints([stock, Outcome(cell("hbrabbit"), worse, {}, 1.0)]), worse


def test_guards_see_rabbit_and_everything_else_sees_the_scheme():
    url = GuardedUrl("hbrabbit://host/")
    assert url.startswith("rabbit://")
    assert url.startswith("hbrabbit://")
    assert not url.startswith("kafka://")
    assert not url.startswith("amqp:")
    assert f"{url}" == "hbrabbit://host/"


def test_a_scheme_that_is_not_there_is_told():
    done = subprocess.run(
        [sys.executable, "-m", "wsgi_harness.oslo", "--scheme", "hbpigeon"],
        capture_output=True,
        text=True,
        timeout=60,
        env=clean_environment(),
    )
    assert done.returncode == 2
    assert "no scheme of hbshim: hbpigeon" in done.stderr
    assert "hbrabbit" in done.stderr
