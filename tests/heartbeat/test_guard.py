"""The engine acts only while no client is inside, and a client never waits for anything."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

import pytest

from hbshim.heartbeat import guard as guard_module
from hbshim.heartbeat.guard import IDLE_BEFORE_CHECK, Guard
from tests.concurrency import MODEL, needs_os_threads
from tests.interrupts import interrupt
from tests.native_fork import fork_in_c
from tests.waiting import wait_until


def nothing() -> None:
    return None


def never(_error: object) -> bool:
    return False


def always(_error: object) -> bool:
    return True


def writer(
    guard: Guard,
    function: Callable[[], object],
    before: Callable[[], None] = nothing,
    tears: Callable[[BaseException], bool] = never,
    on_torn: Callable[[], None] = nothing,
) -> Callable[..., Any]:
    wrapped = guard.around_send(lambda _: function(), before, tears, on_torn)
    return lambda: wrapped(b"frame")


def test_the_engine_stays_out_while_a_write_is_under_way() -> None:
    guard = Guard()
    inside = []
    writer(guard, lambda: inside.append(guard.writers.try_acquire()))()
    assert inside == [None]
    assert guard.writers.try_acquire()
    guard.writers.release()


def test_a_second_writer_does_not_wait_for_the_first_and_is_counted() -> None:
    guard = Guard()
    order = []
    second = writer(guard, lambda: order.append(("second", guard.writers.try_acquire())))
    first = writer(guard, lambda: (second(), order.append(("first", guard.writers.try_acquire()))))
    first()
    assert order == [("second", None), ("first", None)]
    assert guard.writers.overlaps == 1
    assert guard.writers.try_acquire()


@needs_os_threads
def test_the_gate_stays_occupied_while_the_second_writer_outlives_the_first() -> None:
    guard = Guard()
    second_is_in, let_second_go = threading.Event(), threading.Event()

    def slow() -> None:
        second_is_in.set()
        assert let_second_go.wait(60)

    thread = threading.Thread(target=writer(guard, slow))
    writer(guard, lambda: (thread.start(), second_is_in.wait(60)))()
    assert guard.writers.occupied
    assert not guard.writers.try_acquire()
    let_second_go.set()
    thread.join(60)
    assert not guard.writers.occupied
    assert guard.writers.try_acquire()


@pytest.mark.parametrize("way", ["send", "flush", "read"])
def test_a_client_revokes_the_permit_and_does_not_wait(way: str) -> None:
    """The engine may be stuck in a finalizer: this one never leaves."""
    guard, done = Guard(), []
    gate = guard.readers if way == "read" else guard.writers
    permit = gate.try_acquire()
    assert permit.valid
    go = {
        "send": lambda: writer(guard, lambda: done.append(permit.valid))(),
        "flush": guard.around_flush(lambda: done.append(permit.valid), nothing),
        "read": guard.around_read(lambda: done.append(permit.valid), nothing),
    }[way]
    go()
    assert done == [False]
    # Also when the client is outside again: what the engine has seen is out of date.
    assert not permit.inside
    assert not permit.valid
    assert gate.overlaps == 0


def test_closing_revokes_both_permits() -> None:
    guard = Guard()
    permits = [guard.writers.try_acquire(), guard.readers.try_acquire()]
    guard.close()
    assert [permit.valid for permit in permits] == [False, False]


def test_a_second_engine_revokes_the_permit_of_one_that_is_stuck() -> None:
    gate = Guard().writers
    stuck = gate.try_acquire()
    assert gate.try_acquire().valid
    assert not stuck.valid


@needs_os_threads
def test_without_calls_that_keep_the_gil_a_client_waits_for_the_engines_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guard_module, "gil_keeping_calls", lambda: None)
    guard, done = Guard(), threading.Event()
    permit = guard.writers.try_acquire()
    permit.acting.add(engine := object())
    thread = threading.Thread(target=writer(guard, done.set))
    thread.start()
    wait_until(lambda: not permit.valid)
    assert not done.is_set()
    permit.acting.discard(engine)
    assert done.wait(60)
    thread.join(60)


@needs_os_threads
def test_a_client_gives_up_waiting_for_a_call_that_does_not_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guard_module, "gil_keeping_calls", lambda: None)
    monkeypatch.setattr(guard_module, "_WAITS", 3)
    guard, done = Guard(), []
    guard.writers.try_acquire().acting.add(object())
    writer(guard, lambda: done.append(1))()
    assert done == [1]


def test_an_error_of_the_write_leaves_the_gate_open() -> None:
    guard = Guard()

    def fail() -> NoReturn:
        raise ValueError("marshalling")

    with pytest.raises(ValueError, match="marshalling"):
        writer(guard, fail)()
    assert not guard.torn
    assert guard.writers.try_acquire()


@pytest.mark.parametrize("wrap", ["send", "flush"])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, MemoryError, ValueError])
def test_an_interrupted_write_tears_the_stream_at_once(wrap: str, error: type[Exception]) -> None:
    guard, observed = Guard(), []

    def fail() -> NoReturn:
        raise error

    def on_torn() -> None:
        observed.append((guard.torn, guard.writers.occupied))

    if wrap == "send":
        write = writer(guard, fail, tears=always, on_torn=on_torn)
    else:
        write = guard.around_flush(fail, nothing, always, on_torn)
    with pytest.raises(error):
        write()
    assert observed == [(True, True)]
    assert guard.torn
    assert guard.writers.try_acquire()


@pytest.mark.parametrize("wrap", ["send", "flush"])
def test_a_second_exception_in_the_handling_of_the_first_leaves_the_stream_torn(wrap: str) -> None:
    guard, checked = Guard(), []

    def fail() -> NoReturn:
        raise ValueError

    def interrupted(_error: object) -> NoReturn:
        raise KeyboardInterrupt

    def check() -> None:
        checked.append(1)

    ended = []

    def end() -> None:
        ended.append(1)
        if len(ended) == 1:
            raise KeyboardInterrupt

    if wrap == "send":
        write = writer(guard, fail, before=check, tears=interrupted, on_torn=end)
    else:
        write = guard.around_flush(fail, check, interrupted, end)
    with pytest.raises(KeyboardInterrupt):
        write()
    assert guard.torn
    # Not even a third one keeps the stream open.
    assert ended == [1, 1]
    assert not guard.writers.occupied
    # The next write does not go the fast way.
    with pytest.raises(KeyboardInterrupt):
        write()
    assert checked == [1]


def test_a_stream_stays_torn_when_a_later_write_writes_nothing() -> None:
    guard = Guard()
    guard.torn = True

    def fail() -> NoReturn:
        raise BlockingIOError

    with pytest.raises(BlockingIOError):
        writer(guard, fail)()
    assert guard.torn


def test_only_a_write_after_a_silence_checks_first() -> None:
    guard, looks = Guard(), []
    write = writer(guard, nothing, before=lambda: looks.append(1))
    write()
    assert looks == []
    guard.last_write -= 2 * IDLE_BEFORE_CHECK
    write()
    write()
    assert looks == [1]


def test_a_refused_write_is_not_a_torn_one() -> None:
    guard = Guard()

    def refuse() -> NoReturn:
        raise ConnectionError

    guard.last_write -= 2 * IDLE_BEFORE_CHECK
    with pytest.raises(ConnectionError):
        writer(guard, nothing, before=refuse, tears=always)()
    assert not guard.torn
    assert guard.writers.try_acquire()


def test_a_flush_and_a_read_are_inside_their_gates() -> None:
    guard, seen = Guard(), []
    guard.around_flush(lambda: seen.append(guard.writers.occupied), nothing)()
    guard.around_read(lambda: seen.append(guard.readers.occupied), nothing)()
    assert seen == [True, True]
    assert not guard.writers.occupied
    assert not guard.readers.occupied


def test_a_flush_notes_what_it_leaves_buffered() -> None:
    guard, buffers = Guard(), [b"rest"]

    def stall() -> NoReturn:
        raise BlockingIOError

    with pytest.raises(BlockingIOError):
        guard.around_flush(stall, nothing, always, nothing, BlockingIOError, buffers)()
    assert guard.unsent
    assert not guard.torn
    guard.around_flush(buffers.clear, nothing, always, nothing, BlockingIOError, buffers)()
    assert not guard.unsent


@pytest.mark.parametrize("error", [BlockingIOError, ValueError, None])
def test_a_read_counts_however_it_ends(error: type[Exception] | None) -> None:
    """pika reads until the socket is empty, so over plain TCP it always ends with an error."""
    guard = Guard()
    guard.last_read = 0.0

    def read() -> None:
        if error:
            raise error

    if error:
        with pytest.raises(error):
            guard.around_read(read, nothing)()
    else:
        guard.around_read(read, nothing)()
    assert guard.last_read > 0.0
    # Only an exception that is none of the socket's leaves the reader at an unknown place.
    assert guard.misread is (error is ValueError)


def test_a_read_that_found_nothing_does_not_count() -> None:
    guard = Guard()
    guard.last_read = 0.0

    def read() -> NoReturn:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        guard.around_read(read, nothing, always)()
    assert guard.last_read == 0.0
    assert not guard.misread


@needs_os_threads
def test_a_child_forked_in_c_is_stopped_before_it_writes_or_reads() -> None:
    """However fresh its parent's last write is: nothing runs in the child to notify it."""
    guard, passed = Guard(), []

    def refuse() -> NoReturn:
        raise ConnectionError

    ways = (
        writer(guard, lambda: passed.append("write"), before=refuse),
        guard.around_flush(lambda: passed.append("flush"), refuse),
        guard.around_read(lambda: passed.append("read"), refuse),
    )
    for go in ways:
        go()
    assert passed == ["write", "flush", "read"]
    child = fork_in_c()
    if child == 0:
        refused = 0
        for go in ways:
            try:
                go()
            except ConnectionError:
                refused += 1
        os._exit(refused)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3


