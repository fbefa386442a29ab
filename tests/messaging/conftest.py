"""Connections of every library that speaks the connection protocol, to the real broker."""

from __future__ import annotations

import importlib
import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hbshim.messaging.amqp.connection import Connection, Queue
from hbshim.messaging.hosts import Host
from hbshim.messaging.options import MessagingOptions
from tests.waiting import wait_until
from wsgi_harness.stack.broker import Broker

#: The libraries under contract, each with the module that opens its connections.
LIBRARIES = {"pika": "hbshim.messaging.pika", "kombu": "hbshim.messaging.kombu"}

#: Seconds for what takes none; the machine may be busy.
LIMIT = 30.0

_numbers = itertools.count(1)


def unique(word: str) -> str:
    """A name that no other test uses."""
    return f"{word}-{os.getpid()}-{next(_numbers)}"


def connect(library: str, host: Host, **options: Any) -> Connection:
    """Open a connection over `library`."""
    loaded = MessagingOptions(**{"socket_timeout": LIMIT, **options})
    connection: Connection = importlib.import_module(LIBRARIES[library]).connect(
        host, loaded, LIMIT
    )
    return connection


def drain_until(connection: Connection, condition: Callable[[], object]) -> None:
    """Drain until `condition` is true."""

    def drained() -> object:
        if not condition():
            connection.drain(0.2)
        return condition()

    wait_until(drained, LIMIT)


@pytest.fixture(scope="session")
def host(broker: Broker) -> Host:
    """The broker, as a client sees it."""
    return Host(broker.host, broker.amqp_port, broker.user, broker.password)


@pytest.fixture(params=list(LIBRARIES))
def library(request: pytest.FixtureRequest) -> str:
    """Each library in turn."""
    name: str = request.param
    return name


@pytest.fixture
def opened(library: str, host: Host) -> Iterator[Callable[..., Connection]]:
    """Open connections; what is still open when the test ends is closed."""
    all_opened: list[Connection] = []

    def open_one(to: Host = host, **options: Any) -> Connection:
        all_opened.append(connect(library, to, **options))
        return all_opened[-1]

    yield open_one
    for connection in all_opened:
        connection.close()


@pytest.fixture
def connection(opened: Callable[..., Connection]) -> Connection:
    """One open connection."""
    return opened()


@pytest.fixture
def queue(connection: Connection) -> str:
    """A queue of :func:`connection`'s own."""
    name = unique("queue")
    connection.declare_queue(Queue(name, exclusive=True))
    return name
