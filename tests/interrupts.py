"""Interrupts a call at random instants, as a signal handler that raises does."""

import gc
import signal
import time
from collections.abc import Callable

#: Seconds from the setting of the alarm to the signal.
SOON = 0.0002


class InterruptError(BaseException):
    """Raised by a signal handler."""


def interrupt(call: Callable[[], object], after: Callable[[], object], times: int = 300) -> int:
    """Interrupt `call` so many times, and return how many interrupts it let through.

    Parameters:
        call: called over and over.
        after: called after each interrupt; checks what must hold.

    The callbacks of the garbage collector are taken out meanwhile: hypothesis has one, and
    Python reports what is raised in it to pytest, which takes it for an error.
    """

    def on_alarm(*_: object) -> None:
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
