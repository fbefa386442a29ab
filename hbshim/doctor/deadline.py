"""Time limits: for waits that have a timeout, and for those that must be interrupted."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from hbshim.runtime.unpatched import allocate_lock, start_native_thread

T = TypeVar("T")

#: Seconds between two checks of another thread's result.
POLL = 0.01
#: Seconds between two attempts to cut a connection.
AGAIN = 0.05


class Deadline:
    """A deadline, `seconds` from now."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._at = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds left, never below 0."""
        return max(0.0, self._at - time.monotonic())


def within(deadline: Deadline, function: Callable[[], T]) -> T:
    """Call a C function that has no timeout, in a native thread.

    Parameters:
        deadline: the time limit.
        function: must not use anything that may be green.

    Raises:
        TimeoutError: it did not return in time; its thread is abandoned.
        Exception: an error of `function`.
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
        # Green where the program is patched, so that its hub continues to run.
        time.sleep(POLL)
    if errors:
        raise errors[0]
    return results[0]


@contextlib.contextmanager
def cutting_off(deadline: Deadline, cut: Callable[[], None]) -> Iterator[None]:
    """Call `cut` repeatedly once the deadline has passed inside the block.

    A client library that waits without a limit, or receives data without end, returns when its
    socket is shut down. The watch is a native thread, because the block may block the hub.

    Parameters:
        deadline: the time limit.
        cut: shuts the socket down, if it exists by then; raises nothing.
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
