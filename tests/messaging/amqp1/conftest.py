"""Connections over AMQP 1.0 to the real broker, and drivers over a test router."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hbshim import messaging
from hbshim.messaging.amqp1.connection import Connection
from hbshim.messaging.amqp1.opening import open_connection
from hbshim.messaging.amqp1.options import Amqp1Options
from hbshim.messaging.hosts import Host
from tests.messaging.amqp1.routers import HOST, Router, running
from tests.messaging.conftest import LIMIT
from wsgi_harness.wire.relay import Relay


def soon() -> float:
    """A deadline for what takes no time."""
    return time.monotonic() + LIMIT


@pytest.fixture
def opened(host: Host) -> Iterator[Callable[..., Connection]]:
    """Open connections; what is still open when the test ends is closed."""
    all_opened: list[Connection] = []

    def open_one(to: Host = host, **options: Any) -> Connection:
        loaded = Amqp1Options(**{"socket_timeout": LIMIT, "handshake_timeout": LIMIT, **options})
        all_opened.append(open_connection(to, loaded, soon()))
        return all_opened[-1]

    yield open_one
    for connection in all_opened:
        connection.close()


@pytest.fixture
def connection(opened: Callable[..., Connection]) -> Connection:
    """One open connection."""
    return opened()


@pytest.fixture(scope="session")
def router() -> Iterator[Router]:
    """A router that no test ends."""
    yield from running()


@pytest.fixture
def relay(router: Router) -> Iterator[Relay]:
    """What cuts the connections of the drivers that go through it."""
    with Relay(HOST, router.port) as found:
        yield found


@pytest.fixture
def router_drivers(router: Router) -> Iterator[Callable[..., messaging.Driver]]:
    """Make drivers over the router; each is closed when the test ends."""
    made: list[messaging.Driver] = []

    def make(path: str = "", port: int = router.port, **options: Any) -> messaging.Driver:
        url = f"hbamqp://{HOST}:{port}/{path}"
        made.append(messaging.connect(url, **{"login_method": "ANONYMOUS", **options}))
        return made[-1]

    yield make
    for driver in made:
        driver.close()
