"""What carries the contract tests: one transport for each driver, and drivers over it.

The tests of this directory use public names alone. A driver of another transport passes them when
its :class:`Transport` is in :data:`TRANSPORTS`; what it cannot do is skipped by its capabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import pytest

from hbshim import messaging
from tests.messaging.conftest import LIMIT, unique
from tests.messaging.endpoints import Endpoint, Versioned
from wsgi_harness.stack.broker import Broker
from wsgi_harness.wire.relay import Relay


class Transport(Protocol):
    """Starts drivers, and breaks what they are connected to."""

    def start(self, **options: Any) -> messaging.Driver:
        """Return a driver of the test's own, which is closed when the test ends."""
        ...

    def cut(self) -> None:
        """Break every connection; new ones are accepted."""
        ...

    def stop(self) -> None:
        """Break every connection, and accept none until :meth:`restart`."""
        ...

    def restart(self) -> None:
        """Accept connections again."""
        ...

    def count(self) -> int:
        """Return how many connections were opened so far."""
        ...

    def close(self) -> None:
        """Close the drivers, and what is between them and the broker."""
        ...


class AmqpTransport:
    """RabbitMQ behind a relay.

    Parameters:
        scheme: of the driver.
    """

    def __init__(self, scheme: str, broker: Broker) -> None:
        self._relay = Relay(broker.host, broker.amqp_port).__enter__()
        self._url = (
            f"{scheme}://{broker.user}:{broker.password}@{self._relay.host}:{self._relay.port}/"
        )
        self._drivers: list[messaging.Driver] = []

    def start(self, **options: Any) -> messaging.Driver:
        settings = {
            "socket_timeout": LIMIT,
            "handshake_timeout": LIMIT,
            "rpc_queue_expiration": 30,
            **options,
        }
        self._drivers.append(messaging.connect(self._url, **settings))
        return self._drivers[-1]

    def cut(self) -> None:
        self._relay.reset()

    def stop(self) -> None:
        self._relay.stop()

    def restart(self) -> None:
        self._relay.accept()

    def count(self) -> int:
        return len(self._relay.seen("opened"))

    def close(self) -> None:
        for driver in self._drivers:
            driver.close()
        self._relay.__exit__(None, None, None)


#: By the scheme of the driver.
TRANSPORTS: dict[str, Callable[[str, Broker], Transport]] = {
    "hbpika": AmqpTransport,
    "hbkombu": AmqpTransport,
}


@pytest.fixture(params=list(TRANSPORTS))
def transport(request: pytest.FixtureRequest, broker: Broker) -> Iterator[Transport]:
    """Each transport in turn."""
    made = TRANSPORTS[request.param](request.param, broker)
    yield made
    made.close()


@pytest.fixture
def drivers(transport: Transport) -> Callable[..., messaging.Driver]:
    """Make drivers over the transport."""
    return transport.start


@pytest.fixture
def driver(drivers: Callable[..., messaging.Driver]) -> messaging.Driver:
    """A driver of the test's own."""
    return drivers()


@pytest.fixture
def storing(driver: messaging.Driver) -> messaging.StoringDriver:
    """The same, where it stores requests."""
    if not driver.capabilities.stores:
        pytest.skip("this driver stores nothing")
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


@pytest.fixture
def client(
    driver: messaging.Driver,
    target: messaging.Target,
    serve: Callable[..., messaging.Server],
    endpoint: Endpoint,
) -> messaging.Client:
    """A client of a server that has :func:`endpoint`, and a driver of its own."""
    serve(driver, target.to(server="one"), endpoint, Versioned())
    return messaging.Client(driver, target, timeout=LIMIT)
