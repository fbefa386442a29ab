"""py-amqp on the real broker."""

from __future__ import annotations

import contextlib
import gc
import socket
import time
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NoReturn
from unittest.mock import MagicMock

import amqp
import pytest
from amqp import method_framing, spec
from amqp.exceptions import ConnectionForced

import hbshim
from hbshim.adapters import attachment
from hbshim.adapters.attachment import ATTEMPTS
from hbshim.adapters.pyamqp import heartbeat as adapter
from hbshim.errors import AttachError, OptionError, UnsupportedVersionError, WorkerError
from hbshim.heartbeat.state import State
from hbshim.options import Options
from tests.waiting import wait_until
from wsgi_harness.stack.broker import Broker


@pytest.fixture
def connect(broker: Broker) -> Iterator[Callable[..., amqp.Connection]]:
    opened = []

    def open_connection(**options: Any) -> amqp.Connection:
        connection = amqp.Connection(
            f"{broker.host}:{broker.amqp_port}", broker.user, broker.password, **options
        )
        connection.connect()
        opened.append(connection)
        return connection

    yield open_connection
    for connection in opened:
        if connection.connected:
            connection.close()


def test_keep_alive_sends_heartbeats(
    connect: Callable[..., amqp.Connection],
) -> None:
    connection = connect(heartbeat=1)
    assert hbshim.keep_alive(connection) is connection
    link = connection.transport.hbshim_link
    assert link.timeout == 1.0
    wait_until(lambda: link.heartbeats_sent >= 3)
    connection.channel().queue_declare("", exclusive=True)


def test_install_reaches_connections_opened_from_now_on(
    connect: Callable[..., amqp.Connection],
) -> None:
    before = connect(heartbeat=1)
    hbshim.install()
    after = connect(heartbeat=1)
    hbshim.uninstall()
    later = connect(heartbeat=1)
    kept = [hasattr(c.transport, "hbshim_link") for c in (before, after, later)]
    assert kept == [False, True, False]


def test_a_heartbeat_is_asked_for_only_when_the_user_says_so(
    connect: Callable[..., amqp.Connection], events: Callable[..., Any]
) -> None:
    hbshim.install()
    assert connect().heartbeat == 0
    assert "not-negotiated" in events()
    hbshim.install(heartbeat=2)
    assert connect().heartbeat == 2
    assert connect(heartbeat=1).heartbeat == 1


def test_heartbeat_checks_of_existing_code_become_harmless(
    connect: Callable[..., amqp.Connection],
) -> None:
    connection = hbshim.keep_alive(connect(heartbeat=1))
    link = connection.transport.hbshim_link
    sent = connection.bytes_sent
    # py-amqp itself would raise "Too many heartbeats missed": nothing drains here.
    wait_until(lambda: (connection.heartbeat_tick(rate=2), link.heartbeats_sent >= 6)[1])
    assert connection.bytes_sent == sent
    connection.send_heartbeat()
    connection.channel().queue_declare("", exclusive=True)


def test_a_lost_link_is_reported_through_heartbeat_check_too(
    connect: Callable[..., amqp.Connection],
) -> None:
    connection = hbshim.keep_alive(connect(heartbeat=1))
    connection.transport.hbshim_link.state = State.LOST
    with pytest.raises(ConnectionForced):
        connection.heartbeat_tick()


def test_a_closed_connection_is_as_it_was_before(connect: Callable[..., amqp.Connection]) -> None:
    connection = hbshim.keep_alive(connect(heartbeat=1))
    link = connection.transport.hbshim_link
    connection.close()
    assert link.state is State.CLOSED
    assert "heartbeat_tick" not in vars(connection)
    connection._handshake_complete = False
    connection.channels = {}
    gone = weakref.ref(link)
    del link
    gc.collect()
    assert gone() is None


def test_a_check_without_waiting_finds_what_is_there_and_times_out_otherwise(
    connect: Callable[..., amqp.Connection],
) -> None:
    connection = hbshim.keep_alive(connect(heartbeat=60))
    channel = connection.channel()
    queue = channel.queue_declare("", exclusive=True).queue
    with pytest.raises(TimeoutError):
        connection.drain_events(timeout=0)
    received: list[Any] = []
    channel.basic_consume(queue, callback=received.append, no_ack=True)
    channel.basic_publish(amqp.Message("body"), routing_key=queue)

    def look() -> list[Any]:
        with contextlib.suppress(TimeoutError):
            connection.drain_events(timeout=0)
        return received

    wait_until(look)
    assert received[0].body == "body"


