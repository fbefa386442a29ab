"""Connections of every library that speaks the connection protocol, to the real broker."""

from __future__ import annotations

import functools
import importlib
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from hbshim.messaging.amqp.connection import Connection, Queue
from hbshim.messaging.amqp.driver import AmqpDriver
from hbshim.messaging.amqp.factory import AmqpFactory
from hbshim.messaging.amqp.options import AmqpOptions
from hbshim.messaging.hosts import Host
from hbshim.messaging.server import Server
from hbshim.messaging.target import Target
from tests.waiting import wait_until, wait_while_progressing
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
    loaded = AmqpOptions(**{"socket_timeout": LIMIT, "handshake_timeout": LIMIT, **options})
    connection: Connection = importlib.import_module(LIBRARIES[library]).connect(
        host, loaded, time.monotonic() + LIMIT
    )
    return connection


def connections_of(pid: int, broker: Broker, library: str = "") -> list[dict[str, Any]]:
    """Return what the broker shows of the messaging connections of a process; a second old."""
    ours = f":{pid}:hbshim-{library}"
    return [
        each
        for each in broker.management.connections()
        if ours in each.get("client_properties", {}).get("connection_name", "")
    ]


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


@pytest.fixture
def drivers_over(host: Host) -> Iterator[Callable[..., AmqpDriver]]:
    """Make drivers over a library; each is closed when the test ends."""
    made: list[AmqpDriver] = []

    def make(library: str, *hosts: Host, **options: Any) -> AmqpDriver:
        loaded = AmqpOptions(
            **{
                "socket_timeout": LIMIT,
                "handshake_timeout": LIMIT,
                "rpc_queue_expiration": 30,
                "hosts_shuffle": False,
            }
            | options
        )
        made.append(AmqpFactory(library).open(hosts or (host,), loaded))
        return made[-1]

    yield make
    for driver in made:
        driver.close()


@pytest.fixture
def drivers(library: str, drivers_over: Callable[..., AmqpDriver]) -> Callable[..., AmqpDriver]:
    """Make drivers over each library in turn."""
    return functools.partial(drivers_over, library)


@pytest.fixture
def driver(drivers: Callable[..., AmqpDriver]) -> AmqpDriver:
    """A driver of the test's own."""
    return drivers()


@pytest.fixture
def target() -> Target:
    """A topic that no other test uses."""
    return Target(unique("topic"))


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Start servers; each is stopped when the test ends."""
    started: list[Server] = []

    def start(driver: AmqpDriver, target: Target, *endpoints: object, **how: Any) -> Server:
        started.append(Server(driver, target, endpoints, **how))
        assert started[-1].start(LIMIT)
        return started[-1]

    yield start
    for server in started:
        server.stop(LIMIT)


def delete_exchange(broker: Broker, name: str) -> None:
    url = f"{broker.management_url}/api/exchanges/%2F/{name}"
    requests.delete(url, auth=(broker.user, broker.password), timeout=LIMIT).raise_for_status()


def at_once(
    *works: Callable[[], object],
    limit: float = 2 * LIMIT,
    progress: Callable[[], object] = lambda: None,
) -> list[Any]:
    """Run all of `works` at the same time; return what each returns, or the error it raises.

    Parameters:
        limit: seconds without a change of `progress` after which they are taken to hang.
    """
    outcomes: list[Any] = [None] * len(works)

    def run(number: int) -> None:
        try:
            outcomes[number] = works[number]()
        except Exception as error:
            outcomes[number] = error

    threads = [
        threading.Thread(target=run, args=(number,), daemon=True) for number in range(len(works))
    ]
    for thread in threads:
        thread.start()
    wait_while_progressing(
        lambda: not any(thread.is_alive() for thread in threads), progress, limit
    )
    return outcomes
