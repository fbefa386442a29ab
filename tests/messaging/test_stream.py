"""No exception, at whatever instant it arrives, leaves a lock or a role of the stream taken."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from hbshim.errors import BrokerBlockedError, ConnectionLostError
from hbshim.messaging import stream as waits_module
from hbshim.messaging.amqp import stream as stream_module
from hbshim.messaging.amqp.stream import Stream
from hbshim.messaging.readiness import Readiness
from hbshim.options import Options
from hbshim.protocol.frames import Frame
from tests.concurrency import MODEL
from tests.interrupts import (
    InterruptError,
    interleave_everywhere,
    interrupt,
    interrupt_everywhere,
)
from tests.messaging.conftest import LIMIT
from tests.waiting import wait_until


class Silent:
    """A client library that has nothing to say."""

    blocked = ended = False
    closed_by = None
    is_open = True
    frame_max = 131072
    heartbeat_timeout = 0.0

    def begin(self) -> None:
        pass

    def feed(self, frame: Frame) -> None:
        pass

    def begin_close(self) -> None:
        self.ended = True


class Always:
    """There is always something to read, and the socket takes all, or nothing."""

    def __init__(self) -> None:
        self.alive, self.more, self.buffered, self.unsent = True, False, True, False
        self.queued = self.sent = 0
        self.closing = self.stalled = False

    def nothing_waits(self) -> bool:
        return False

    def read(self) -> list[Frame]:
        return [(1, 1, b"")]

    def send(self, data: bytes) -> None:
        self.queued += len(data)
        if not self.stalled:
            self.sent = self.queued
        self.unsent = self.sent < self.queued

    def flush(self) -> None:
        pass

    def unqueue(self, end: int) -> bool:
        self.queued, self.unsent = self.sent, False
        return True

    def end(self) -> None:
        pass


class Ready:
    """It never waits."""

    woken = False

    def wait(self, _timeout: float) -> bool:
        return True

    def take_wake(self) -> bool:
        return False

    def wake(self) -> None:
        pass

    def close(self, then: Callable[[], None]) -> None:
        then()


class Sock:
    """What a stream asks of its socket."""

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        pass


@pytest.fixture
def new_stream(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setattr(stream_module, "Transport", lambda _sock: Always())
    monkeypatch.setattr(waits_module, "wait_writable", lambda _fd, _timeout: False)

    def new(*, stalled: bool = False, sock: Any = None) -> Any:
        ready = Readiness(sock.fileno()) if sock else Ready()
        monkeypatch.setattr(waits_module, "Readiness", lambda _fd: ready)
        stream: Any = Stream(sock or Sock(), "broker", lambda _send: Silent())  # type: ignore[arg-type, return-value]
        stream._transport.stalled = stalled
        stream.on_frame = lambda *_: None
        return stream

    return new


def taken(stream: Any) -> list[object]:
    """What a thread that is not in the stream must not have."""
    return [
        stream.lock._is_owned(),
        stream._reading is not None,
        stream._flushing is not None,
    ]


def write(stream: Any) -> None:
    with suppress(BrokerBlockedError):
        stream.write(b"data", time.monotonic() + 0.0001)


def write_while_blocked(stream: Any) -> None:
    stream.library.blocked = True
    write(stream)


def write_while_stalled(stream: Any) -> None:
    stream._transport.stalled = True
    write(stream)


def listen(stream: Any) -> None:
    """As a second thread while another one reads."""
    reader = stream._reading
    stream._reading = reader or "another"
    try:
        stream.receive(0.0001, lambda: False)
    finally:
        stream._reading = reader


WAYS: dict[str, Callable[[Any], Any]] = {
    "read": lambda stream: stream.receive(0.0, lambda: False),
    "wait": lambda stream: stream.wait_for(lambda: False, time.monotonic() + 0.0001),
    "listen": listen,
    "write": write,
    "write while blocked": write_while_blocked,
    "write while stalled": write_while_stalled,
    "under the lock": lambda stream: stream.locked(lambda: None),
    "fail": lambda stream: stream.fail(OSError("broken")),
}


@pytest.mark.skipif(MODEL != "native", reason="a signal handler of Python's own")
@pytest.mark.parametrize("way", WAYS)
def test_no_exception_at_any_instant_leaves_anything_taken(
    way: str, new_stream: Callable[..., Any]
) -> None:
    go, streams, left_taken = WAYS[way], [new_stream()], []

    def check() -> None:
        left_taken.append(taken(streams[-1]))
        if not streams[-1].is_open or any(left_taken[-1]):
            streams.append(new_stream())

    def once() -> None:
        with suppress(ConnectionLostError):
            go(streams[-1])

    assert interrupt(once, check) == 300
    assert not any(any(each) for each in left_taken)


@pytest.mark.skipif(MODEL != "native", reason="a signal handler of Python's own")
@pytest.mark.parametrize("way", ["read", "write while stalled", "fail"])
def test_no_exception_at_any_instant_leaves_those_waiting_that_listen(
    way: str, new_stream: Callable[..., Any]
) -> None:
    """Nothing would read for them, or they would not learn that the stream has ended."""
    go, streams, closed = WAYS[way], [], []

    class Closing(Sock):
        def close(self) -> None:
            closed.append(self)

    def begin() -> None:
        stream = new_stream()
        stream._sock = Closing()
        streams.append(stream)
        listening.append([stream._listen() for _ in range(3)])

    def check() -> None:
        stream, news = streams[-1], listening[-1]
        # Before the thread has entered, or once it has left, all of them were notified.
        begun = stream.ended or not stream._transport.buffered or len(stream._listeners) < 3
        if begun:
            assert all(each.acquire(False) for each in news)
        assert stream.ended == (stream._sock in closed)
        begin()

    def once() -> None:
        stream = streams[-1]
        with suppress(ConnectionLostError):
            go(stream)

    listening: list[list[Any]] = []
    begin()
    assert interrupt_everywhere(once, check) > 5
    check()


@pytest.mark.skipif(MODEL != "native", reason="threads that interleave anywhere")
def test_a_thread_that_waits_no_longer_does_not_keep_the_others_waiting(
    new_stream: Callable[..., Any],
) -> None:
    """It leaves without the lock, at whatever instant of the notification."""
    listening: list[Any] = []

    def prepare() -> tuple[Callable[[], object], Callable[[], object]]:
        stream = new_stream()
        listening[:] = [stream._listen() for _ in range(3)]

        def leave() -> None:
            for news in listening[:2]:
                stream._listeners.discard(news)

        return stream._notify_listeners, leave

    def check() -> None:
        assert listening[-1].acquire(False)

    assert interleave_everywhere(prepare, check) > 3


def test_a_read_that_is_interrupted_ends_the_stream(new_stream: Callable[..., Any]) -> None:
    """What was read, and not handed on, would be missed."""
    stream = new_stream()

    def interrupted(*_: object) -> None:
        raise InterruptError

    stream.on_frame = interrupted
    with pytest.raises(InterruptError):
        stream.receive(0.0, lambda: False)
    assert not stream.is_open
    assert not any(taken(stream))


def test_a_write_whose_time_is_over_is_taken_back(new_stream: Callable[..., Any]) -> None:
    stream = new_stream(stalled=True)
    heard: list[Any] = []
    with pytest.raises(BrokerBlockedError, match="nothing was sent"):
        stream.write(b"data", time.monotonic() + 0.01, heard.append)
    assert heard == [True, False]
    assert stream.is_open
    stream._transport.stalled = False
    stream.write(b"data", time.monotonic() + LIMIT, heard.append)
    assert heard == [True, False, True]
    assert not any(taken(stream))


def test_the_role_of_the_reader_is_handed_over(new_stream: Callable[..., Any]) -> None:
    """A thread that listens reads itself once the reader has what it waited for."""
    ours, peer = socket.socketpair()
    stream, done = new_stream(sock=ours), threading.Event()
    stream._transport.buffered = False
    threads = [
        threading.Thread(target=stream.wait_for, args=(done.is_set, time.monotonic() + LIMIT))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(stream._listeners) == 2, LIMIT)
    done.set()
    stream.wake()
    for thread in threads:
        thread.join(LIMIT)
        assert not thread.is_alive()
    assert not any(taken(stream))
    stream.drop()
    peer.close()


def test_the_options_of_heartbeats_reach_the_transport(new_stream: Callable[..., Any]) -> None:
    stream, asked = new_stream(), []
    stream._transport.keep_alive = lambda *arguments: asked.append(arguments[:2])
    options = Options()
    stream.keep_alive(options)
    assert asked == [(0.0, options)]
