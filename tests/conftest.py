"""The real broker for the tests, through pytest-docker.

Without a container engine, tests that need one are skipped at a desk and fail where
`HBSHIM_REQUIRE_BROKER=1` or `CI` is set, so that a green run there means something.
"""

from __future__ import annotations

from tests import worlds  # first: it patches before anything else is imported

import dataclasses
import os
import shlex
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pytest_docker.plugin import Services

from wsgi_harness.stack import leftovers
from wsgi_harness.stack import services
from wsgi_harness.stack.broker import Broker, wait_until
from wsgi_harness.engine.commands import run, silent
from wsgi_harness.engine.engine import Engine
from wsgi_harness.errors import HarnessError
from wsgi_harness.engine.images import Images, ensure_broker_image, has_broker_image, prepare
from wsgi_harness.paths import CONTAINERS, set_up_lock
from wsgi_harness.stack.stack import CA_FILE, Stack, project_name, read_logs

# A shell that starts us in the background has Ctrl-C and hang-ups ignored, and so would every
# program that a test starts and sends a signal to. A handler, unlike "ignore", is not inherited.
for _sign in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_sign) is signal.SIG_IGN:
        signal.signal(_sign, lambda _number, _frame: None)

PASSWORD = "only-for-tests"
HEARTBEAT = 4
READY_LIMIT = 90.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that no process is left with one in the end.

    A file stays together: it is what `make test` hands to a process. Marks what needs a
    container engine, so that `-m "not broker"` runs the rest on any machine.
    """
    ranks: dict[Path, int] = {}
    for item in items:
        # A fixture that is asked for as a test runs is not among the names; its tests are marked.
        waits = "engine" in getattr(item, "fixturenames", ()) or item.get_closest_marker("broker")
        if waits:
            item.add_marker("broker")
        rank = 0 if item.get_closest_marker("slow") else 1 if waits else 2
        ranks[item.path] = min(rank, ranks.get(item.path, rank))
    items.sort(key=lambda item: ranks[item.path])


def broker_is_required() -> bool:
    """Whether a missing engine is a failure here, not a reason to skip."""
    return os.environ.get("HBSHIM_REQUIRE_BROKER") == "1" or bool(os.environ.get("CI"))


@pytest.fixture(scope="session")
def prepared() -> tuple[Engine, Images]:
    """A container engine that answers, and hbshim's images."""
    if not broker_is_required():
        # A desk that has no engine gets none because somebody typed `pytest`.
        os.environ.setdefault("HBSHIM_INSTALL_ENGINE", "0")
    try:
        return prepare()
    except HarnessError as error:
        if broker_is_required():
            raise
        pytest.skip(f"no containers here: {error}")


@pytest.fixture(scope="session")
def engine(prepared: tuple[Engine, Images]) -> Engine:
    """A container engine that answers."""
    return prepared[0]


@pytest.fixture(scope="session")
def images(prepared: tuple[Engine, Images]) -> Images:
    """hbshim's images, built."""
    return prepared[1]


@pytest.fixture(scope="session")
def docker_compose_command(
    engine: Engine, images: Images, docker_compose_project_name: str
) -> Iterator[str]:
    """Compose, with an environment that names images and account (a hook of pytest-docker)."""
    with pytest.MonkeyPatch.context() as patch:
        variables = services.environment(images, PASSWORD, HEARTBEAT)
        for key, value in {**engine.environment, **variables}.items():
            patch.setenv(key, value)
        leftovers.remove(engine, progress=silent)
        yield shlex.join(engine.compose)
        leftovers.take_down(engine, docker_compose_project_name)


@pytest.fixture(scope="session")
def docker_compose_file() -> str:
    """The project's compose file (a hook of pytest-docker)."""
    return str(CONTAINERS / "compose.yaml")


@pytest.fixture(scope="session")
def docker_compose_project_name() -> str:
    """A name that two test runs on one machine do not share (a hook of pytest-docker)."""
    return project_name("test")


@pytest.fixture(scope="session")
def docker_setup() -> list[str]:
    """Start the broker alone, without building (a hook of pytest-docker)."""
    return [f"up --detach --no-build {services.BROKER}"]


@pytest.fixture(scope="session")
def docker_cleanup() -> list[str]:
    """Nothing (a hook of pytest-docker): its own `down` would fail the tests when Docker 20.10
    keeps a network; `docker_compose_command` takes the project down."""
    return []


@pytest.fixture(scope="session")
def broker(
    engine: Engine,
    docker_services: Services,
    docker_compose_project_name: str,
    docker_compose_file: str,
) -> Broker:
    """A RabbitMQ that accepts connections: AMQP, AMQP over TLS, management API and log."""
    project = ["--project-name", docker_compose_project_name, "--file", docker_compose_file]

    def compose(*argv: str) -> str:
        command: list[str | Path] = [*engine.compose, *project, *argv]
        return run(command, timeout=60, env=engine.environment)

    found = Broker(
        host="127.0.0.1",
        amqp_port=docker_services.port_for(services.BROKER, 5672),
        tls_port=docker_services.port_for(services.BROKER, 5671),
        management_url=f"http://127.0.0.1:{docker_services.port_for(services.BROKER, 15672)}",
        user=services.USER,
        password=PASSWORD,
        read_log=lambda: read_logs(engine, docker_compose_project_name, services.BROKER),
        read_ca=lambda: compose("exec", "-T", services.BROKER, "cat", CA_FILE),
    )
    wait_until(found.check_ready, READY_LIMIT)
    return found


@pytest.fixture
def rabbitmqctl(
    broker: Broker,
    engine: Engine,
    docker_compose_project_name: str,
    docker_compose_file: str,
) -> Callable[..., None]:
    """Run the broker's own command-line tool in its container."""
    project = ["--project-name", docker_compose_project_name, "--file", docker_compose_file]
    # The cookie that lets the tool in lies in this directory.
    inside = ["exec", "-T", "--env", "HOME=/var/lib/rabbitmq", services.BROKER, "rabbitmqctl"]

    def call(*arguments: str) -> None:
        run([*engine.compose, *project, *inside, *arguments], timeout=90, env=engine.environment)

    return call


@pytest.fixture
def memory_alarm(rabbitmqctl: Callable[..., None]) -> Iterator[Callable[[], None]]:
    """Set the broker's memory alarm; gives what lifts it, as the end of the test does."""

    def lift() -> None:
        rabbitmqctl("set_vm_memory_high_watermark", "0.4")

    rabbitmqctl("set_vm_memory_high_watermark", "0.000001")
    try:
        yield lift
    finally:
        lift()


#: Brings RabbitMQ 4.0.
SUITE_4 = "trixie"


@pytest.fixture(scope="session")
def broker_4(engine: Engine, images: Images) -> Iterator[Broker]:
    """A RabbitMQ 4, like :func:`broker`.

    Its image takes a minute to build. Where nobody requires a broker it is built only on
    demand, by `HBSHIM_RABBITMQ_4=1`; else tests/containers/test_bases.py would build it anyway.
    """
    wanted = broker_is_required() or os.environ.get("HBSHIM_RABBITMQ_4") == "1"
    if not wanted and not has_broker_image(engine, SUITE_4):
        pytest.skip("RabbitMQ 4 is not built here; set HBSHIM_RABBITMQ_4=1 to build it")
    with set_up_lock(silent):
        image = ensure_broker_image(engine, SUITE_4)
    ready = (engine, dataclasses.replace(images, rabbitmq=image))
    with Stack(project_name("test-4"), heartbeat=HEARTBEAT, prepared=ready) as stack:
        yield stack.broker
