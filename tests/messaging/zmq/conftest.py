"""Hosts of the ZeroMQ driver, without a broker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hbshim import messaging
from tests.messaging.endpoints import Endpoint
from tests.messaging.zmq.nodes import LIMIT, Node


@pytest.fixture
def nodes() -> Iterator[Callable[[], Node]]:
    """Make hosts whose proxies do not run yet."""
    made: list[Node] = []

    def make() -> Node:
        made.append(Node())
        return made[-1]

    yield make
    for node in made:
        node.close()


@pytest.fixture
def node(nodes: Callable[[], Node]) -> Node:
    """A host whose proxy runs."""
    made = nodes()
    made.start()
    return made


@pytest.fixture
def serve() -> Iterator[Callable[..., messaging.Server]]:
    """Start servers; each is stopped when the test ends."""
    started: list[messaging.Server] = []

    def start(
        driver: messaging.Driver, target: messaging.Target, *endpoints: object, **how: Any
    ) -> messaging.Server:
        started.append(messaging.Server(driver, target, endpoints, **how))
        assert started[-1].start(LIMIT)
        return started[-1]

    yield start
    for server in started:
        server.stop(LIMIT)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """What servers offer; what holds it is released when the test ends."""
    found = Endpoint()
    yield found
    found.release.set()