def test_what_the_parents_threads_held_is_free_in_a_forked_child() -> None:
    guard = Guard()
    for gate in (guard.writers, guard.readers):
        gate.try_acquire().acting.add(object())
        gate.inside.add(object())
    guard.renew_locks()
    for gate in (guard.writers, guard.readers):
        assert not gate.occupied
        assert not gate.try_acquire().acting


def test_a_signal_handler_may_write_while_its_own_thread_is_the_engine() -> None:
    guard, written = Guard(), []
    assert guard.writers.try_acquire()
    writer(guard, lambda: written.append(1))()
    guard.writers.release()
    assert written == [1]


@needs_os_threads
def test_hammered_from_many_threads_the_engine_never_meets_a_writer() -> None:
    guard = Guard()
    wire, stop = ["end"], threading.Event()
    met: list[Any] = []
    one_at_a_time = threading.Lock()

    def frame() -> None:
        with one_at_a_time:
            wire.append("begin")
            wire.append("end")

    def publish() -> None:
        write = writer(guard, frame)
        while not stop.is_set():
            write()
            # Python 3.10 would switch threads in the write alone, where the lock is waited for.
            time.sleep(0)

    publishers = [threading.Thread(target=publish) for _ in range(3)]
    for thread in publishers:
        thread.start()
    deadline = time.monotonic() + 30
    while len(met) < 30 and time.monotonic() < deadline:
        permit = guard.writers.try_acquire()
        if permit:
            # As the engine's system calls do: no other thread runs in this expression.
            last = wire[-1] if permit.valid and not permit.inside else None
            if last is not None:
                met.append(last)
            guard.writers.release()
    stop.set()
    for thread in publishers:
        thread.join(10)
    assert met == ["end"] * 30
    assert wire.count("begin") == wire.count("end") - 1 > 0


@needs_os_threads
def test_an_engine_is_never_counted_as_a_second_writer() -> None:
    guard, stop = Guard(), threading.Event()
    write = writer(guard, nothing)
    written = 0

    def engine() -> None:
        while not stop.is_set():
            guard.writers.try_acquire()
            time.sleep(0)
            guard.writers.release()

    thread = threading.Thread(target=engine)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        thread.start()
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            write()
            written += 1
    finally:
        stop.set()
        thread.join(10)
        sys.setswitchinterval(interval)
    assert written > 100
    assert guard.writers.overlaps == 0


@pytest.mark.skipif(MODEL != "native", reason="a signal handler of Python's own")
@pytest.mark.parametrize("way", ["send", "flush", "read"])
def test_no_exception_at_any_instant_leaves_a_gate_taken(way: str) -> None:
    guard = Guard()
    go = {
        "send": writer(guard, nothing),
        "flush": guard.around_flush(nothing, nothing),
        "read": guard.around_read(nothing, nothing),
    }[way]

    left_taken = []

    def look() -> None:
        left_taken.append(guard.writers.occupied or guard.readers.occupied)
        guard.torn = False

    assert interrupt(go, look) == 300
    assert not any(left_taken)
