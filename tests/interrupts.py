"""Interrupts a call at random instants, or at all of them, as a signal handler that raises does."""

import _weakrefset
import gc
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any

import hbshim

#: Seconds for which a call stands still where another one waits for it.
STANDS_STILL = 0.5

#: Seconds from the setting of the alarm to the signal, and to the next one if none was noticed.
SOON, AGAIN = 0.0002, 0.05


#: Code that may be interrupted: what calls it and what it is given are not under test.
_CODE = os.path.dirname(hbshim.__file__) + os.sep


#: Where the callbacks of weak sets and dictionaries are.
_OF_REFERENCES = (weakref.__file__, _weakrefset.__file__)


class InterruptError(BaseException):
    """Raised by a signal handler."""


def interrupt(call: Callable[[], object], after: Callable[[], object], times: int = 300) -> int:
    """Interrupt `call` so many times, and return how many interrupts it let through.

    Parameters:
        call: called over and over.
        after: called after each interrupt; checks what must hold.

    The callbacks of the garbage collector are taken out meanwhile, and those of weak references are
    not interrupted: Python reports what is raised there to pytest, which takes it for an error.

    The alarm repeats: on a busy machine CPython 3.11 may note a signal, and run its handler only
    when the main thread next waits for the interpreter's lock, which `call` may never do.
    """
    raised = False

    def on_alarm(_number: int, frame: FrameType | None) -> None:
        nonlocal raised
        if raised:
            return
        if frame is not None and frame.f_code.co_filename in _OF_REFERENCES:
            signal.setitimer(signal.ITIMER_REAL, SOON, AGAIN)
        else:
            raised = True
            raise InterruptError

    def call_until_raised() -> None:
        # A function of its own: in CPython 3.12 and 3.13 the `try` around a loop does not cover the
        # jump at its end. What is raised in a clean-up of the library may go no further.
        while not raised:
            call()

    interrupted = 0
    callbacks = gc.callbacks[:]
    gc.callbacks.clear()
    before = signal.signal(signal.SIGALRM, on_alarm)
    try:
        deadline = time.monotonic() + 60
        while interrupted < times and time.monotonic() < deadline:
            try:
                raised = False
                signal.setitimer(signal.ITIMER_REAL, SOON, AGAIN)
                call_until_raised()
            except InterruptError:
                interrupted += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            after()
    finally:
        raised = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        gc.callbacks[:] = callbacks
    return interrupted


def interrupt_everywhere(
    call: Callable[[], object],
    after: Callable[[], object],
    also: tuple[str, ...] = (),
    every: int = 1,
) -> int:
    """Interrupt `call` at its first instant, then at its second, and so on until it returns.

    Python runs signal handlers where a function of Python begins and where a call of C returns
    (and in loops). `sys.setprofile` reports both, so that each of them is tried, and none is
    that a signal could not reach.

    Parameters:
        call: called over and over, in the same way each time.
        after: called after each interrupt; checks what must hold.
        also: directories of other code that may be interrupted.
        every: tries only one instant in so many.

    Returns:
        The number of interrupts.
    """
    interrupts = 0
    while True:
        left = interrupts

        def profile(frame: FrameType, event: str, _argument: object) -> None:
            nonlocal left
            code = frame.f_code.co_filename
            if event not in ("call", "c_return") or not code.startswith((_CODE, *also)):
                return
            if frame.f_code.co_name == "<genexpr>":
                return  # it may be closed by the collector: Python reports that to pytest
            if event == "call" and frame.f_lasti >= 0 and sys.version_info < (3, 11):
                return  # a generator goes on: Python 3.10 would end it without its `finally`
            left -= 1
            if left == -1:
                # Python profiles no more after it.
                raise InterruptError

        # What is left of other tests is collected elsewhere: Python reports what is raised in a
        # finalizer to pytest, which takes it for an error.
        gc.disable()
        try:
            sys.setprofile(profile)
            call()
        except InterruptError:
            pass
        finally:
            sys.setprofile(None)
            gc.enable()
        if left >= 0:
            return interrupts
        interrupts += every
        after()


