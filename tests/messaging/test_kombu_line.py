"""No exception, at whatever instant it arrives, leaves a lock of the line taken."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from hbshim.adapters.pyamqp.heartbeat import StalledError
from hbshim.errors import BrokerBlockedError, MessagingError
from hbshim.messaging.kombu.line import Line
from tests.interrupts import InterruptError, interrupt
from tests.worlds import WORLD


class Stream:
    connected = True
    write_by: float | None = None

    def write(self, _data: bytes) -> None:
        pass


class Amqp:
    """As much of py-amqp's connection as the line asks for."""

    link = None
    closed_by = None

    def __init__(self) -> None:
        self.write_lock = threading.RLock()
        self.stream = Stream()

    def take_all(self, *, look: bool) -> bool:
        return look

    def collect(self) -> None:
        pass


class Ready:
    """There is always something to read."""

    def wait(self, _timeout: float) -> bool:
        return True

    def wake(self) -> None:
        pass


def new_line() -> Any:
    return Line(Amqp(), "broker", Ready())  # type: ignore[arg-type]


def locks_taken(line: Any) -> int:
    return sum(lock._is_owned() for lock in (line._reading, line._turnstile, line._lock))


def await_unblocked(line: Any) -> None:
    line.blocked = True
    with suppress(BrokerBlockedError):
        line.await_unblocked(time.monotonic() + 0.0001)


def enter_hurried(line: Any) -> None:
    with suppress(MessagingError):
        line._hurried = 1
        line.as_reader(0.0, line.read, hurry=False)


WAYS: dict[str, Callable[[Any], Any]] = {
    "read": lambda line: line.as_reader(0.0, line.read),
    "drain": lambda line: line.as_reader(0.0, line.read, hurry=False),
    "drain behind another": enter_hurried,
    "look": lambda line: line.look(),
    "send": lambda line: line.send(b"", 0.0),
    "wait while blocked": await_unblocked,
}


@pytest.mark.skipif(WORLD != "native", reason="a signal handler of Python's own")
@pytest.mark.parametrize("way", WAYS)
def test_no_exception_at_any_instant_leaves_a_lock_taken(way: str) -> None:
    go, lines, left_taken = WAYS[way], [new_line()], []

    def look() -> None:
        left_taken.append(locks_taken(lines[-1]))
        if not lines[-1].is_open or left_taken[-1]:
            lines.append(new_line())

    assert interrupt(lambda: go(lines[-1]), look) == 300
    assert not any(left_taken)


def test_a_callback_of_the_reader_may_look_and_is_refused_to_read() -> None:
    """It is inside the read that it would begin anew."""
    line, reads = new_line(), []
    line.read = lambda **_: reads.append(1)

    def callback() -> None:
        line.look()
        with pytest.raises(MessagingError):
            line.as_reader(0.0, line.read)

    line.as_reader(0.0, callback)
    assert not reads
    assert not locks_taken(line)
    line.look()
    assert reads


def test_a_read_that_is_interrupted_ends_the_connection() -> None:
    """What was read, and not handed on, would be missed."""
    line = new_line()

    def interrupted(*, look: bool) -> bool:
        raise InterruptError

    line._amqp.take_all = interrupted
    with pytest.raises(InterruptError):
        line.as_reader(0.0, line.read)
    assert not line.is_open
    assert not locks_taken(line)


def test_a_write_whose_time_is_over_before_another_one_ends_harms_nothing() -> None:
    line = new_line()
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with line._lock:
            held.set()
            done.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(20)
    try:
        with pytest.raises(BrokerBlockedError):
            line.send(b"", time.monotonic() + 0.01)
    finally:
        done.set()
        thread.join(20)
    assert line.is_open


def test_a_write_that_stalls_harms_nothing() -> None:
    line = new_line()

    def stalled() -> None:
        raise StalledError

    with pytest.raises(BrokerBlockedError):
        line.write_by_library(stalled, None)
    assert line.is_open
    assert not locks_taken(line)
