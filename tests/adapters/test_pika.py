"""pika on the real broker."""

from __future__ import annotations

import asyncio
import collections
import gc
import os
import select
import socket
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pika
import pytest
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.adapters.utils.io_services_utils import _AsyncSSLTransport
from pika.exceptions import AMQPConnectionError, AMQPError, ConnectionClosedByClient

import hbshim
from hbshim.adapters.pika import heartbeat as adapter
from hbshim.adapters.pika.heartbeat import BlockingConnection
from hbshim.errors import AttachError, OptionError, UnsupportedVersionError, WorkerError
from hbshim.heartbeat.link import Link
from hbshim.heartbeat.state import State
from tests.concurrency import MODEL
from tests.waiting import wait_until
from wsgi_harness.stack.broker import Broker


@pytest.fixture
def connect(
    broker: Broker,
) -> Iterator[Callable[..., BlockingConnection | pika.BlockingConnection | None]]:
    opened = []

    def open_connection(
        kind: type[BlockingConnection] | type[pika.BlockingConnection] = pika.BlockingConnection,
        **query: Any,
    ) -> BlockingConnection | pika.BlockingConnection:
        url = broker.amqp_url(**{"heartbeat": 1, **query})
        connection = kind(pika.URLParameters(url))
        opened.append(connection)
        return connection

    yield open_connection
    for connection in opened:
        if connection.is_open:
            connection.close()


def link_of(connection: BlockingConnection | pika.BlockingConnection) -> Any:
    return getattr(connection._impl._heartbeat_checker, "_link", None)


def use(connection: BlockingConnection | pika.BlockingConnection) -> None:
    connection.channel().queue_declare("", exclusive=True)


def test_keep_alive_sends_heartbeats(
    connect: Callable[..., BlockingConnection | pika.BlockingConnection | None],
) -> None:
    connection = connect()
    assert hbshim.keep_alive(connection) is connection
    wait_until(lambda: link_of(connection).heartbeats_sent >= 3)
    use(connection)


def test_install_reaches_connections_opened_from_now_on(
    connect: Callable[..., BlockingConnection | pika.BlockingConnection | None],
) -> None:
    before = connect()
    hbshim.install()
    after = connect()
    hbshim.uninstall()
    later = connect()
    kept = [link_of(c) is not None for c in (before, after, later)]
    assert kept == [False, True, False]


def test_options_in_the_url_are_accepted_and_checked(
    connect: Callable[..., BlockingConnection | pika.BlockingConnection | None],
) -> None:
    hbshim.install()
    assert link_of(connect(heartbeat_in_pthread="true")) is not None
    connection = connect(adapter.BlockingConnection, heartbeat_in_pthread="true")
    assert link_of(connection) is not None
    with pytest.raises(OptionError, match="worker='fiber'"):
        connect(adapter.BlockingConnection, hbshim_worker="fiber")


def test_the_stand_in_with_callbacks_needs_no_install(broker: Broker) -> None:
    def wait_for_heartbeats() -> None:
        if connection._heartbeat_checker._link.heartbeats_sent >= 2:
            connection.close()
        else:
            connection.ioloop.call_later(0.05, wait_for_heartbeats)

    ended = []
    connection = hbshim.pika.SelectConnection(
        broker.amqp_url(heartbeat=1, heartbeat_in_pthread="true"),
        on_open_callback=lambda _: wait_for_heartbeats(),
        on_open_error_callback=lambda c, error: (ended.append(error), c.ioloop.stop()),
        on_close_callback=lambda c, error: (ended.append(error), c.ioloop.stop()),
        liveness_timeout=60,
    )
    connection.ioloop.start()
    connection.ioloop.close()
    assert [type(error) for error in ended] == [ConnectionClosedByClient]
    assert connection.params.heartbeat == 1


def test_the_options_of_a_stand_in_are_checked_before_it_connects() -> None:
    with pytest.raises(OptionError, match="heartbeat_in_pthread='perhaps'"):
        hbshim.pika.SelectConnection("amqp://nowhere/?heartbeat_in_pthread=perhaps")
    with pytest.raises(OptionError, match="strip_polling"):
        hbshim.pika.SelectConnection("amqp://nowhere/", strip_polling=True)


