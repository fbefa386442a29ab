"""The contract of a connection: how it begins, what keeps it, and how it ends."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import socket
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pika
import pytest
from pika.exceptions import AMQPError

from hbshim.adapters.sockets import wire_for
from hbshim.errors import BrokerBlockedError, ConnectError, ConnectionLostError, OptionError
from hbshim.heartbeat import service
from hbshim.heartbeat.guard import IDLE_BEFORE_CHECK
from hbshim.messaging.amqp.connection import Connection, Queue
from hbshim.messaging.hosts import Host
from hbshim.protocol.messages import Delivery
from hbshim.runtime.unpatched import original
from tests.brokers import HEARTBEAT
from tests.messaging.conftest import (
    LIBRARIES,
    LIMIT,
    connect,
    connections_of,
    drain_until,
    unique,
)
from tests.messaging.connections import Drainer, message
from tests.waiting import wait_until
from wsgi_harness.stack.broker import Broker
from wsgi_harness.wire.relay import Relay

Opened = Callable[..., Connection]

T = 1


def uses(connection: Connection) -> list[Callable[[], object]]:
    """A call of every method that needs the connection."""
    return [
        lambda: connection.publish(message("q"), 1),
        lambda: connection.publish_confirmed(message("q"), 1),
        lambda: connection.declare_exchange("e", "direct"),
        lambda: connection.declare_queue(Queue("q", exclusive=True)),
        lambda: connection.queue_exists("q"),
        lambda: connection.bind("q", "e", "k"),
        lambda: connection.delete_queue("q"),
        lambda: connection.set_prefetch(1),
        lambda: connection.consume("q", print),
        lambda: connection.acknowledge(1),
        lambda: connection.requeue(1),
        lambda: connection.drain(1),
    ]


def assert_of_no_use(connection: Connection) -> None:
    for use in uses(connection):
        with pytest.raises(ConnectionLostError):
            use()
    assert not connection.is_open
    connection.wake()
    connection.close()


@pytest.fixture
def relay(broker: Broker) -> Iterator[Relay]:
    with Relay(broker.host, broker.amqp_port) as relay:
        yield relay


@pytest.fixture
def behind(host: Host, relay: Relay) -> Host:
    """The broker, behind the relay."""
    return replace(host, hostname="127.0.0.1", port=relay.port)


# -- the beginning ---------------------------------------------------------------


def test_its_name_has_no_credentials(connection: Connection, host: Host) -> None:
    assert connection.name == f"{host.hostname}:{host.port}"
    assert connection.is_open
    assert not connection.blocked


def test_refused_credentials(opened: Opened, host: Host) -> None:
    with pytest.raises(ConnectError, match="credentials") as caught:
        opened(replace(host, password="a-wrong-secret"))
    assert caught.value.final
    assert "a-wrong-secret" not in str(caught.value)
    assert str(host.username) in str(caught.value)


def test_a_missing_virtual_host(opened: Opened, host: Host) -> None:
    with pytest.raises(ConnectError, match="virtual host 'not-there'") as caught:
        opened(replace(host, path="not-there"))
    assert caught.value.final
    assert str(host.password) not in str(caught.value)


def test_a_port_without_a_listener(opened: Opened, host: Host) -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectError) as caught:
            opened(replace(host, hostname="127.0.0.1", port=unheard.getsockname()[1]))
    assert not caught.value.final


@pytest.mark.filterwarnings("ignore:please use dns.resolver:DeprecationWarning")  # eventlet's
def test_a_name_that_is_none(opened: Opened, host: Host) -> None:
    with pytest.raises(ConnectError, match=r"not-there\.invalid") as caught:
        opened(replace(host, hostname="not-there.invalid"))
    assert not caught.value.final


def test_a_listener_that_says_nothing(opened: Opened, host: Host) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(ConnectError):
            opened(
                replace(host, hostname="127.0.0.1", port=silent.getsockname()[1]),
                handshake_timeout=0.2,
            )
        assert time.monotonic() - began < LIMIT / 2


def test_a_listener_that_speaks_something_else(opened: Opened, host: Host, broker: Broker) -> None:
    port = int(broker.management_url.rpartition(":")[2])
    with pytest.raises(ConnectError) as caught:
        opened(replace(host, port=port), handshake_timeout=0.5)
    assert not caught.value.final


#: What a peer might send, and a library must not stumble over: an unknown method, a
#: frame without its end, a version of AMQP that is none.
NONSENSE = [
    b"\x01\0\0\0\0\0\4\xff\xff\xff\xff\xce",
    b"\x01\0\0\0\0\0\4\0\x0a\0\x0a\0",
    b"\x07\0\0\0\0\0\1\0\xce",
    b"AMQP\3\1\0\0",
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
]


@pytest.mark.parametrize("nonsense", NONSENSE)
def test_a_listener_that_answers_nonsense(opened: Opened, host: Host, nonsense: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            accepted = server.accept()[0]
            with accepted:
                accepted.sendall(nonsense)
                accepted.shutdown(socket.SHUT_WR)
                while accepted.recv(4096):
                    pass

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(ConnectError) as caught:
            opened(replace(host, hostname="127.0.0.1", port=server.getsockname()[1]))
        thread.join(LIMIT)
    assert not caught.value.final
    assert str(host.password) not in str(caught.value)


# -- TLS ---------------------------------------------------------------------------


@pytest.fixture
def secure(broker: Broker, host: Host) -> Host:
    assert broker.tls_port is not None
    return replace(host, port=broker.tls_port)


@pytest.fixture
def ca_file(broker: Broker, tmp_path: Path) -> str:
    file = tmp_path / "ca.pem"
    assert broker.ca_pem is not None
    file.write_text(broker.ca_pem)
    return str(file)


def test_tls(opened: Opened, secure: Host, ca_file: str) -> None:
    connection = opened(secure, ssl=True, ssl_options={"cafile": ca_file}, heartbeat_interval=T)
    name = unique("queue")
    connection.declare_queue(Queue(name, exclusive=True))
    arrived: list[Delivery] = []
    connection.consume(name, arrived.append)
    body = os.urandom(300_001)
    began = time.monotonic()
    sent = 0
    # Long enough for heartbeats in between, each inside the session.
    while time.monotonic() - began < 2 * T:
        connection.publish(message(name, body), LIMIT)
        connection.publish_confirmed(message(name, body), LIMIT)
        sent += 2
        connection.drain(0.3 * T)
    drain_until(connection, lambda: len(arrived) == sent)
    assert all(delivery.body == body for delivery in arrived)


def test_a_broker_that_cannot_be_trusted(opened: Opened, secure: Host) -> None:
    with pytest.raises(ConnectError, match=r"(?i)certificate"):
        opened(secure, ssl=True)


def test_a_ca_file_that_is_not_there(opened: Opened, secure: Host) -> None:
    with pytest.raises(OptionError, match="ssl_options"):
        opened(secure, ssl=True, ssl_options={"cafile": "/not/there"})


@pytest.mark.parametrize("ssl", [True, False])
def test_tls_and_a_port_without_and_the_reverse(
    opened: Opened, host: Host, secure: Host, ssl: bool
) -> None:
    with pytest.raises(ConnectError):
        opened(host if ssl else secure, ssl=ssl, handshake_timeout=0.5)


# -- heartbeats ----------------------------------------------------------------------


def test_idle_connections_are_kept_alive_and_without_hbshim_are_not(host: Host) -> None:
    """Side by side; the control is the bare library."""
    control = pika.BlockingConnection(
        pika.ConnectionParameters(
            host.hostname,
            host.port,
            credentials=pika.PlainCredentials(host.username, host.password),
            heartbeat=T,
        )
    )
    idle = [connect(library, host, heartbeat_interval=T) for library in LIBRARIES]
    waiting = [connect(library, host, heartbeat_interval=T) for library in LIBRARIES]
    drainers = [Drainer(connection) for connection in waiting]
    of_control = wire_for(control._impl._transport._sock)
    try:
        wait_until(lambda: of_control.kernel_view().peer_closed, LIMIT)
        for connection in waiting:
            connection.wake()
        assert all(drainer.ends() for drainer in drainers)
        assert [drainer.error for drainer in drainers] == [None] * len(drainers)
        for connection in idle + waiting:
            assert connection.is_open
            assert not connection.queue_exists(unique("queue"))
    finally:
        for connection in idle + waiting:
            connection.close()
        with contextlib.suppress(AMQPError):
            control.close()


def test_a_heartbeat_of_the_brokers_choice(connection: Connection) -> None:
    assert HEARTBEAT in [link.timeout for link in service.current().links()]
    assert connection.is_open


def test_a_peer_that_falls_silent(opened: Opened, behind: Host, relay: Relay) -> None:
    publisher, consumer = (opened(behind, heartbeat_interval=T) for _ in range(2))
    drainer = Drainer(consumer)
    relay.deaf(swallow=True)
    wait_until(lambda: not publisher.is_open, LIMIT)
    assert drainer.ends()
    assert isinstance(drainer.error, ConnectionLostError)
    assert_of_no_use(publisher)
    assert_of_no_use(consumer)


# -- the end ---------------------------------------------------------------------------


def test_the_broker_closes_it(connection: Connection, library: str, broker: Broker) -> None:
    drainer = Drainer(connection)
    shown = functools.partial(connections_of, os.getpid(), broker, library)
    wait_until(shown, LIMIT)
    for each in shown():
        broker.management.close_connection(each["name"], "for a test")
    assert drainer.ends()
    assert isinstance(drainer.error, ConnectionLostError)
    assert "for a test" in str(drainer.error)
    assert_of_no_use(connection)


def test_it_breaks_under_one_who_waits(opened: Opened, behind: Host, relay: Relay) -> None:
    connection = opened(behind)
    drainer = Drainer(connection)
    relay.reset()
    assert drainer.ends()
    assert isinstance(drainer.error, ConnectionLostError)
    assert_of_no_use(connection)


def test_an_idle_publisher_hears_of_the_end_before_it_writes(
    opened: Opened, behind: Host, relay: Relay
) -> None:
    """What a bare library hands to the kernel is lost there without an error."""
    connection = opened(behind)
    connection.publish(message("nowhere"))
    time.sleep(2 * IDLE_BEFORE_CHECK)
    relay.stop()
    wait_until(lambda: relay.seen("closed"), LIMIT)
    with pytest.raises(ConnectionLostError):
        connection.publish(message("nowhere"))
    assert_of_no_use(connection)


def test_closing(connection: Connection) -> None:
    connection.close()
    assert_of_no_use(connection)


def test_closing_gives_back_what_is_to_be_acknowledged_and_what_was_sent_is_there(
    opened: Opened,
) -> None:
    name = unique("queue")
    first, second = opened(), opened()
    first.declare_queue(Queue(name, expires=60))
    for _ in range(50):
        first.publish(message(name))
    first.close()
    assert second.delete_queue(name) == 50


def test_closing_leaves_nothing_behind(library: str, host: Host) -> None:
    connect(library, host).close()  # the engine, and what libraries make once

    def descriptors() -> set[str]:
        return set(os.listdir("/proc/self/fd"))

    def threads() -> int:
        return len(os.listdir("/proc/self/task"))

    before, threads_before = len(descriptors()), threads()
    closed = []
    for _ in range(5):
        connection = connect(library, host, heartbeat_interval=T)
        connection.consume("amq.rabbitmq.reply-to", print, acknowledged=False)
        connection.drain(0)
        connection.close()
        closed.append(weakref.ref(connection))
    del connection

    def nothing_is_left() -> bool:
        gc.collect()
        return len(descriptors()) <= before and not any(reference() for reference in closed)

    wait_until(nothing_is_left, LIMIT)
    assert threads() <= threads_before


def test_a_refused_connection_leaves_nothing_behind(library: str, host: Host) -> None:
    def attempt() -> None:
        with pytest.raises(ConnectError):
            connect(library, replace(host, password="wrong"))

    attempt()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        attempt()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before


# -- forks -----------------------------------------------------------------------------


def test_a_forked_child_has_no_part_in_it(connection: Connection, queue: str) -> None:
    connection.publish(message(queue))
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # eventlet, and Python 3.12, warn of a fork with threads; that is what is tested here.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        answer = b"no error"
        try:
            assert_of_no_use(connection)
            gc.collect()
            answer = b"of no use"
        except BaseException as error:
            answer = repr(error).encode()
        finally:
            os.write(writing, answer)
            os._exit(0)
    # Not the end of the stream, nor greenly: gevent puts off closing, and reading of a child's end,
    # when its hub runs.
    answer = original("os", "read")(reading, 4096)
    original("os", "waitpid")(child, 0)
    for descriptor in (reading, writing):
        os.close(descriptor)
    assert answer == b"of no use"
    connection.publish_confirmed(message(queue), LIMIT)
    assert connection.delete_queue(queue) == 2


# -- a broker that takes nothing ----------------------------------------------------------


def test_a_broker_that_stops_reading(opened: Opened, behind: Host, relay: Relay) -> None:
    """A message goes whole or not at all; a connection that broke off in one is at its end."""
    connection = opened(behind)
    name = unique("queue")
    connection.declare_queue(Queue(name, exclusive=True))
    relay.deaf()
    sent = 0
    with pytest.raises((BrokerBlockedError, ConnectionLostError)) as caught:
        while True:
            connection.publish(message(name, b"x" * 10_000), 0.3)
            sent += 1
    if caught.type is ConnectionLostError:
        assert_of_no_use(connection)
        return
    assert connection.is_open
    relay.resume()
    connection.publish_confirmed(message(name), LIMIT)
    # What came before has its own channel, and the broker's answer there shows that it was read.
    connection.set_prefetch(1)
    assert connection.delete_queue(name) == sent + 1


def test_a_message_that_is_stuck_halfway(opened: Opened, behind: Host, relay: Relay) -> None:
    connection = opened(behind)
    relay.deaf()
    began = time.monotonic()
    with pytest.raises(ConnectionLostError):
        connection.publish(message("nowhere", bytes(20_000_000)), 0.3)
    assert time.monotonic() - began < LIMIT / 2
    assert_of_no_use(connection)


def test_a_large_message_over_a_slow_way(opened: Opened, behind: Host, relay: Relay) -> None:
    """The rest of it goes when the way is free, and a second publisher's waits for that."""
    connection = opened(behind)
    name = unique("queue")
    connection.declare_queue(Queue(name, exclusive=True))
    relay.slow(20_000_000)
    body = os.urandom(8_000_000)
    arrived: list[Delivery] = []
    connection.consume(name, arrived.append)
    threads = [
        threading.Thread(target=connection.publish, args=(message(name, body), LIMIT))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    drain_until(connection, lambda: len(arrived) == 2)
    assert [delivery.body == body for delivery in arrived] == [True, True]
    for thread in threads:
        thread.join(LIMIT)
