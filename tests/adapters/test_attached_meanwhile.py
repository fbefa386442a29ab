"""keep_alive() while another thread is inside a read or a write of the connection.

Such a call has passed neither the guard nor the lock of the TLS session: no heartbeat is sent, and
none is taken off, before it has ended.
"""

from __future__ import annotations

import contextlib
import functools
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import amqp
import kombu
import pika
import pytest

import hbshim
from hbshim.adapters import earlier_calls
from hbshim.adapters.sockets import native_socket
from hbshim.heartbeat import service
from hbshim.heartbeat.link import Link
from hbshim.runtime.stacks import Call, Stacks, escaped
from tests.adapters.connecting import connect_pika
from tests.concurrency import needs_os_threads
from tests.waiting import wait_until
from wsgi_harness.stack.broker import Broker

pytestmark = needs_os_threads

#: T in seconds: nothing is due in a test unless it says so.
T = 600


class Inside:
    """Stands before a function, and holds its callers there until they may go on."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.held = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, *arguments: Any) -> Any:
        self.held.set()
        assert self.go_on.wait(60)
        return self._function(*arguments)


class Watched:
    """Takes the place of an SSL object, and counts who comes while another thread is inside."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.inside: list[str] = []
        self.overlaps: list[tuple[str, ...]] = []
        self.holding = False
        self.go_on = threading.Event()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        return (
            (lambda *arguments: self._call(name, found, *arguments)) if callable(found) else found
        )

    def _call(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        self.inside.append(name)
        try:
            if len(self.inside) > 1:
                self.overlaps.append(tuple(self.inside))
            if self.holding:
                self.holding = False  # only this caller
                assert self.go_on.wait(60)
            return function(*arguments)
        finally:
            self.inside.remove(name)


class Client:
    """A connection to the broker that is not kept alive yet, and its queue."""

    def __init__(self, broker: Broker, library: str, ca_file: str | None) -> None:
        port = broker.amqp_port if ca_file is None else broker.tls_port
        self.library = library
        self.received = 0
        if library == "pika":
            self.connection: Any = connect_pika(broker, T, ca_file)
            self.transport: Any = self.connection._impl._transport
            self.channel = self.connection.channel()
            self.queue = self.channel.queue_declare("", exclusive=True).method.queue
            self.sock = self.transport._sock
            return
        self.connection = kombu.Connection(
            hostname=broker.host,
            port=port,
            userid=broker.user,
            password=broker.password,
            heartbeat=T,
            ssl=ca_file is not None and {"ca_certs": ca_file},
        )
        self.connection.connect()
        amqp_connection = self.connection.connection
        if library == "amqp":
            self.connection = amqp_connection
        self.transport = amqp_connection.transport
        self.channel = amqp_connection.channel()
        self.queue = self.channel.queue_declare("", exclusive=True).queue
        self.sock = self.transport.sock

    def subscribe(self) -> None:
        def on_message(*_arguments: Any) -> None:
            self.received += 1

        if self.library == "pika":
            self.channel.basic_consume(self.queue, on_message, auto_ack=True)
        else:
            self.channel.basic_consume(self.queue, callback=on_message, no_ack=True)

    def receive(self, count: int) -> None:
        """Wait in the library's blocking call until so many messages have arrived."""
        while self.received < count:
            if self.library == "pika":
                self.connection.process_data_events(time_limit=None)
            else:
                self.connection.drain_events()

    def publish(self, message: Any = None) -> None:
        if self.library == "pika":
            self.channel.basic_publish("", self.queue, b"published")
        else:
            self.channel.basic_publish(
                message or amqp.Message(b"published"), routing_key=self.queue
            )

    def watch_session(self) -> Watched:
        watched = Watched(self.sock._sslobj)
        self.sock._sslobj = watched
        return watched

    def keep_alive(self) -> Link:
        """Keep it alive; from now on a heartbeat is due at each check."""
        hbshim.keep_alive(self.connection, worker="pthread")
        native = native_socket(self.sock)
        (link,) = (found for found in service.current().links() if found.wire.native is native)
        view = link.wire.kernel_view
        link.wire.kernel_view = lambda: view()._replace(
            sent_ago=T, received_ago=0, queued=0, in_flight=0
        )
        return link

    def close(self) -> None:
        with contextlib.suppress(Exception):
            (self.connection.release if self.library == "kombu" else self.connection.close)()


def sent_by(link: Link, checks: int = 5) -> int:
    """Check the link as an engine does; return how many heartbeats it has sent."""
    for _ in range(checks):
        link.check(time.monotonic())
    return link.heartbeats_sent


@pytest.fixture
def ca_file(broker: Broker, tmp_path: Path) -> str:
    assert broker.read_ca is not None
    file = tmp_path / "ca.pem"
    file.write_text(broker.read_ca())
    return str(file)


@pytest.fixture
def connect(broker: Broker) -> Iterator[Callable[..., Client]]:
    with contextlib.ExitStack() as stack:

        def connect(library: str, ca_file: str | None = None) -> Client:
            client = Client(broker, library, ca_file)
            stack.callback(client.close)
            return client

        yield connect


@contextlib.contextmanager
def running(client: Client, function: Callable[..., object], *arguments: Any) -> Iterator[None]:
    """Run `function` of `client` in another thread; it must have returned at the end."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            function(*arguments)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    except BaseException:
        native_socket(client.sock).shutdown(socket.SHUT_RDWR)  # or closing waits for the thread
        raise
    thread.join(60)
    assert not thread.is_alive()
    assert errors == []


def check_nothing_is_sent_beside(inside: Inside, client: Client, *message: Any) -> None:
    """Publish, and keep the connection alive while that is held `inside`."""
    with running(client, client.publish, *message):
        assert inside.held.wait(60)
        link = client.keep_alive()
        assert sent_by(link) == 0
        inside.go_on.set()
    assert sent_by(link) > 0


def check_what_is_sent_when_reads_have_ended(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that heartbeats begin when no read can last any longer, and not before."""
    assert sent_by(link) == 0
    later = time.monotonic() + earlier_calls.READS_END * T
    with monkeypatch.context() as patch:
        patch.setattr(earlier_calls, "time", SimpleNamespace(monotonic=lambda: later))
        assert sent_by(link) > 0


def publish_to(broker: Broker, queue: str) -> None:
    with pika.BlockingConnection(pika.URLParameters(broker.amqp_url(heartbeat=0))) as connection:
        connection.channel().basic_publish("", queue, b"published")


def test_install_need_not_look(connect: Callable[..., Client], monkeypatch: Any) -> None:
    """No other thread has the connection, and to look takes long where there are many threads."""

    def look() -> None:
        pytest.fail("looked for earlier calls")

    monkeypatch.setattr(earlier_calls, "stacks", look)
    hbshim.install()
    before = len(service.current().links())
    clients = [connect(library) for library in ("amqp", "kombu", "pika")]
    assert len(service.current().links()) == before + len(clients)


def test_a_read_that_began_earlier_is_not_waited_for_longer_than_it_can_last(
    broker: Broker, connect: Callable[..., Client], ca_file: str, monkeypatch: Any
) -> None:
    """It is that of another connection, which looks the same."""
    other, client = connect("amqp", ca_file), connect("amqp", ca_file)
    other.subscribe()
    inside = Inside(other.transport._read)
    other.transport._read = inside
    with running(other, other.receive, 1):
        assert inside.held.wait(60)
        check_what_is_sent_when_reads_have_ended(client.keep_alive(), monkeypatch)
        publish_to(broker, other.queue)
        inside.go_on.set()


@pytest.mark.parametrize("because", ["threads", "object"])
def test_a_call_that_may_be_missed_is_assumed_for_as_long_as_a_read_can_last(
    connect: Callable[..., Client], monkeypatch: Any, because: str
) -> None:
    """There are too many threads, or an object of another tool stands before the function."""
    client, go = connect("amqp"), threading.Event()
    others = [
        threading.Thread(target=go.wait, daemon=True)
        for _ in range(101 if because == "threads" else 0)
    ]
    for each in others:
        each.start()
    if because == "object":
        client.transport.write = functools.partial(client.transport.write)
        client.connection._frame_writer = functools.partial(client.connection._frame_writer)
    check_what_is_sent_when_reads_have_ended(client.keep_alive(), monkeypatch)
    go.set()
    for each in others:
        each.join()


def test_a_thread_that_is_not_found_any_more_may_still_be_inside(monkeypatch: Any) -> None:
    """Faulthandler lists the youngest threads, and others have started since."""

    def function() -> None: ...

    found = Stacks({1: [Call(escaped(__file__), 1, "function")]})
    found.complete = True
    monkeypatch.setattr(earlier_calls, "stacks", lambda: found)
    calls = earlier_calls.EarlierCalls([], [function], T, one_session=False)
    calls.find()
    assert calls.writing()
    found = Stacks({2: [Call("other", 1, "other")]})
    assert calls.writing()
    found.complete = True
    assert not calls.writing()


@pytest.mark.parametrize("library", ["amqp", "kombu"])
def test_a_heartbeat_does_not_enter_a_session_beside_a_read_that_waits_there(
    broker: Broker, connect: Callable[..., Client], ca_file: str, library: str
) -> None:
    client = connect(library, ca_file)
    client.subscribe()
    watched = client.watch_session()
    with running(client, client.receive, 2):
        wait_until(lambda: watched.inside == ["read"])
        link = client.keep_alive()
        assert sent_by(link) == 0
        assert link._half_read()
        # As a heartbeat of the broker's would, this lets the thread read through the lock.
        publish_to(broker, client.queue)
        wait_until(lambda: client.received == 1)
        wait_until(lambda: sent_by(link) > 0)
        assert not link._half_read()
        publish_to(broker, client.queue)
    assert watched.overlaps == []


@pytest.mark.parametrize("library", ["amqp", "pika"])
def test_a_heartbeat_does_not_enter_a_session_beside_a_read_of_available_data(
    broker: Broker, connect: Callable[..., Client], ca_file: str, library: str
) -> None:
    client = connect(library, ca_file)
    client.subscribe()
    watched = client.watch_session()
    watched.holding = True
    with running(client, client.receive, 1):
        publish_to(broker, client.queue)
        wait_until(lambda: "read" in watched.inside)
        link = client.keep_alive()
        assert sent_by(link) == 0
        watched.go_on.set()
    assert sent_by(link) > 0
    assert watched.overlaps == []


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("library", ["amqp", "kombu", "pika"])
def test_no_heartbeat_is_sent_inside_a_write_that_began_earlier(
    connect: Callable[..., Client], ca_file: str, library: str, tls: bool
) -> None:
    client = connect(library, ca_file if tls else None)
    name = "_sigint_safe_send" if library == "pika" else "_write"
    inside = Inside(getattr(client.transport, name))
    setattr(client.transport, name, inside)
    check_nothing_is_sent_beside(inside, client)
    client.subscribe()
    client.receive(1)


def test_no_heartbeat_is_sent_beside_a_frame_writer_that_began_earlier(
    connect: Callable[..., Client],
) -> None:
    # It has the transport's own `write`, and calls it after the guard was put in place.
    client = connect("amqp")
    message = amqp.Message(b"published")
    inside = Inside(message._serialize_properties)
    message._serialize_properties = inside
    check_nothing_is_sent_beside(inside, client, message)


def test_a_signal_handler_that_has_interrupted_a_read(
    broker: Broker, connect: Callable[..., Client], ca_file: str
) -> None:
    client = connect("amqp", ca_file)
    client.subscribe()
    sent: list[int] = []

    def on_alarm(*_arguments: Any) -> None:
        link = client.keep_alive()
        sent.append(sent_by(link))
        links.append(link)
        publish_to(broker, client.queue)

    links: list[Link] = []
    before = signal.signal(signal.SIGALRM, on_alarm)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        client.receive(1)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert sent == [0]
    assert sent_by(links[0]) > 0