def test_a_check_without_waiting_finds_the_end(connect: Callable[..., amqp.Connection]) -> None:
    connection = hbshim.keep_alive(connect(heartbeat=60))
    connection.transport.sock.shutdown(socket.SHUT_RDWR)
    # "Closed", or "reset" where the broker was quicker; not that nothing is there yet.
    with pytest.raises(OSError, match=r"closed|reset"):
        connection.drain_events(timeout=0)
    connection.collect()


def test_heartbeats_of_the_broker_do_not_extend_a_timeout(
    connect: Callable[..., amqp.Connection],
) -> None:
    """py-amqp waits anew after each frame that is no event; two heartbeats come in the time."""
    connection = hbshim.keep_alive(connect(heartbeat=1))
    channel = connection.channel()
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        connection.drain_events(timeout=1.2)
    with pytest.raises(TimeoutError):
        channel.wait(spec.Basic.Ack, timeout=1.2)
    assert 2.4 <= time.monotonic() - began < 20
    channel.queue_declare("", exclusive=True)


def test_a_message_that_comes_in_parts_extends_a_timeout_as_without_heartbeats(
    connect: Callable[..., amqp.Connection],
) -> None:
    connection = hbshim.keep_alive(connect(heartbeat=60))
    frames = iter([(1, 1, b"method"), (2, 1, b"header"), (3, 1, b"body")])
    handled = []

    def read_frame() -> tuple[int, int, bytes]:
        time.sleep(0.15)
        return next(frames)

    connection.transport.read_frame = read_frame
    connection.on_inbound_frame = lambda frame: (handled.append(frame[0]), frame[0] == 3)[1]
    connection.drain_events(timeout=0.2)
    assert handled == [1, 2, 3]
    connection.collect()


def test_a_drain_of_its_own_is_left_to_a_subclass(broker: Broker) -> None:
    class Own(amqp.Connection):  # type: ignore[misc]
        def drain_events(self, timeout: float | None = None) -> Any:
            return ("own", timeout)

    connection = Own(f"{broker.host}:{broker.amqp_port}", broker.user, broker.password, heartbeat=1)
    Own.drain_events = amqp.Connection.drain_events
    connection.connect()
    Own.drain_events = lambda _self, timeout=None: ("own", timeout)  # type: ignore[assignment]
    hbshim.keep_alive(connection)
    assert connection.drain_events(5) == ("own", 5)
    connection.collect()


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="an option of Linux")
def test_the_kernel_gives_up_no_sooner_than_hbshim(
    connect: Callable[..., amqp.Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    def limit(connection: amqp.Connection) -> int:
        return connection.transport.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)

    connection = connect(heartbeat=3)
    stock = limit(connection)
    hbshim.keep_alive(connection)
    assert (stock, limit(connection)) == (1000, 6000)
    chosen = connect(heartbeat=3, socket_settings={socket.TCP_USER_TIMEOUT: 1000})
    assert limit(hbshim.keep_alive(chosen)) == 1000
    changed = connect(heartbeat=3)
    changed.transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 2500)
    assert limit(hbshim.keep_alive(changed)) == 2500

    def refuse(*_: object) -> NoReturn:
        raise WorkerError("none")

    monkeypatch.setattr(attachment, "watch", refuse)
    refused = connect(heartbeat=3)
    with pytest.raises(WorkerError):
        hbshim.keep_alive(refused)
    assert limit(refused) == 1000


def test_attaching_twice_is_attaching_once(connect: Callable[..., amqp.Connection]) -> None:
    connection = hbshim.keep_alive(connect(heartbeat=1))
    link = connection.transport.hbshim_link
    hbshim.keep_alive(connection)
    assert connection.transport.hbshim_link is link


def test_a_connection_that_is_not_open_says_what_to_do() -> None:
    with pytest.raises(AttachError, match=r"call its connect\(\) first"):
        hbshim.keep_alive(amqp.Connection("localhost"))


