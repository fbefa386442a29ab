"""Sections of code for one thread at a time, which no exception leaves occupied.

A signal handler may raise an exception behind any call. One that comes between ``acquire()`` and
the ``try`` that releases the lock leaves it acquired for the life of the process. ``with lock``
has the same gap since Python 3.14.

A function that runs a section again, as a signal handler or a finalizer may, finds it occupied:
it is half-way through its work further up in the same thread.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar("T")


class ReentrantLock(Protocol):
    """What ``threading.RLock()`` returns: it cannot be released by a thread that has it not."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...
    def release(self) -> None: ...


class Occupied(enum.Enum):
    """Has one member, :data:`OCCUPIED`."""

    OCCUPIED = "occupied"


#: Returned in place of a result: the section was not run.
OCCUPIED = Occupied.OCCUPIED


#: The key of the thread that is inside.
_INSIDE = "inside"


class TrySection:
    """Runs functions, one at a time, and never waits.

    It has no lock that an eventlet could find and replace which patches later.
    """

    __slots__ = ("_holder",)

    def __init__(self) -> None:
        # setdefault() enters, and shows at any later instant which thread has entered.
        self._holder: dict[str, object] = {}

    def run(self, work: Callable[[], T]) -> T | Occupied:
        """Return what `work` returns; :data:`OCCUPIED`, without calling it, if it is not alone."""
        holder, mine = self._holder, object()
        try:
            if holder.setdefault(_INSIDE, mine) is not mine:
                return OCCUPIED
            return work()
        finally:
            # Without a call: an exception may come behind any.
            try:
                if holder[_INSIDE] is mine:
                    del holder[_INSIDE]
            except KeyError:
                pass  # never entered


class ExclusiveSection:
    """Runs functions, one at a time, and lets others wait.

    Parameters:
        lock: re-entrant, because such a lock refuses to be released by a thread that has it not.

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
            timeout: seconds to wait for another thread that is inside; None: as long as it is.

        Returns:
            :data:`OCCUPIED`, without calling `work`, if another thread stays inside, or if this
            thread is inside already.
        """
        lock, entered = self._lock, False
        try:
            # In here: an exception may come right behind it.
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
