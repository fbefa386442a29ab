"""The contract of the drivers, connections: several hosts, refusals, the pool, forks."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hbshim.errors import CallTimeoutError, ConnectError, ConnectionLostError, PoolError
from hbshim.heartbeat import service
from hbshim.messaging.amqp.driver import AmqpDriver
from hbshim.messaging.hosts import Host
from hbshim.messaging.notify import Notification, NotificationServer, Notifier
from hbshim.messaging.rpc import Client
from hbshim.messaging.server import Server
from hbshim.messaging.target import Target
from hbshim.protocol.messages import Message
from tests.concurrency import MODEL
from tests.messaging.conftest import LIMIT, at_once, unique
from tests.messaging.endpoints import Endpoint
from tests.waiting import wait_until
from wsgi_harness.stack.broker import Broker
from wsgi_harness.wire.relay import Relay

Serve = Callable[..., Server]
Drivers = Callable[..., AmqpDriver]

CHECKOUT = Path(__file__).parent.parent.parent


@pytest.fixture
def refusing() -> Iterator[Callable[[], Host]]:
    """Hosts where nothing listens, nor will meanwhile."""
    with contextlib.ExitStack() as bound:

        def one() -> Host:
            sock = bound.enter_context(socket.socket())
            sock.bind(("127.0.0.1", 0))
            return Host("127.0.0.1", sock.getsockname()[1])

        yield one


def every_way(driver: AmqpDriver, timeout: float) -> dict[str, Exception]:
    """What each pattern raises, at the same time, and that it is in time."""
    target = Target(unique("topic"))
    client = Client(driver, target, timeout=timeout)
    ways: dict[str, Callable[[], object]] = {
        "call": lambda: client.call("echo", value=1),
        "cast": lambda: client.cast("echo", value=1),
        "fanout": lambda: client.prepare(fanout=True).cast("echo", value=1),
        "submit": lambda: client.submit("echo", value=1),
        "notify": lambda: Notifier(driver, "events", "here", timeout=timeout).info("event", 1),
        "server": lambda: Server(driver, target, [Endpoint()]).start(timeout),
    }
    began = time.monotonic()
    outcomes = at_once(*ways.values())
    assert time.monotonic() - began < LIMIT
    return dict(zip(ways, outcomes, strict=True))


def test_the_next_host(
    drivers: Drivers, refusing: Callable[[], Host], host: Host, target: Target, serve: Serve
) -> None:
    driver = drivers(refusing(), refusing(), host)
    serve(driver, target, Endpoint())
    client = Client(driver, target, timeout=LIMIT)
    assert client.call("echo", value=1) == 1
    client.cast("echo", value=2)
    Notifier(driver, unique("events"), "here", timeout=LIMIT).info("event", 3)


def test_a_host_that_dies(
    drivers: Drivers, broker: Broker, host: Host, target: Target, serve: Serve
) -> None:
    """What is connected to it goes on with the next one."""

    class Audit:
        def __init__(self) -> None:
            self.got: list[object] = []

        def info(self, notification: Notification) -> None:
            self.got.append(notification.payload)

    audit = Audit()
    with Relay(broker.host, broker.amqp_port) as first:
        driver = drivers(replace(host, hostname=first.host, port=first.port), host)
        serve(driver, target, Endpoint())
        topic = unique("events")
        audits = NotificationServer(driver, [topic], [audit])
        assert audits.start(LIMIT)
        client = Client(driver, target, timeout=LIMIT)
        notifier = Notifier(driver, topic, "here", timeout=LIMIT)
        assert client.call("echo", value=1) == 1
        notifier.info("event", 1)
        assert len(first.seen("opened")) >= 4
    try:
        assert client.call("echo", value=2) == 2
        notifier.info("event", 2)
        wait_until(lambda: audit.got == [1, 2], LIMIT)
    finally:
        audits.stop(LIMIT)


def test_no_host(drivers: Drivers, refusing: Callable[[], Host]) -> None:
    hosts = [refusing(), refusing()]
    outcomes = every_way(drivers(*hosts), 1.0)
    # It may come back any time, so a server goes on trying.
    assert outcomes.pop("server") is False  # type: ignore[comparison-overlap]
    for way, error in outcomes.items():
        assert isinstance(error, ConnectError | CallTimeoutError), way
        assert all(host.name in str(error) for host in hosts), way
    assert {way for way, error in outcomes.items() if isinstance(error, ConnectError)} >= {
        "cast",
        "fanout",
        "notify",
    }


def test_credentials_are_refused(drivers: Drivers, host: Host) -> None:
    secret = "no-such-password"
    outcomes = every_way(drivers(replace(host, password=secret)), LIMIT)
    for way, error in outcomes.items():
        assert isinstance(error, ConnectError), way
        assert error.final, way
        assert host.name in str(error), way
        assert secret not in str(error), way


def test_no_such_virtual_host(drivers: Drivers, host: Host) -> None:
    outcomes = every_way(drivers(replace(host, path="missing")), LIMIT)
    for way, error in outcomes.items():
        assert isinstance(error, ConnectError), way
        assert error.final, way
        assert "'missing'" in str(error), way


def test_a_host_that_accepts_and_says_nothing(drivers: Drivers, host: Host) -> None:
    """It gets its time, and no more, and the next host its turn."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        silent = Host("127.0.0.1", mute.getsockname()[1])
        Notifier(
            drivers(silent, host, handshake_timeout=2), unique("events"), "here", timeout=LIMIT
        ).info("event", 1)
        with pytest.raises(ConnectError, match=silent.name):
            Notifier(
                drivers(silent, handshake_timeout=0.3, connection_retry_attempts=1),
                "events",
                "here",
            ).info("event", 1)


