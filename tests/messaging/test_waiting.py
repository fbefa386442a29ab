"""Callers that wait for replies: one of them reads for all, and none is forgotten."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from hbshim.errors import CallTimeoutError, ConnectionLostError
from hbshim.messaging.base import Payload, Reply, ReplyKind
from hbshim.messaging.role import ReaderRole, Waiter
from hbshim.messaging.waiting import PendingCalls
from tests.concurrency import MODEL
from tests.interrupts import interrupt, interrupt_everywhere

#: Seconds for what takes none; the machine may be busy.
LIMIT = 30.0


class Flag(Waiter):
    """Is ready when it is set."""

    def __init__(self) -> None:
        super().__init__()
        self.is_set = False

    @property
    def ready(self) -> bool:
        return self.is_set


def role_over(read: Callable[[float], bool] = lambda _until: True) -> ReaderRole:
    return ReaderRole(read)


def reply(kind: ReplyKind = "result", body: bytes = b"1") -> Reply:
    return Reply(kind, Payload(body))


def test_a_caller_whose_time_is_over_passes_on_that_it_was_woken_to_read() -> None:
    role, other = role_over(), Flag()
    role._waiting[other] = None
    with pytest.raises(CallTimeoutError, match="not answered"):
        role.wait_once(Flag(), time.monotonic() - 1, "not answered")
    assert other.wakeup.acquire(False)


def test_an_interrupted_caller_passes_on_that_it_was_woken_to_read() -> None:
    role, other = role_over(), Flag()

    class Wakeup:
        def acquire(self, timeout: float) -> bool:
            role._reader.clear()  # and the reader has notified this one
            raise KeyboardInterrupt

    waiter = Flag()
    waiter.wakeup = Wakeup()  # type: ignore[assignment]
    role._waiting[other] = None
    role._reader["reader"] = Flag()
    with pytest.raises(KeyboardInterrupt):
        role.wait_once(waiter, time.monotonic() + LIMIT, "not answered")
    assert other.wakeup.acquire(False)
    assert list(role._waiting) == [other]


def test_a_reader_that_fails_hands_over_the_role() -> None:
    def fail(_until: float) -> bool:
        raise ValueError("the library's own")

    role, other = role_over(fail), Flag()
    role._waiting[other] = None
    with pytest.raises(ValueError, match="own"):
        role.wait_once(Flag(), time.monotonic() + LIMIT, "not answered")
    assert other.wakeup.acquire(False)
    assert not role.is_taken


def test_all_are_notified_of_a_new_connection() -> None:
    role, others = role_over(lambda _until: False), [Flag(), Flag()]
    role._waiting.update(dict.fromkeys(others))
    role.wait_once(Flag(), time.monotonic() + LIMIT, "not answered")
    assert [other.wakeup.acquire(False) for other in others] == [True, True]


def test_one_thread_reads_for_all_of_them_and_then_another_one() -> None:
    """Each reader reads until it is ready itself, and what it reads is for the others."""
    flags = [Flag() for _ in range(8)]
    readers: list[int] = []
    left = list(flags)

    def read(_until: float) -> bool:
        readers.append(threading.get_ident())
        found = left.pop()
        found.is_set = True
        found.notify()
        return True

    role = role_over(read)

    def wait(flag: Flag) -> None:
        while not flag.ready:
            role.wait_once(flag, time.monotonic() + LIMIT, "not answered")

    threads = [threading.Thread(target=wait, args=(flag,), daemon=True) for flag in flags]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert all(flag.is_set for flag in flags)
    assert len(readers) == 8
    assert not role._waiting


def test_closing_ends_every_wait() -> None:
    role = role_over()
    other = Flag()
    role._waiting[other] = None
    role.close()
    assert other.wakeup.acquire(False)
    with pytest.raises(ConnectionLostError, match="closed"):
        role.wait_once(other, time.monotonic() + LIMIT, "not answered")


def test_reports_that_came_too_late_are_not_handed_out() -> None:
    reports: list[Reply] = []
    calls = PendingCalls(role_over())
    call = calls.begin(reports.append)
    for _ in range(3):
        calls.receive(call.correlation_id, reply("progress"))
    with pytest.raises(CallTimeoutError):
        calls.wait(call, time.monotonic() - 1, None)
    assert len(reports) == 1


def test_each_reply_reaches_its_call_once() -> None:
    calls = PendingCalls(role_over())
    first, second = calls.begin(None), calls.begin(None)
    calls.receive(second.correlation_id, reply(body=b"2"))
    calls.receive(second.correlation_id, reply(body=b"3"))
    calls.receive(first.correlation_id, reply("alive"))
    assert not first.ready
    assert calls.wait(second, time.monotonic() + LIMIT, None).payload.body == b"2"
    calls.end(first)
    calls.receive(first.correlation_id, reply())
    calls.receive("", reply())
    assert calls.late == 3


def test_a_server_is_silent_after_the_last_that_was_heard_of_it() -> None:
    calls = PendingCalls(role_over())
    call = calls.begin(None)
    call.last_heard -= 10
    with pytest.raises(CallTimeoutError, match="the server sent no keepalive"):
        calls.wait(call, time.monotonic() + LIMIT, 5)
    call.last_heard -= LIMIT
    calls.receive(call.correlation_id, reply("alive"))
    assert time.monotonic() - call.last_heard < LIMIT


@pytest.mark.skipif(MODEL != "native", reason="a signal handler of Python's own")
def test_no_exception_at_any_instant_leaves_the_reader_role_taken() -> None:
    """Then no call of the process would ever read its reply."""
    role, left_taken = role_over(), []

    def wait() -> None:
        waiter = Flag()
        waiter.is_set = True  # so that most of the time is the taking and the leaving of the role
        role.wait_once(waiter, time.monotonic() + LIMIT, "not answered")

    def look() -> None:
        left_taken.append(role.is_taken)
        if role.is_taken:
            role._reader.clear()

    assert interrupt(wait, look, times=1000) == 1000
    assert not any(left_taken)
    assert not role._waiting


@pytest.mark.skipif(MODEL != "native", reason="a signal handler of Python's own")
def test_no_exception_at_any_instant_leaves_a_call_behind() -> None:
    calls, left = PendingCalls(role_over()), []

    def begin_and_end() -> None:
        call = calls.begin(None)
        try:
            assert not call.ready
        finally:
            calls.end(call)

    def check() -> None:
        left.append(len(calls._calls))
        calls._calls.clear()

    assert interrupt(begin_and_end, check, times=1000) == 1000
    assert not any(left)


@pytest.mark.skipif(MODEL != "native", reason="a signal handler of Python's own")
def test_no_exception_at_any_instant_of_a_call_leaves_the_others_without_a_reader() -> None:
    """Their replies would stay unread until their time is over."""
    role, other = role_over(), Flag()
    calls = PendingCalls(role)

    def call() -> None:
        begun = calls.begin(None)
        try:
            # As after a wait in which it was woken up to read.
            role._waiting[other] = None
            begun.result = reply()
            role.wait_once(begun, time.monotonic() + LIMIT, "not answered")
        finally:
            calls.end(begun)

    def check() -> None:
        assert not role.is_taken
        if other in role._waiting:
            assert other.wakeup.acquire(False), "nothing reads, and nothing was woken up to read"
        role._waiting.clear()

    assert interrupt_everywhere(call, check) > 10


@pytest.mark.skipif(MODEL != "native", reason="a signal handler of Python's own")
def test_no_exception_at_any_instant_of_a_reader_keeps_a_reply_from_another_call() -> None:
    """It was received, and its caller would wait until its time is over."""
    unread: list[str] = []

    def read(_until: float) -> bool:
        # What was not passed on stays to be read, as in a mailbox.
        for correlation_id in unread:
            calls.receive(correlation_id, reply())
        unread.clear()
        return True

    role = role_over(read)
    calls = PendingCalls(role)
    reader, other = calls.begin(None), calls.begin(None)

    def wait() -> None:
        unread[:] = [other.correlation_id, reader.correlation_id]
        role._waiting[other] = None
        role.wait_once(reader, time.monotonic() + LIMIT, "not answered")

    def check() -> None:
        if other.result is not None:
            assert other.wakeup.acquire(False), "it has its reply, and does not know"
        role._waiting.clear()
        other.wakeup.acquire(False)
        reader.wakeup.acquire(False)
        reader.result = other.result = None

    assert interrupt_everywhere(wait, check) > 10
