"""Fixtures of the contract tests; laboratory.py explains how another driver joins them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hbshim import messaging
from tests.messaging.amqp1.routers import Router, running
from tests.messaging.conftest import LIMIT, unique
from tests.messaging.contract.laboratory import Laboratory, opened, parameters, require_features
from tests.messaging.endpoints import Endpoint, Versioned
from tests.messaging.zmq.nodes import Node
from wsgi_harness.engine.engine import Engine
from wsgi_harness.engine.images import Images
from wsgi_harness.stack.broker import Broker
from wsgi_harness.stack.services import BROKER
from wsgi_harness.stack.stack import Stack, project_name


@pytest.fixture(params=parameters())
def laboratory(request: pytest.FixtureRequest) -> Iterator[Laboratory]:
    """Each laboratory in turn."""
    yield from opened(request)


@pytest.fixture
def drivers(laboratory: Laboratory) -> Callable[..., messaging.Driver]:
    """Make drivers whose connections can be cut."""
    return laboratory.start


@pytest.fixture
def driver(drivers: Callable[..., messaging.Driver]) -> messaging.Driver:
    """A driver of the test's own."""
    return drivers()


@pytest.fixture
def storing(driver: messaging.Driver) -> messaging.StoringDriver:
    """The same, where it stores requests."""
    require_features(driver, "stores")
    return messaging.require_store(driver)


@pytest.fixture
def target() -> messaging.Target:
    """A topic that no other test uses."""
    return messaging.Target(unique("topic"))


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """What the server offers to :func:`client`."""
    found = Endpoint()
    yield found
    found.release.set()


def class_of(driver: messaging.Driver, name: str) -> Any:
    """Return a class of :mod:`hbshim.messaging`, or what takes its place for this driver."""
    return getattr(driver, "classes", {}).get(name) or getattr(messaging, name)


@pytest.fixture
def serve() -> Iterator[Callable[..., messaging.Server]]:
    """Start servers; each is stopped when the test ends."""
    started: list[messaging.Server] = []

    def start(
        driver: messaging.Driver, target: messaging.Target, *endpoints: object, **how: Any
    ) -> messaging.Server:
        started.append(class_of(driver, "Server")(driver, target, endpoints, **how))
        assert started[-1].start(LIMIT)
        return started[-1]

    yield start
    for server in started:
        server.stop(LIMIT)


@pytest.fixture
def client(
    driver: messaging.Driver,
    target: messaging.Target,
    serve: Callable[..., messaging.Server],
    endpoint: Endpoint,
) -> messaging.Client:
    """A client of a server that has :func:`endpoint`, and a driver of its own."""
    serve(driver, target.to(server="one"), endpoint, Versioned())
    return class_of(driver, "Client")(driver, target, timeout=LIMIT)


@pytest.fixture
def endpoints() -> Iterator[list[Endpoint]]:
    """What two servers offer, by name."""
    found = [Endpoint("one"), Endpoint("two")]
    yield found
    for endpoint in found:
        endpoint.release.set()


@pytest.fixture
def asker(driver: messaging.Driver, target: messaging.Target) -> messaging.Client:
    """A client whose target has no server yet."""
    return class_of(driver, "Client")(driver, target, timeout=LIMIT)


@pytest.fixture(scope="module")
def restartable(engine: Engine, images: Images) -> Iterator[tuple[Broker, Callable[[], None]]]:
    """A RabbitMQ of the module's own, and what restarts it, at the same port."""
    with Stack(project_name("restart"), heartbeat=60, prepared=(engine, images)) as stack:

        def restart() -> None:
            # In one command: each of them takes seconds to begin.
            evaluate = ["rabbitmqctl", "eval", "rabbit:stop(), rabbit:start()."]
            stack.exec(BROKER, ["env", "HOME=/var/lib/rabbitmq", *evaluate], timeout=90)

        yield stack.broker, restart


@pytest.fixture(scope="session")
def shared_router() -> Iterator[Router]:
    """A router that no test restarts."""
    yield from running()


@pytest.fixture(scope="module")
def restartable_router() -> Iterator[Router]:
    """A router of the module's own."""
    yield from running()


@pytest.fixture(scope="session")
def shared_node() -> Iterator[Node]:
    """A host with a proxy, which no test restarts."""
    yield from _node()


@pytest.fixture(scope="module")
def restartable_node() -> Iterator[Node]:
    """A host with a proxy of the module's own."""
    yield from _node()


def _node() -> Iterator[Node]:
    node = Node()
    node.start(whole=True)
    yield node
    node.close()
