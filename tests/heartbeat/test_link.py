"""One link, its socket pair, and what a forked child makes of it."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

import pytest

from hbshim.adapters.sockets import native_socket
from hbshim.heartbeat import wire as wire_module
from hbshim.heartbeat.guard import Guard
from hbshim.heartbeat.link import CHECKS_BETWEEN_DRAINS, Link
from hbshim.heartbeat.state import (
    EARLY,
    Event,
    Sample,
    State,
    classify,
    due_after,
    next_check,
    recheck_after,
)
from hbshim.heartbeat.syscalls import gil_keeping_calls
from hbshim.heartbeat.wire import HEARTBEAT_FRAME, Wire
from hbshim.metrics import Metrics
from tests.concurrency import MODEL
from tests.permits import always
from tests.waiting import wait_until


@pytest.fixture
def link(connected: tuple[socket.socket, socket.socket]) -> Link:
    client, _ = connected
    return Link(Wire(native_socket(client)), 60, "test", Metrics())


def test_what_is_plainly_due_is_due_by_the_table(
    monkeypatch: pytest.MonkeyPatch, link: Link
) -> None:
    """The short path of nearly every heartbeat has no rule of its own."""
    timeout = 8.0
    answered = []
    ages = (0, 3800, 3860, 4000, 7999, 8000, 15999, 16000, 60000)
    for state, unacked, sent, received, unsent in itertools.product(
        range(1, 12), (0, 1), ages, ages, (0, 5)
    ):
        raw = wire_module._TCP_INFO.pack(state, unacked, sent, 0, received, 0, unsent)
        monkeypatch.setattr(wire_module, "_getsockopt", lambda *_, raw=raw: raw)
        plain = link.wire.plainly_idle(due_after(timeout), timeout)
        answered.append(plain)
        if plain:
            view = link.wire.kernel_view()
            sample = Sample(
                view.sent_ago,
                view.received_ago,
                view.acked_ago,
                view.queued,
                view.in_flight,
                unread=0,
                unread_ago=timeout,
                writing=False,
                peer_closed=view.peer_closed,
            )
            event = classify(sample, timeout)
            assert event is Event.DUE
            assert next_check(event, sample, timeout) == timeout / 2
    assert set(answered) == {True, False}


def test_a_writer_inside_keeps_the_short_cut_off_the_wire(
    connected: tuple[socket.socket, socket.socket],
) -> None:
    client, peer = connected
    # A heartbeat of so small a T is due at once.
    link = Link(Wire(native_socket(client)), 2 * EARLY, "test", Metrics())
    peer.sendall(HEARTBEAT_FRAME)
    gate = link.guard.writers
    assert gate.try_acquire()
    gate.release()
    link.guard.around_send(lambda _: link.check(0.0), lambda: None, lambda _: False)(b"")
    assert link.heartbeats_sent == 0
    peer.sendall(HEARTBEAT_FRAME)
    link.check(0.0)
    assert link.heartbeats_sent == 1
    assert peer.recv(100) == HEARTBEAT_FRAME


def enter(guard: Guard) -> None:
    guard.writers.inside.add("a client")


def write(guard: Guard) -> None:
    guard.around_send(lambda _: None, lambda: None, lambda _: True)(b"")


@pytest.mark.parametrize("act", [enter, write, Guard.close])
def test_the_short_cut_sends_nothing_once_a_client_has_acted(
    connected: tuple[socket.socket, socket.socket],
    monkeypatch: pytest.MonkeyPatch,
    act: Callable[..., Any] | Callable[[Guard], None],
) -> None:
    """Between the answer of the kernel and the call that sends."""
    client, peer = connected
    link = Link(Wire(native_socket(client)), 2 * EARLY, "test", Metrics())
    peer.sendall(HEARTBEAT_FRAME)
    link._checks = 0
    idle = link.wire.plainly_idle

    def idle_and_then(*arguments: float) -> bool:
        answer = idle(*arguments)
        act(link.guard)
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(link.wire, "plainly_idle", idle_and_then)
        guard = link.guard
        due = due_after(link.timeout)
        assert not link.wire.send_if_idle(due, link.timeout, guard, guard.last_write)
    peer.setblocking(False)
    with pytest.raises(BlockingIOError):
        peer.recv(1)


def test_the_short_cut_sends_nothing_once_a_client_has_written_after_it_asked_for_its_buffer(
    connected: tuple[socket.socket, socket.socket],
) -> None:
    """The write may have left the rest of a frame in that buffer."""
    client, peer = connected

    def nothing_buffered() -> bool:
        write(own.guard)
        return False

    own = Link(
        Wire(native_socket(client)), 2 * EARLY, "test", Metrics(), half_written=nothing_buffered
    )
    peer.sendall(HEARTBEAT_FRAME)
    own._checks = 0
    assert not own._send_quickly(0.0)
    assert own.heartbeats_sent == 0


def outcome_in_child(action: Callable[..., Any]) -> int:
    """The exit status of a forked child that does this; a child that hangs is ended."""
    pid = os.fork()
    if not pid:
        signal.alarm(10)
        os._exit(action())
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


@pytest.mark.parametrize("drains", [False, True], ids=["short-cut", "table"])
def test_a_heartbeat_that_could_not_be_sent_is_tried_again_soon(
    connected: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch, drains: bool
) -> None:
    client, peer = connected
    link = Link(Wire(native_socket(client)), 2 * EARLY, "test", Metrics())
    link._checks = CHECKS_BETWEEN_DRAINS - 1 if drains else 0
    monkeypatch.setattr(link.wire, "send_heartbeat", lambda _: False)
    monkeypatch.setattr(link.wire, "send_if_idle", lambda *_: False)
    peer.sendall(HEARTBEAT_FRAME)
    assert link.check(0.0) == recheck_after(link.timeout) < link.timeout / 2
    assert link.heartbeats_sent == 0
    monkeypatch.undo()
    peer.sendall(HEARTBEAT_FRAME)
    link.check(0.0)
    assert link.heartbeats_sent == 1


@pytest.mark.skipif(MODEL != "native", reason="forks beside a native thread")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_child_forked_in_the_middle_of_a_check_is_refused_its_write(link: Link) -> None:
    def write() -> int:
        try:
            link.before_idle_write()
        except ConnectionError:
            return 42 if link.state is State.ORPHANED and link.wire.closed else 43
        return 44

    taken, let_go = threading.Event(), threading.Event()

    def look() -> None:
        assert link.guard.writers.try_acquire()
        link.guard.writers._acting.add(taken)
        taken.set()
        let_go.wait(30)
        link.guard.writers._acting.discard(taken)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        assert taken.wait(10)
        # In the child that thread is gone, and whatever it held stays held.
        assert outcome_in_child(write) == 42
    finally:
        let_go.set()
        looking.join()
    assert link.state is State.ALIVE
    link.before_idle_write()


def test_a_descriptor_closed_behind_the_connections_back_ends_the_heartbeats(
    connected: tuple[socket.socket, socket.socket],
) -> None:
    client, _ = connected
    metrics = Metrics()
    copy = socket.socket(fileno=os.dup(client.fileno()))
    link = Link(Wire(native_socket(copy)), 2 * EARLY, "test", metrics)
    ours, other = socket.socketpair()
    with ours, other:
        os.dup2(ours.fileno(), copy.fileno())
        for _ in range(3):
            link.check(time.monotonic())
        assert link.check(time.monotonic()) is None
        copy.close()
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.recv(1)
    assert link.state is State.CLOSED
    assert [event.kind for event in metrics.take_events()] == ["descriptor-reused"]


def test_a_heartbeat_that_is_due_does_not_go_to_another_connection(
    connected: tuple[socket.socket, socket.socket],
) -> None:
    """The short cut of nearly every heartbeat, which takes no sample."""
    client, _ = connected
    metrics = Metrics()
    copy = socket.socket(fileno=os.dup(client.fileno()))
    link = Link(Wire(native_socket(copy)), 2 * EARLY, "test", metrics)
    link.wire.plainly_idle = lambda *_: True
    link._checks = 0
    ours, other = socket.socketpair()
    with ours, other:
        os.dup2(ours.fileno(), copy.fileno())
        link.check(time.monotonic())
        assert link.check(time.monotonic()) is None
        copy.close()
    assert link.heartbeats_sent == 0
    assert [event.kind for event in metrics.take_events()] == ["descriptor-reused"]


def test_ages_that_do_not_grow_are_not_believed(
    connected: tuple[socket.socket, socket.socket],
) -> None:
    """As a kernel answers that fills in all of TCP_INFO but the ages."""
    client, peer = connected
    metrics = Metrics()
    link = Link(Wire(native_socket(client)), 30, "test", metrics)
    if not link.wire.has_tcp_info:
        pytest.skip("TCP_INFO is Linux's")
    view = link.wire.kernel_view()._replace(sent_ago=0.0, received_ago=0.0, acked_ago=0.0)
    link.wire.kernel_view = lambda: view
    link.wire.plainly_idle = lambda *_: False
    now = time.monotonic()
    link.check(now)  # there may have been traffic just now
    assert link.wire.has_tcp_info
    link.check(now + 16)
    assert not link.wire.has_tcp_info
    assert link.heartbeats_sent == 1
    assert peer.recv(100) == HEARTBEAT_FRAME
    assert [event.kind for event in metrics.take_events()] == ["tcp-info-unusable"]


def test_an_unusable_tcp_info_is_reported_once_in_a_process(
    connected: tuple[socket.socket, socket.socket],
) -> None:
    client, _ = connected
    metrics = Metrics()
    for _ in range(3):
        wire = Wire(native_socket(client))
        wire.distrust_tcp_info()
        Link(wire, 30, "test", metrics)
    assert [event.kind for event in metrics.take_events()] == ["tcp-info-unusable"]


def test_a_heartbeat_that_is_delayed_is_an_event_once(
    monkeypatch: pytest.MonkeyPatch, connected: tuple[socket.socket, socket.socket]
) -> None:
    client, _ = connected
    metrics = Metrics()
    link = Link(Wire(native_socket(client)), 8, "test", metrics)
    clock = itertools.count(1000.0, 0.4)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(Wire, "send_heartbeat", lambda *_: False)
    for _ in range(3):
        link._send_heartbeat(always())
    assert metrics.take_events() == []  # not yet T/8
    for _ in range(5):
        link._send_heartbeat(always())
    (event,) = metrics.take_events()
    assert event.kind == "heartbeat-delayed"
    monkeypatch.setattr(Wire, "send_heartbeat", lambda *_: True)
    assert link._send_heartbeat(always())
    monkeypatch.setattr(Wire, "send_heartbeat", lambda *_: False)
    link._send_heartbeat(always())
    link._send_heartbeat(always())
    assert metrics.take_events() == []


def test_a_heartbeat_that_is_due_in_the_middle_of_a_frame_is_an_event_once(
    monkeypatch: pytest.MonkeyPatch, connected: tuple[socket.socket, socket.socket]
) -> None:
    """As in the buffer of an event loop that is blocked: the connection may be lost."""
    client, _ = connected
    metrics, half = Metrics(), [True]
    wire = Wire(native_socket(client))
    link = Link(wire, 8, "test", metrics, half_written=lambda: half[0])
    view = wire.kernel_view()._replace(queued=0, in_flight=0, received_ago=0.0)
    monkeypatch.setattr(Wire, "kernel_view", lambda _: view._replace(sent_ago=0.1))
    clock = itertools.count(time.monotonic(), 0.4)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    for _ in range(9):
        link.check(next(clock))
    assert metrics.take_events() == []  # traffic
    monkeypatch.setattr(Wire, "kernel_view", lambda _: view._replace(sent_ago=4.5))
    for _ in range(9):
        link.check(next(clock))
    (event,) = metrics.take_events()
    assert (event.kind, "a part of a frame" in event.detail) == ("heartbeat-delayed", True)
    half[0] = False
    link.check(next(clock))
    assert link.heartbeats_sent == 1


def test_traffic_ends_the_delay_of_a_heartbeat(
    monkeypatch: pytest.MonkeyPatch, connected: tuple[socket.socket, socket.socket]
) -> None:
    client, _ = connected
    metrics = Metrics()
    link = Link(Wire(native_socket(client)), 8, "test", metrics)
    monkeypatch.setattr(Wire, "send_heartbeat", lambda *_: False)
    link._send_heartbeat(always())
    link.check(time.monotonic())  # nothing is due: the connection is new
    clock = itertools.count(time.monotonic() + 100, 0.1)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    link._send_heartbeat(always())
    assert metrics.take_events() == []


def kinds_of(link: Link) -> list[str]:
    return [event.kind for event in link._metrics.take_events()]


def test_a_torn_stream_is_shut_down_and_reported_at_once(
    connected: tuple[socket.socket, socket.socket],
) -> None:
    client, peer = connected
    link = Link(Wire(native_socket(client)), 60, "test", Metrics())

    def interrupted(data: bytes) -> None:
        client.sendall(data[:3])
        raise ValueError

    write = link.guard.around_send(interrupted, link.before_idle_write, lambda _: True, link.tear)
    with pytest.raises(ValueError):
        write(b"a frame")
    assert link.state is State.LOST
    assert kinds_of(link) == ["write-broken-off"]
    write_again = link.guard.around_send(
        client.sendall, link.before_idle_write, lambda _: True, link.tear
    )
    with pytest.raises(BrokenPipeError):
        write_again(b"another")
    assert b"".join(iter(lambda: peer.recv(100), b"")) == b"a f"
    assert client.recv(100) == b""
    assert link.check(0.0) is None
    assert kinds_of(link) == []


def test_a_torn_stream_whose_shutdown_was_interrupted_is_ended_later(
    connected: tuple[socket.socket, socket.socket],
) -> None:
    """By the engine, or by the next write: whichever comes first."""
    client, _ = connected
    notices: list[Callable[[Link], object]] = [
        lambda link: link.check(0.0),
        lambda link: link.before_idle_write(),
    ]
    for notice in notices:
        link = Link(Wire(native_socket(client)), 60, "test", Metrics())
        link.guard.torn = True
        notice(link)
        assert link.state is State.LOST
        assert kinds_of(link) == ["write-broken-off"]
        assert link.heartbeats_sent == 0


@pytest.mark.parametrize("drains", [False, True], ids=["short-cut", "table"])
def test_a_heartbeat_that_went_out_in_part_tears_the_stream(
    connected: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch, drains: bool
) -> None:
    client, peer = connected
    link = Link(Wire(native_socket(client)), 2 * EARLY, "test", Metrics())
    link._checks = CHECKS_BETWEEN_DRAINS - 1 if drains else 0
    calls = gil_keeping_calls()
    short = calls._replace(
        send=lambda fd, data, permit: calls.send(fd, data[:5], permit),
        send_after=lambda seen, guard, fd, data: calls.send_after(seen, guard, fd, data[:5]),
    )
    monkeypatch.setattr(wire_module, "gil_keeping_calls", lambda: short)
    peer.sendall(HEARTBEAT_FRAME)
    link.check(0.0)
    assert link.state is State.LOST
    assert kinds_of(link) == ["write-broken-off"]
    assert b"".join(iter(lambda: peer.recv(100), b"")) == HEARTBEAT_FRAME[:5]


def test_misuse_found_between_two_iterations_is_reported_when_the_link_closes(link: Link) -> None:
    write = link.guard.around_send(lambda nested: nested(), lambda: None, lambda _: True)
    write(lambda: write(lambda: None))
    assert kinds_of(link) == []
    link.close()
    assert kinds_of(link) == ["concurrent-writers"]


def test_checking_the_peer_is_not_counted_as_a_prevented_write(link: Link) -> None:
    link.state = State.LOST
    link.check_peer()
    assert "stale_writes_prevented" not in link._metrics.snapshot()
    link.before_idle_write()
    assert link._metrics.snapshot()["stale_writes_prevented"] == 1


def test_a_write_that_fails_because_the_peer_has_gone_is_reported_as_that(
    connected: tuple[socket.socket, socket.socket],
) -> None:
    client, peer = connected
    link = Link(Wire(native_socket(client)), 60, "test", Metrics())
    if not link.wire.has_tcp_info:
        pytest.skip("TCP_INFO is Linux's")
    peer.close()
    wait_until(lambda: link.wire.kernel_view().peer_closed)

    def fail(_: object) -> NoReturn:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        link.guard.around_send(fail, link.before_idle_write, lambda _: True, link.tear)(b"")
    (event,) = link._metrics.take_events()
    assert (event.kind, event.detail) == ("peer-closed", "the broker closed the connection")
    assert link.state is State.LOST


@pytest.mark.skipif(MODEL != "native", reason="forks beside a native thread")
def test_a_torn_stream_in_a_forked_child_is_left_to_the_parent(
    connected: tuple[socket.socket, socket.socket],
) -> None:
    client, peer = connected
    link = Link(Wire(native_socket(client)), 60, "test", Metrics())

    def tear() -> int:
        link.tear()
        return 42 if link.state is State.ORPHANED else 43

    assert outcome_in_child(tear) == 42
    client.sendall(b"still open")
    assert peer.recv(100) == b"still open"


def test_a_write_fails_before_the_thread_that_gave_the_link_up_has_shut_the_socket_down(
    connected: tuple[socket.socket, socket.socket], link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, _ = connected
    found: list[BaseException] = []

    def written_meanwhile() -> None:
        link.before_idle_write()
        try:
            client.send(b"x")
        except OSError as error:
            found.append(error)
        Wire.shut_both(link.wire)

    monkeypatch.setattr(link.wire, "shut_both", written_meanwhile)
    sample = Sample(999.0, 999.0, 999.0, 0, 0, 0, 999.0, writing=False, peer_closed=False)
    link._step(Event.SILENT, sample)
    assert link.state is State.LOST
    assert [type(error) for error in found] == [BrokenPipeError]