def interleave_everywhere(
    prepare: Callable[[], tuple[Callable[[], object], Callable[[], object]]],
    after: Callable[[], object],
    every: int = 1,
    *,
    opcodes: bool = False,
) -> int:
    """Run another call in the middle of a call: at its first instant, then at its second, and on.

    Parameters:
        prepare: returns the call, and the other one, which runs in a thread of its own while the
            first one stands still: to its end, or to a lock that the first one holds.
        after: called when both have returned; checks what must hold.
        every: tries only one instant in so many.
        opcodes: an instant is before any instruction, as without the GIL; otherwise where Python
            may switch to another thread, at calls and returns.

    Returns:
        The number of instants.
    """
    instants = 0
    while True:
        left = instants
        call, other = prepare()
        thread = threading.Thread(target=other)

        def count(thread: threading.Thread = thread) -> None:
            nonlocal left
            left -= 1
            if left == -1:
                sys.setprofile(None)
                sys.settrace(None)
                thread.start()
                thread.join(STANDS_STILL)

        def profile(frame: FrameType, event: str, _argument: object) -> None:
            if event in ("call", "c_return") and frame.f_code.co_filename.startswith(_CODE):
                count()

        def trace(frame: FrameType, event: str, _argument: object) -> Any:
            if not frame.f_code.co_filename.startswith(_CODE):
                return None
            frame.f_trace_opcodes = True
            if event == "opcode":
                count()
            return trace

        before = sys.gettrace()
        try:
            if opcodes:
                sys.settrace(trace)
            else:
                sys.setprofile(profile)
            call()
        finally:
            sys.setprofile(None)
            sys.settrace(before)
        if left >= 0:
            return instants
        thread.join(60)
        assert not thread.is_alive(), f"the other call does not end, begun at {instants}"
        after()
        instants += every


def nest_everywhere(
    call: Callable[[], object], other: Callable[[], object], most: int | None = None
) -> int:
    """Run another call inside a call, as a signal handler does: at its first instant, and on.

    Parameters:
        call: called over and over, in the same way each time.
        other: called by the same thread, in the middle of `call`.
        most: how many instants to try, where `call` has too many for all of them.

    Returns:
        The number of instants of `call`.
    """
    tried: list[int] = []
    every = 1 if most is None else max(1, _instants(call) // most)
    ended: list[BaseException | None] = []

    def try_all() -> None:
        try:
            while not tried or _nest(call, other, tried[-1]):
                tried.append(tried[-1] + every if tried else 0)
        except BaseException as error:
            ended.append(error)
        else:
            ended.append(None)

    # One that waits for itself must not end the whole run.
    thread = threading.Thread(target=try_all, daemon=True)
    thread.start()
    thread.join(120)
    assert ended, f"it waits for itself, at instant {tried[-1:]}"
    if ended[0] is not None:
        raise ended[0]
    return tried[-1]


def _instants(call: Callable[[], object]) -> int:
    enough = sys.maxsize
    left = _left_of(call, lambda: None, enough)
    return enough - left


def _nest(call: Callable[[], object], other: Callable[[], object], instant: int) -> bool:
    return _left_of(call, other, instant) < 0


def _left_of(call: Callable[[], object], other: Callable[[], object], left: int) -> int:
    def profile(frame: FrameType, event: str, _argument: object) -> None:
        nonlocal left
        if event not in ("call", "c_return") or not frame.f_code.co_filename.startswith(_CODE):
            return
        left -= 1
        if left == -1:
            other()

    try:
        sys.setprofile(profile)
        call()
    finally:
        sys.setprofile(None)
    return left


def collect_everywhere(read: Callable[[], object], change: Callable[[], object]) -> int:
    """Change something during a collection that an allocation of a call begins: each in turn.

    Up to Python 3.11 a collection begins within the function of C that allocates, and a finalizer
    in it lets other threads run; from 3.12 on it waits for the end of that function.

    Parameters:
        read: called over and over, in the same way each time.
        change: called once in each call, as by another thread.

    Returns:
        The number of allocations that began a collection.
    """
    began = 0

    def on_collection(phase: str, _info: dict[str, int]) -> None:
        nonlocal began
        if phase == "start":
            gc.set_threshold(0)
            began += 1
            change()

    before, threshold = gc.callbacks[:], gc.get_threshold()
    gc.callbacks.clear()
    gc.collect()
    gc.freeze()
    try:
        for allocations in range(60):
            gc.set_threshold(0)
            # It also empties the lists of free tuples.
            gc.collect()
            gc.callbacks[:] = [on_collection]
            gc.set_threshold(allocations + 1, 1_000_000)
            read()
            gc.callbacks.clear()
    finally:
        gc.unfreeze()
        gc.callbacks[:] = before
        gc.set_threshold(*threshold)
    return began