def test_a_connection_without_heartbeat_says_what_to_do(
    connect: Callable[..., amqp.Connection],
) -> None:
    with pytest.raises(AttachError, match="open it with heartbeat=60"):
        hbshim.keep_alive(connect())


def test_an_unknown_kind_of_connection_is_named() -> None:
    with pytest.raises(AttachError, match=r"builtins\.dict"):
        hbshim.keep_alive({})


def test_a_bad_option_is_refused_before_anything_is_touched(
    connect: Callable[..., amqp.Connection],
) -> None:
    connection = connect(heartbeat=1)
    with pytest.raises(OptionError):
        hbshim.keep_alive(connection, heartbeat_in_pthread="perhaps")  # type: ignore[arg-type]
    assert not hasattr(connection.transport, "hbshim_link")


@pytest.mark.parametrize("version", ["5.1.1", "6.0.0", "7"])
def test_an_unknown_version_is_an_error_and_not_a_silent_no_op(
    connect: Callable[..., amqp.Connection], monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    connection = connect(heartbeat=1)
    monkeypatch.setattr(amqp, "__version__", version)
    with pytest.raises(UnsupportedVersionError, match=r"install a supported version \(amqp>=5.2"):
        hbshim.keep_alive(connection)


def test_a_missing_inner_structure_is_named(connect: Callable[..., amqp.Connection]) -> None:
    connection = connect(heartbeat=1)

    class Renamed:
        heartbeat = 1
        heartbeat_tick = drain_events = None

    with pytest.raises(UnsupportedVersionError, match="Renamed has no _transport, _frame_writer"):
        adapter.attach(Renamed(), Options())
    assert connection.connected


def test_an_unknown_version_is_left_alone_once_installed(
    connect: Callable[..., amqp.Connection],
    monkeypatch: pytest.MonkeyPatch,
    events: Callable[..., Any],
) -> None:
    monkeypatch.setattr(amqp, "__version__", "6.0")
    hbshim.install()
    connection = connect(heartbeat=1)
    assert not hasattr(connection.transport, "hbshim_link")
    assert "not-kept-alive" in events()
    connection.channel().queue_declare("", exclusive=True)


def test_no_password_in_names_or_events(
    connect: Callable[..., amqp.Connection], broker: Broker
) -> None:
    connection = hbshim.keep_alive(connect(heartbeat=1))
    link = connection.transport.hbshim_link
    kept = [getattr(link, name) for name in type(link).__slots__ if name != "__weakref__"]
    assert link.name in kept
    assert broker.password not in repr(kept)


def test_a_connection_whose_worker_cannot_run_is_left_as_it_was(
    connect: Callable[..., amqp.Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = connect(heartbeat=1)

    def refuse(*_args: object, **_keywords: object) -> NoReturn:
        raise WorkerError("no thread")

    before = dict(vars(connection.transport))
    monkeypatch.setattr("hbshim.heartbeat.service.HeartbeatService.watch", refuse)
    with pytest.raises(WorkerError):
        hbshim.keep_alive(connection)
    vars(connection.transport).pop(ATTEMPTS)
    assert vars(connection.transport) == before
    connection.channel()


def test_a_connection_has_one_frame_buffer(connect: Callable[..., amqp.Connection]) -> None:
    """It is as large as a frame, 128 KiB with RabbitMQ's default: more than all of hbshim's."""
    tracemalloc.start()
    try:
        connection = connect(heartbeat=60)
        assert buffers() > connection.frame_max / 2
        hbshim.keep_alive(connection)
        connection.channel()
        gc.collect()
        assert buffers() < connection.frame_max * 1.5
    finally:
        tracemalloc.stop()


def buffers() -> int:
    """Bytes that py-amqp's frame writers have allocated."""
    only = tracemalloc.Filter(True, method_framing.__file__)
    found = tracemalloc.take_snapshot().filter_traces([only])
    return sum(each.size for each in found.statistics("lineno"))


def test_another_tools_frame_writer_comes_back(connect: Callable[..., amqp.Connection]) -> None:
    connection = connect(heartbeat=60)
    connection.frame_writer = before = MagicMock(wraps=connection.frame_writer)
    hbshim.keep_alive(connection)
    connection.channel()
    assert connection.frame_writer is not before
    connection.close()
    assert connection.frame_writer is before