def test_the_stand_in_takes_a_url_and_keywords(broker: Broker) -> None:
    connection = adapter.BlockingConnection(
        broker.amqp_url(heartbeat=1, heartbeat_in_pthread="false"), heartbeat_in_pthread=True
    )
    wait_until(lambda: link_of(connection).heartbeats_sent >= 2)
    use(connection)
    connection.close()


def test_a_select_connection_is_kept_alive_from_its_tuning(broker: Broker) -> None:
    hbshim.install()
    done = []

    def opened(connection: Any) -> None:
        link = connection._heartbeat_checker._link
        connection.ioloop.call_later(0.1, lambda: wait_and_close(connection, link))

    def wait_and_close(connection: Any, link: Link) -> None:
        # The I/O loop stands still here, as in a callback that takes long.
        wait_until(lambda: link.heartbeats_sent >= 4)
        done.append(link)
        connection.close()

    connection = pika.SelectConnection(
        pika.URLParameters(broker.amqp_url(heartbeat=1)),
        on_open_callback=opened,
        on_close_callback=lambda connection, _reason: connection.ioloop.stop(),
    )
    connection.ioloop.start()
    connection.ioloop.close()
    assert done[0].state is State.CLOSED


@pytest.mark.skipif(MODEL != "native", reason="asyncio runs on an unpatched library")
def test_a_connection_whose_event_loop_is_closed_is_kept_alive_no_longer(broker: Broker) -> None:
    """Nothing can use it, and the broker would keep its messages for it."""
    loop = asyncio.new_event_loop()
    opened: list[Any] = []
    hbshim.install()
    try:
        connection = AsyncioConnection(
            pika.URLParameters(broker.amqp_url(heartbeat=1)),
            on_open_callback=opened.append,
            custom_ioloop=loop,
        )

        async def until_open() -> None:
            while not opened:
                await asyncio.sleep(0.01)

        loop.run_until_complete(asyncio.wait_for(until_open(), 30))
        link = connection._heartbeat_checker._link
        wait_until(lambda: link.heartbeats_sent)  # they need no loop that runs
        loop.close()
        wait_until(lambda: link.state is State.CLOSED)
        connection._transport._sock.close()
    finally:
        hbshim.uninstall()


def test_process_data_events_of_existing_code_goes_on_working(
    connect: Callable[..., BlockingConnection | pika.BlockingConnection | None],
) -> None:
    connection = hbshim.keep_alive(connect())
    link = link_of(connection)
    wait_until(
        lambda: (connection.process_data_events(time_limit=0), link.heartbeats_sent >= 6)[1], 15
    )
    use(connection)


def test_pikas_own_timers_are_gone(
    connect: Callable[..., BlockingConnection | pika.BlockingConnection | None],
) -> None:
    connection = connect()
    checker = connection._impl._heartbeat_checker
    hbshim.keep_alive(connection)
    assert checker._send_timer is None
    assert checker._check_timer is None
    assert not connection._impl._heartbeat_checker.connection_is_idle


def test_a_closed_connection_leaves_no_link_behind(
    connect: Callable[..., BlockingConnection | pika.BlockingConnection | None],
) -> None:
    connection = hbshim.keep_alive(connect())
    link = link_of(connection)
    connection.close()
    assert link.state is State.CLOSED
    gone = weakref.ref(link)
    del link, connection
    connect().close()
    gc.collect()
    assert gone() is None


def test_a_connection_that_is_not_open_says_what_to_do(
    connect: Callable[..., BlockingConnection | pika.BlockingConnection | None],
) -> None:
    connection = connect()
    connection.close()
    with pytest.raises(AttachError, match="attach it after it has opened"):
        hbshim.keep_alive(connection)


def test_a_connection_without_heartbeat_says_what_to_do(
    connect: Callable[..., BlockingConnection | pika.BlockingConnection | None],
) -> None:
    with pytest.raises(AttachError, match="open it with heartbeat=60"):
        hbshim.keep_alive(connect(heartbeat=0))


