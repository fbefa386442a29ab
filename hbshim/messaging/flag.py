"""A flag that threads wait for.

``threading.Event`` has a lock that is not re-entrant: a signal handler that sets the event which
its thread waits for, or has just set, may wait for itself. And a forked child may find that lock
held by a thread of its parent. This one has no lock.
"""

from __future__ import annotations

import contextlib
import threading


class Flag:
    """As ``threading.Event``, callable from signal handlers."""

    __slots__ = ("_is_set", "_waiting")

    def __init__(self) -> None:
        self._is_set = False
        # A lock for each thread that waits; another thread releases it.
        self._waiting: dict[threading.Lock, None] = {}

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        """Wake up all threads that wait, and let none wait from now on."""
        self._is_set = True
        for lock in list(self._waiting):
            with contextlib.suppress(RuntimeError):  # released already
                lock.release()

    def clear(self) -> None:
        self._is_set = False

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, for at most `timeout` seconds; return whether it was."""
        if self._is_set:
            return True
        lock = threading.Lock()
        lock.acquire()
        try:
            # Before the check: a thread that sets it afterwards finds this one.
            self._waiting[lock] = None
            if self.is_set():
                return True
            if timeout is None:
                return lock.acquire()
            return lock.acquire(timeout=max(0.0, timeout))
        finally:
            self._waiting.pop(lock, None)