def test_over_ip_version_6(drivers: Drivers, host: Host, target: Target, serve: Serve) -> None:
    with forwarding(("::1", 0), (host.hostname, host.port)) as port:
        driver = drivers(replace(host, hostname="::1", port=port))
        serve(driver, target, Endpoint())
        assert Client(driver, target, timeout=LIMIT).call("echo", value=1) == 1


@contextlib.contextmanager
def forwarding(listen: tuple[str, int], to: tuple[str, int]) -> Iterator[int]:
    """A port of IPv6 that leads to one of IPv4."""
    sockets: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def copy(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                ends = (listener.accept()[0], socket.create_connection(to))
                sockets.extend(ends)
                for pair in (ends, ends[::-1]):
                    threads.append(threading.Thread(target=copy, args=pair, daemon=True))
                    threads[-1].start()

    with socket.create_server(listen, family=socket.AF_INET6) as listener:
        threads.append(threading.Thread(target=accept, daemon=True))
        threads[0].start()
        yield listener.getsockname()[1]
        for sock in (listener, *sockets):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join(LIMIT)
    for sock in sockets:
        sock.close()


# -- the pool ------------------------------------------------------------------


def test_connections_that_send_are_used_again(driver: AmqpDriver, target: Target) -> None:
    client = Client(driver, target, timeout=LIMIT)
    for number in range(10):
        client.cast("echo", value=number)
    statistics = driver.statistics()
    assert (statistics.created, statistics.idle, statistics.checked_out) == (1, 1, 0)


def test_no_more_connections_than_the_pool_has(drivers: Drivers, broker: Broker) -> None:
    driver = drivers(pool_max_size=2, pool_max_overflow=1)
    notifier = Notifier(driver, unique("events"), "here", timeout=LIMIT)
    outcomes = at_once(*[lambda: [notifier.info("event", 1) for _ in range(20)]] * 10)
    assert outcomes == [[None] * 20] * 10
    statistics = driver.statistics()
    assert statistics.created <= 3 + statistics.closed
    assert (statistics.size, statistics.idle, statistics.checked_out) == (statistics.idle, 2, 0)
    assert statistics.timeouts == 0


def test_a_closed_driver(drivers: Drivers, target: Target) -> None:
    driver = drivers()
    client = Client(driver, target, timeout=LIMIT)
    client.cast("echo", value=1)
    waiting: list[BaseException] = []

    def call() -> None:
        try:
            client.call("echo", value=1)
        except ConnectionLostError as error:
            waiting.append(error)

    called = threading.Thread(target=call)
    called.start()
    wait_until(lambda: driver._callers.get()._sending is not None, LIMIT)
    driver.close()
    called.join(LIMIT)
    assert "closed" in str(waiting[0])
    for way, error in every_way(driver, LIMIT).items():
        assert isinstance(error, PoolError | ConnectionLostError), way


# -- forks ---------------------------------------------------------------------


@pytest.mark.skipif(MODEL != "native", reason="the processes patch themselves")
@pytest.mark.parametrize("model", ["native", "eventlet", "gevent"])
def test_a_fork(
    model: str, library: str, driver: AmqpDriver, broker: Broker, target: Target
) -> None:
    """Both processes go on with a driver that was used before."""
    endpoint = Endpoint()
    server = Server(driver, target, [endpoint])
    assert server.start(LIMIT)
    try:
        done = subprocess.run(
            [sys.executable, CHECKOUT / "tests/messaging/forking.py", model, target.topic],
            env={
                **os.environ,
                "PYTHONPATH": str(CHECKOUT),
                "URL": broker.amqp_url().replace("amqp://", f"hb{library}://"),
            },
            capture_output=True,
            text=True,
            timeout=2 * LIMIT,
        )
    finally:
        server.stop(LIMIT)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split()) == ["child", "parent"]
    said = ["before", *(f"{who}-{number}" for who in ("child", "parent") for number in range(5))]
    assert sorted(set(endpoint.asked)) == sorted(said)


def test_a_channel_that_the_broker_closes_is_an_event(driver: AmqpDriver) -> None:
    """Over each library."""
    metrics = service.current().metrics
    metrics.take_events()
    connection = driver._connector.connect(time.monotonic() + LIMIT)
    try:
        connection.publish(Message(b"", "not-there", "key"))

        def events() -> list[tuple[str, str]]:
            connection.queue_exists("any")
            recorded = metrics.recorded()
            return [(each.link, each.detail) for each in recorded if each.kind == "channel-closed"]

        wait_until(events, LIMIT)
        ((link, detail),) = events()
        assert link == connection.name
        assert "not-there" in detail
        assert "(404)" in detail
    finally:
        connection.close()
