"""Bounds in time: for waits that end by themselves, and for those that must be ended."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from hbshim.runtime.unpatched import allocate_lock, start_native_thread

T = TypeVar("T")

#: Seconds between two looks at what another thread does.
POLL = 0.01
#: Seconds between two tries to cut off.
AGAIN = 0.05


class Deadline:
    """A moment after which nothing is waited for any more, `seconds` from now."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._at = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds left, never below 0."""
        return max(0.0, self._at - time.monotonic())


def within(deadline: Deadline, function: Callable[[], T]) -> T:
    """Call a function of the C library that knows no timeout, in a native thread.

    Parameters:
        function: must not touch anything that may be green.

    Raises:
        TimeoutError: it did not return in time; its thread is left to itself.
        Exception: as `function` raised it.
    """
    results: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(function())
        except Exception as error:
            errors.append(error)

    start_native_thread(run, lambda: None)
    while not results and not errors:
        if not deadline.left:
            raise TimeoutError
        # Green where the program is patched, so that its hub goes on.
        time.sleep(POLL)
    if errors:
        raise errors[0]
    return results[0]


@contextlib.contextmanager
def cutting_off(deadline: Deadline, cut: Callable[[], None]) -> Iterator[None]:
    """Have `cut` called, again and again, once the deadline has passed inside the block.

    A client library that waits without a limit, or is fed without end, comes back
    when its socket is shut down. The watch is a native thread, for the block may
    hold up the hub.

    Parameters:
        cut: shuts the socket down, if there is one by now; raises nothing.
    """
    leaving = allocate_lock()
    leaving.acquire()

    def watch() -> None:
        if leaving.acquire(timeout=deadline.left):
            return
        cut()
        while not leaving.acquire(timeout=AGAIN):
            cut()

    start_native_thread(watch, leaving.release)
    try:
        yield
    finally:
        with contextlib.suppress(RuntimeError):  # released already, by the interpreter's end
            leaving.release()
