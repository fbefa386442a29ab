"""Interrupts a call at random instants, or at all of them, as a signal handler that raises does."""

import _weakrefset
import gc
import os
import signal
import sys
import time
import weakref
from collections.abc import Callable
from types import FrameType

import hbshim

#: Seconds from the setting of the alarm to the signal.
SOON = 0.0002


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
    """

    def on_alarm(_number: int, frame: FrameType | None) -> None:
        if frame is not None and frame.f_code.co_filename in _OF_REFERENCES:
            signal.setitimer(signal.ITIMER_REAL, SOON)
        else:
            raise InterruptError

    interrupted = 0
    callbacks = gc.callbacks[:]
    gc.callbacks.clear()
    before = signal.signal(signal.SIGALRM, on_alarm)
    try:
        deadline = time.monotonic() + 60
        while interrupted < times and time.monotonic() < deadline:
            try:
                signal.setitimer(signal.ITIMER_REAL, SOON)
                # Bounded: what is raised in a clean-up of the library may go no further.
                for _ in range(100_000):
                    call()
            except InterruptError:
                interrupted += 1
            after()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        gc.callbacks[:] = callbacks
    return interrupted


def interrupt_everywhere(
    call: Callable[[], object], after: Callable[[], object], also: tuple[str, ...] = ()
) -> int:
    """Interrupt `call` at its first instant, then at its second, and so on until it returns.

    Python runs signal handlers where a function of Python begins and where a call of C returns
    (and in loops). `sys.setprofile` reports both, so that each of them is tried, and none is
    that a signal could not reach.

    Parameters:
        call: called over and over, in the same way each time.
        after: called after each interrupt; checks what must hold.
        also: directories of other code that may be interrupted.

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
        interrupts += 1
        after()
