"""Sections of code for one thread at a time, which no exception leaves occupied.

A signal handler may raise after any call. An exception between ``acquire()`` and the ``try`` that
releases the lock would leave it locked for the lifetime of the process. ``with lock`` has the same
gap since Python 3.14.

A function that enters a section again in the same thread, as a signal handler or a finalizer may,
finds it occupied, because the outer call is not finished.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar("T")


class ReentrantLock(Protocol):
    """The result of ``threading.RLock()``.

    It raises if another thread than its owner releases it.
    """

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...
    def release(self) -> None: ...


class Occupied(enum.Enum):
    """The type of :data:`OCCUPIED`."""

    OCCUPIED = "occupied"


#: Returned instead of a result: the section was not run.
OCCUPIED = Occupied.OCCUPIED


#: The key of the thread that is inside.
_INSIDE = "inside"


class TrySection:
    """Runs functions, one at a time, and never waits.

    It has no lock that an eventlet which patches later could find and replace.
    """

    __slots__ = ("_holder",)

    def __init__(self) -> None:
        # setdefault() enters atomically, and shows which thread has entered.
        self._holder: dict[str, object] = {}

    def run(self, work: Callable[[], T]) -> T | Occupied:
        """Return what `work` returns; :data:`OCCUPIED`, without calling it, if it is not alone."""
        holder, mine = self._holder, object()
        try:
            if holder.setdefault(_INSIDE, mine) is not mine:
                return OCCUPIED
            return work()
        finally:
            # Without a call: an exception may come after any.
            try:
                if holder[_INSIDE] is mine:
                    del holder[_INSIDE]
            except KeyError:
                pass  # never entered


class ExclusiveSection:
    """Runs functions, one at a time; other threads wait.

    Parameters:
        lock: re-entrant, because only such a lock raises when a thread releases it that does not
            hold it.

    Attributes:
        occupied: a function runs.
    """

    __slots__ = ("_lock", "occupied")

    def __init__(self, lock: ReentrantLock) -> None:
        self._lock = lock
        self.occupied = False

    def run(self, work: Callable[[], T], timeout: float | None = 0.0) -> T | Occupied:
        """Return what `work` returns.

        Parameters:
            work: the function.
            timeout: seconds to wait for another thread that is inside; None: no limit.

        Returns:
            :data:`OCCUPIED`, without calling `work`, if another thread stays inside, or if this
            thread is inside already.
        """
        lock, entered = self._lock, False
        try:
            # Inside: a signal handler may raise directly after acquire().
            if timeout is None:
                acquired = lock.acquire()
            elif timeout <= 0:
                acquired = lock.acquire(False)
            else:
                acquired = lock.acquire(True, timeout)
            if not acquired or self.occupied:
                return OCCUPIED
            self.occupied = entered = True
            return work()
        finally:
            if entered:
                self.occupied = False
            # No other call before this one, not even that of `contextlib.suppress`.
            try:  # noqa: SIM105
                lock.release()
            except RuntimeError:
                pass  # never acquired
