"""The real brokers for the tests, see tests/brokers.py.

Without a container engine, tests that need one are skipped at a desk and fail where
`HBSHIM_REQUIRE_BROKER=1` or `CI` is set, so that a green run there means something.
"""

from __future__ import annotations

from tests import concurrency  # first: it patches before anything else is imported

import contextlib
import dataclasses
import os
import secrets
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.brokers import SharedBroker, held, in_turn, start_or_find, virtual_host
from wsgi_harness.stack.broker import Broker
from wsgi_harness.engine.commands import silent
from wsgi_harness.engine.bases import RABBITMQ
from wsgi_harness.engine.debian import UNRELEASED
from wsgi_harness.engine.engine import Engine
from wsgi_harness.errors import HarnessError, ImageError
from wsgi_harness.engine.images import Images, ensure_broker_image, has_broker_image, prepare
from wsgi_harness.paths import set_up_lock

# A shell that starts us in the background has Ctrl-C and hang-ups ignored, and so would every
# program that a test starts and sends a signal to. A handler, unlike "ignore", is not inherited.
for _sign in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_sign) is signal.SIG_IGN:
        signal.signal(_sign, lambda _number, _frame: None)


# How long an example takes is a statement about the machine.
settings.register_profile(
    "any machine", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


def pytest_configure(config: pytest.Config) -> None:
    """Hold the brokers of the run, in the process that ends last."""
    holding = contextlib.ExitStack()
    holding.enter_context(held())
    config.add_cleanup(holding.close)


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
        # Where no engine is installed, `pytest` alone does not install one.
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
def shared_broker(engine: Engine, images: Images) -> SharedBroker:
    """The RabbitMQ of all processes of the run."""
    return start_or_find("rabbitmq", engine, images)


@pytest.fixture(scope="session")
def broker(shared_broker: SharedBroker) -> Broker:
    """A RabbitMQ that accepts connections: AMQP, AMQP over TLS, management API and log.

    Tests in other processes use it at the same time. So a test leaves it as it is, gives its
    queues names that no other test uses, or takes a :func:`vhost`, and of connections, queues and
    the log it looks at its own. A test that stops the broker or sets an alarm takes
    :func:`own_broker`.
    """
    return shared_broker.broker


@pytest.fixture
def vhost(broker: Broker) -> Iterator[str]:
    """A virtual host of the test's own: other tests may use the same names."""
    with virtual_host(broker, f"test-{secrets.token_hex(6)}") as name:
        yield name


@pytest.fixture
def own_shared_broker(engine: Engine, images: Images) -> Iterator[SharedBroker]:
    """What :func:`own_broker` is."""
    with in_turn("own"):
        yield start_or_find("own", engine, images)


@pytest.fixture
def own_broker(own_shared_broker: SharedBroker) -> Broker:
    """A RabbitMQ like :func:`broker` that is the test's own until it ends."""
    return own_shared_broker.broker


@pytest.fixture
def rabbitmqctl(own_shared_broker: SharedBroker) -> Callable[..., None]:
    """Run the command-line tool of :func:`own_broker`."""
    return own_shared_broker.rabbitmqctl


@pytest.fixture
def memory_alarm(rabbitmqctl: Callable[..., None]) -> Iterator[Callable[[], None]]:
    """Set the memory alarm of :func:`own_broker`; gives what lifts it before the test ends."""

    def lift() -> None:
        rabbitmqctl("set_vm_memory_high_watermark", "0.4")

    rabbitmqctl("set_vm_memory_high_watermark", "0.000001")
    try:
        yield lift
    finally:
        lift()


#: RabbitMQ's versions, beside the one that all tests use, on which the contracts hold.
OTHER_VERSIONS = ("3.10", "4.3")


@pytest.fixture(scope="session", params=OTHER_VERSIONS)
def other_broker(request: pytest.FixtureRequest, engine: Engine, images: Images) -> Broker:
    """A RabbitMQ of another version, like :func:`broker`.

    An image takes a minute to build. Where no broker is required it is built only on demand.
    """
    version: str = request.param
    if not broker_is_required() and not has_broker_image(engine, version):
        pytest.skip(f"RabbitMQ {version} is not built here; HBSHIM_REQUIRE_BROKER=1 builds it")
    with set_up_lock(silent):
        image = _other_image(engine, version)
    ready = dataclasses.replace(images, rabbitmq=image)
    found = start_or_find(f"rabbitmq-{version.replace('.', '-')}", engine, ready).broker
    assert found.management.overview()["rabbitmq_version"].startswith(f"{version}.")
    return found


def _other_image(engine: Engine, version: str) -> str:
    try:
        return ensure_broker_image(engine, version)
    except ImageError as error:
        if RABBITMQ[version] not in UNRELEASED:
            raise
        # The packages of a suite that is not released need not fit each other on every day.
        pytest.skip(f"RabbitMQ {version} cannot be had today: {error}")
