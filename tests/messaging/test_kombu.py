"""What is only the connection's over kombu: how it reads, writes and keeps its channels.

What every connection does is in test_connection.py.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hbshim.errors import (
    BrokerBlockedError,
    ConnectError,
    ConnectionLostError,
    PayloadError,
    TopologyError,
    UnroutableError,
)
from hbshim.heartbeat.wire import HEARTBEAT_FRAME
from hbshim.messaging import kombu
from hbshim.messaging.amqp.connection import Connection, Queue
from hbshim.messaging.amqp.options import AmqpOptions
from hbshim.messaging.hosts import Host
from hbshim.messaging.readiness import wait_writable
from hbshim.protocol.messages import DIRECT_REPLY, Delivery, Message
from tests.messaging.conftest import LIMIT, drain_until, unique
from tests.waiting import wait_until
from wsgi_harness.stack.broker import Broker

Opened = Callable[..., Connection]


@pytest.fixture
def library() -> str:
    return "kombu"


class Relay:
    """Forwards bytes, to the broker only while it is not asked to hold them back.

    Of the program's own threads and sockets: the harness' relay, of native ones, cannot live
    in a process that a green library has patched.
    """

    def __init__(self, target: Host) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._open = threading.Event()
        self._open.set()
        self._socks: list[socket.socket] = [self._listener]
        self.hold, self.pass_on = self._open.clear, self._open.set
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def _start(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    @property
    def host(self) -> Host:
        port = self._listener.getsockname()[1]
        of = self._target
        return Host("127.0.0.1", port, of.username, of.password, of.path)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            client, _ = self._listener.accept()
            server = socket.create_connection((self._target.hostname, self._target.port))
            self._socks += (client, server)
            self._start(self._pump, client, server, self._open.wait)
            self._start(self._pump, server, client, lambda: None)

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket, may: Callable[[], Any]) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(4096):
                sink.sendall(data)
                may()
            sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.pass_on()
        for sock in self._socks:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        # Closed under a green thread that waits for it, its number would stay in the hub.
        for thread in self._threads:
            thread.join(LIMIT)
        for sock in self._socks:
            sock.close()


@pytest.fixture
def relay(host: Host) -> Iterator[Relay]:
    made = Relay(host)
    yield made
    made.close()


# -- channels ------------------------------------------------------------------


def test_a_cast_into_nowhere_disturbs_whoever_publishes_next(
    connection: Connection, queue: str
) -> None:
    closed: list[int] = []
    connection.on_channel_closed = lambda code, _text: closed.append(code)
    connection.publish(Message(b"lost", "no-such-exchange", "key"))
    # The broker closes the channel over that; no answer reports what is refused.
    wait_until(lambda: connection.publish(Message(b"", "", queue)) and closed)
    for _ in range(100):
        connection.publish(Message(b"later", "", queue))
    connection.publish_confirmed(Message(b"last", "", queue), LIMIT)
    # Counted as they arrive: a question on another channel may overtake what was published.
    arrived: list[Delivery] = []
    connection.consume(queue, arrived.append, acknowledged=False)
    drain_until(connection, lambda: len([each for each in arrived if each.body]) == 101)


def test_a_consumer_whose_channel_is_closed_is_reported_and_old_tags_are_forgotten(
    connection: Connection, queue: str
) -> None:
    arrived: list[Delivery] = []
    told = threading.Event()
    connection.set_prefetch(1)
    connection.consume(queue, arrived.append, on_cancelled=lambda _reason: told.set())
    for _ in range(3):
        connection.publish(Message(b"once", "", queue))
    drain_until(connection, lambda: arrived)
    connection.publish(Message(b"", "no-such-exchange", "key"))
    drain_until(connection, told.is_set)
    # Acknowledged on the channel of today it would be an unknown tag, and close that, too.
    connection.acknowledge(arrived[0].tag)
    connection.consume(queue, arrived.append)
    drain_until(connection, lambda: len(arrived) == 2)
    assert arrived[1].redelivered
    # The prefetch holds on the new channel, too: no further one before this is settled.
    connection.queue_exists(queue)
    connection.drain(0)
    assert len(arrived) == 2
    connection.acknowledge(arrived[1].tag)
    drain_until(connection, lambda: len(arrived) == 3)


def test_a_consumer_without_a_callback_takes_the_connection_with_it(
    connection: Connection,
) -> None:
    connection.consume(DIRECT_REPLY, lambda _: None, acknowledged=False)
    connection.publish(Message(b"", "no-such-exchange", "key"))
    with pytest.raises(ConnectionLostError, match="its consumers"):
        drain_until(connection, lambda: False)
    assert not connection.is_open


def test_what_the_broker_refuses_leaves_consumers_alone(connection: Connection, queue: str) -> None:
    arrived: list[Delivery] = []
    connection.consume(queue, arrived.append, acknowledged=False)
    with pytest.raises(TopologyError, match="look up queue 'not-there'"):
        connection.consume("not-there", arrived.append)
    with pytest.raises(TopologyError, match="declare exchange 'amq"):
        connection.declare_exchange("amq.direct", "fanout")
    assert not connection.queue_exists("not-there")
    connection.publish(Message(b"still", "", queue))
    drain_until(connection, lambda: arrived)


def test_what_amqp_has_no_form_for_is_refused_before_a_byte_is_sent(
    connection: Connection, queue: str
) -> None:
    with pytest.raises(PayloadError, match="255"):
        connection.publish(Message(b"", "", "k" * 256))
    with pytest.raises(PayloadError, match="types"):
        connection.publish(Message(b"", "", queue, headers={"a": object()}))
    with pytest.raises(PayloadError, match="255"):
        connection.declare_queue(Queue("q" * 256))
    with pytest.raises(PayloadError):
        connection.declare_queue(Queue(unique("queue"), arguments={"a": object()}))
    connection.publish_confirmed(Message(b"", "", queue), LIMIT)


# -- threads -------------------------------------------------------------------


def publish_from_threads(connection: Connection, queue: str, bodies: list[bytes]) -> list[bytes]:
    """Publish each body from every one of four threads while this one drains and acknowledges."""
    arrived: list[bytes] = []
    errors: list[BaseException] = []

    def publish() -> None:
        try:
            for body in bodies:
                connection.publish(Message(body, "", queue), LIMIT)
        except BaseException as error:
            errors.append(error)

    def take(delivery: Delivery) -> None:
        arrived.append(delivery.body)
        connection.acknowledge(delivery.tag)

    connection.consume(queue, take)
    threads = [threading.Thread(target=publish) for _ in range(4)]
    for thread in threads:
        thread.start()
    drain_until(connection, lambda: errors or len(arrived) == 4 * len(bodies))
    for thread in threads:
        thread.join(LIMIT)
    assert errors == []
    return arrived


def test_threads_that_publish_acknowledge_and_drain_at_once(
    connection: Connection, queue: str
) -> None:
    bodies = [bytes([number % 256]) * size for number, size in enumerate((1, 1000, 300_000) * 20)]
    assert sorted(publish_from_threads(connection, queue, bodies)) == sorted(bodies * 4)


def test_the_same_over_tls(broker: Broker, opened: Opened, tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    authority.write_text(broker.ca_pem or "")
    assert broker.tls_port
    to = Host(broker.host, broker.tls_port, broker.user, broker.password)
    connection = opened(to, ssl=True, ssl_options={"cafile": str(authority)})
    name = unique("queue")
    connection.declare_queue(Queue(name, exclusive=True))
    # Bodies larger than a record: no descriptor shows what the session holds.
    bodies = [bytes([number]) * size for number, size in enumerate((1, 1000, 100_000) * 10)]
    assert sorted(publish_from_threads(connection, name, bodies)) == sorted(bodies * 4)
    with pytest.raises(UnroutableError):
        connection.publish_confirmed(Message(b"", "", "nowhere"), LIMIT)


# -- a peer that reads nothing -------------------------------------------------


def fill(sock: socket.socket) -> bytes:
    """Send heartbeats until nothing moves any more; returns the rest of the last one."""
    unit = HEARTBEAT_FRAME * 1000
    rest = b""
    quiet = 0
    while quiet < 5:
        try:
            rest = rest or unit
            rest = rest[sock.send(rest) :]
            quiet = 0
        except BlockingIOError:
            # The kernel moves bytes on to the other end, for as long as that takes them.
            quiet += 1
            time.sleep(0.05)
    return rest[: len(rest) % len(HEARTBEAT_FRAME)]


def test_what_was_not_begun_may_be_sent_later(
    relay: Relay, opened: Callable[..., Connection]
) -> None:
    connection = opened(relay.host)
    name = unique("queue")
    connection.declare_queue(Queue(name, exclusive=True))
    relay.hold()
    stream: Any = connection._stream  # type: ignore[attr-defined]
    sock = stream._sock
    rest = fill(sock)
    for _ in range(2):
        with pytest.raises(BrokerBlockedError, match="nothing was sent"):
            connection.publish(Message(b"", "", name), 0.2)
    assert connection.is_open
    relay.pass_on()
    wait_until(lambda: wait_writable(sock.fileno(), 0.1), LIMIT)
    sock.send(rest)
    connection.publish(Message(b"one", "", name), LIMIT)
    connection.publish_confirmed(Message(b"two", "", name), LIMIT)
    # Over two channels, between which there is no order.
    got: list[bytes] = []
    connection.consume(name, lambda delivery: got.append(delivery.body), acknowledged=False)
    wait_until(lambda: connection.drain(0.1) or len(got) >= 2, LIMIT)
    assert sorted(got) == [b"one", b"two"]
    assert connection.delete_queue(name) == 0


def test_a_frame_that_was_torn_ends_the_connection(
    relay: Relay, opened: Callable[..., Connection]
) -> None:
    connection = opened(relay.host)
    relay.hold()
    started = time.monotonic()
    with pytest.raises(ConnectionLostError, match="only a part of a frame"):
        connection.publish(Message(b"x" * 50_000_000, "", "anywhere"), 0.5)
    assert time.monotonic() - started < LIMIT
    assert not connection.is_open
    with pytest.raises(ConnectionLostError, match="only a part of a frame"):
        connection.publish(Message(b"", "", "anywhere"))


# -- opening -------------------------------------------------------------------


@contextlib.contextmanager
def listener(said: bytes) -> Iterator[Host]:
    """A server that sends `said`, byte by byte, and nothing more."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def talk() -> None:
            with contextlib.suppress(OSError):
                client, _ = listening.accept()
                with client:
                    for byte in said:
                        client.sendall(bytes([byte]))
                        time.sleep(0.05)
                    client.recv(1 << 20)
                    client.recv(1 << 20)

        thread = threading.Thread(target=talk, daemon=True)
        thread.start()
        yield Host("127.0.0.1", listening.getsockname()[1])


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (b"", "does not answer"),
        (b"\x01\x00\x00\x00\x00\x0f\xff" + b"\x00" * 4000, "does not answer"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "AMQP"),
    ],
    ids=["silent", "in drops", "not AMQP"],
)
def test_a_handshake_has_a_limit(said: bytes, told: str) -> None:
    with listener(said) as to:
        started = time.monotonic()
        with pytest.raises(ConnectError, match=told) as refused:
            kombu.connect(to, AmqpOptions(handshake_timeout=0.5), time.monotonic() + 1.0)
    assert time.monotonic() - started < LIMIT
    assert not refused.value.final


# -- a forked child ------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:[\\s\\S]*fork\\(\\):DeprecationWarning")
def test_a_forked_child_is_refused_and_says_nothing_on_the_wire(
    connection: Connection, queue: str
) -> None:
    attempts: dict[str, Callable[[], object]] = {
        "publish": lambda: connection.publish(Message(b"child's", "", queue), 1.0),
        "drain": lambda: connection.drain(1.0),
        "ask": lambda: connection.queue_exists(queue),
    }
    for name, attempt in attempts.items():
        child = os.fork()
        if child == 0:
            # Nothing of pytest's may run in here, whatever happens.
            code = 1
            try:
                attempt()
            except ConnectionLostError as error:
                connection.wake()
                connection.close()
                code = 0 if "fork" in str(error) and not connection.is_open else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, name
    connection.publish_confirmed(Message(b"parent's", "", queue), LIMIT)
    assert connection.delete_queue(queue) == 1