@pytest.mark.parametrize("version", ["1.2.1", "2.0.0b1"])
def test_an_unknown_version_is_an_error_and_not_a_silent_no_op(
    connect: Callable[..., BlockingConnection | pika.BlockingConnection | None],
    monkeypatch: pytest.MonkeyPatch,
    version: str,
) -> None:
    connection = connect()
    monkeypatch.setattr(pika, "__version__", version)
    with pytest.raises(UnsupportedVersionError, match=r"\(pika>=1.3,<2\)"):
        hbshim.keep_alive(connection)


def test_a_connection_whose_worker_cannot_run_is_left_as_it_was(
    connect: Callable[..., BlockingConnection | pika.BlockingConnection | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connection = connect()

    def refuse(*_args: object, **_keywords: object) -> NoReturn:
        raise WorkerError("no thread")

    before = dict(vars(connection._impl._transport))
    monkeypatch.setattr("hbshim.heartbeat.service.HeartbeatService.watch", refuse)
    with pytest.raises(WorkerError):
        hbshim.keep_alive(connection)
    assert vars(connection._impl._transport) == before
    connection.channel()


def test_frames_that_wait_for_their_first_byte_do_not_hold_up_the_heartbeats(
    connect: Callable[..., BlockingConnection | pika.BlockingConnection | None],
) -> None:
    """A hub that is blocked between a publish and the poll that would send it."""
    connection = hbshim.keep_alive(connect())
    channel = connection.channel()
    queue = channel.queue_declare("", exclusive=True).method.queue
    # The connection beneath buffers, and leaves sending to its I/O loop.
    channel._impl.basic_publish("", queue, b"x" * 1000)
    assert connection._impl._transport._tx_buffers
    heartbeats = link_of(connection).heartbeats_sent
    wait_until(lambda: link_of(connection).heartbeats_sent >= heartbeats + 6)
    wait_until(lambda: channel.queue_declare(queue, passive=True).method.message_count == 1)


def test_a_frame_begun_holds_them_up(
    connect: Callable[..., BlockingConnection | pika.BlockingConnection | None],
) -> None:
    connection = hbshim.keep_alive(connect())
    transport = connection._impl._transport
    transport._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    for _ in range(200):
        transport._tx_buffers.append(b"\x08\x00\x00\x00\x00\x00\x00\xce" * 10_000)
        transport._tx_buffered_byte_count += 80_000
    with pytest.raises(BlockingIOError):
        transport._produce()
    link = link_of(connection)
    assert link._half_written()
    while transport._tx_buffers:
        try:
            transport._produce()
        except BlockingIOError:
            select.select([], [transport._sock], [], 10)
    assert not link._half_written()


def test_heartbeats_of_the_broker_do_not_extend_a_timeout(
    connect: Callable[..., BlockingConnection | pika.BlockingConnection | None],
) -> None:
    connection = hbshim.keep_alive(connect())
    channel = connection.channel()
    queue = channel.queue_declare("", exclusive=True).method.queue
    began = time.monotonic()
    connection.process_data_events(time_limit=1.2)
    assert next(channel.consume(queue, inactivity_timeout=1.2)) == (None, None, None)
    assert 2.4 <= time.monotonic() - began < 20


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_exception_between_the_send_and_its_record_sends_nothing_twice(
    connect: Callable[..., BlockingConnection | pika.BlockingConnection | None],
    events: Callable[..., Any],
    error: type[Exception],
) -> None:
    """pika keeps a frame in its buffer until it has recorded that the frame is out."""
    queue = f"test-torn-{os.getpid()}-{error.__name__}"
    check = connect().channel()
    check.queue_declare(queue, auto_delete=False)
    connection = hbshim.keep_alive(connect())
    channel = connection.channel()
    transport = connection._impl._transport
    link = link_of(connection)
    stock = transport._sigint_safe_send

    def interrupted(sock: socket.socket, data: bytes) -> None:
        stock(sock, data)
        raise error

    transport._sigint_safe_send = interrupted
    with pytest.raises((error, AMQPConnectionError)):
        channel.basic_publish("", queue, b"body")
    del transport._sigint_safe_send
    assert link.state is State.LOST
    assert "write-broken-off" in events()
    with pytest.raises(AMQPError):
        channel.basic_publish("", queue, b"body")
    # What went out is the whole message, once.
    wait_until(lambda: check.queue_declare(queue, passive=True).method.message_count)
    assert check.queue_delete(queue).method.message_count == 1


def test_an_exception_between_the_frames_of_a_message_ends_the_connection(
    connect: Callable[..., BlockingConnection | pika.BlockingConnection | None],
    events: Callable[..., Any],
) -> None:
    connection = hbshim.keep_alive(connect())
    channel = connection.channel()
    transport = connection._impl._transport
    stock = transport.write
    written: list[Any] = []

    def interrupted(data: bytes) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(data)
        stock(data)

    transport.write = interrupted
    with pytest.raises(KeyboardInterrupt):
        channel.basic_publish("", "nowhere", b"body")
    del transport.write
    assert "write-broken-off" in events()
    with pytest.raises(AMQPError):
        channel.basic_publish("", "nowhere", b"body")


def test_actions_that_pika_has_stored_follow_the_methods_they_were_taken_from() -> None:
    transport = object.__new__(_AsyncSSLTransport)
    own = {name: getattr(transport, name) for name in ("_consume", "_produce")}
    transport._ssl_readable_action = own["_produce"]  # as while it waits to be able to write
    transport._ssl_writable_action = own["_produce"]
    for _ in range(2):  # what was interrupted is completed
        adapter._replace_method(transport, "_produce", own["_produce"], len)
        adapter._replace_method(transport, "_consume", own["_consume"], max)
    assert transport._ssl_readable_action is transport._ssl_writable_action is len
    assert transport._produce is len
    for _ in range(2):
        adapter._restore_method(transport, "_produce", own["_produce"], len)
        adapter._restore_method(transport, "_consume", own["_consume"], max)
    assert transport._ssl_readable_action == transport._ssl_writable_action == own["_produce"]
    assert transport._consume == own["_consume"]


@pytest.mark.parametrize(("size", "sends"), [(1024, 1), (50_000, 3)])
def test_the_frames_of_a_small_message_are_sent_together(
    connect: Callable[..., BlockingConnection | pika.BlockingConnection | None],
    size: int,
    sends: int,
) -> None:
    connection = hbshim.keep_alive(connect())
    channel = connection.channel()
    queue = channel.queue_declare("", exclusive=True).method.queue
    transport = connection._impl._transport
    stock, sent = transport._sigint_safe_send, []

    def count(sock: socket.socket, data: bytes) -> int:
        sent.append(len(data))
        return stock(sock, data)

    transport._sigint_safe_send = count
    channel.basic_publish("", queue, b"x" * size)
    del transport._sigint_safe_send
    assert len(sent) == sends
    assert transport._tx_buffered_byte_count == 0
    body = []
    wait_until(lambda: body.append(channel.basic_get(queue, auto_ack=True)[2]) or body[-1])
    assert body[-1] == b"x" * size


class Buffers(collections.deque[bytes]):
    """Of which another thread appends a frame behind any call that changes it."""

    late: tuple[bytes, ...] = (b"4", b"5", b"6", b"7", b"8", b"9")

    def _changed(self) -> None:
        if self.late:
            super().append(self.late[0])
            self.late = self.late[1:]

    def popleft(self) -> bytes:
        first = super().popleft()
        self._changed()
        return first

    def clear(self) -> None:
        super().clear()
        self._changed()


def test_a_frame_that_another_thread_buffers_meanwhile_keeps_its_place(
    connect: Callable[..., BlockingConnection | pika.BlockingConnection | None],
) -> None:
    """As pika itself sends it, against its own rules."""
    connection = connect()
    transport = connection._impl._transport
    transport._tx_buffers = Buffers([b"1", b"2", b"3"])
    transport._tx_buffered_byte_count = 9
    hbshim.keep_alive(connection)
    link_of(connection).guard.unsent = False
    sent = []

    def send(_sock: object, data: bytes) -> int:
        sent.append(data)
        return len(data)

    transport._sigint_safe_send = send
    transport._produce()
    del transport._sigint_safe_send
    assert b"".join(sent) == b"123456789"
    assert sent[0] == b"123"
    transport._tx_buffers = collections.deque()
    connection.close()
