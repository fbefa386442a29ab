"""One thread at a time inside an SSL object.

OpenSSL does not allow two threads in one SSL object at once, so each call into it is made under a
lock. The heartbeat thread holds that lock for microseconds, and a client never waits long for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from hbshim.runtime.unpatched import NativeLock, allocate_reentrant_lock, original

#: Seconds that the engine waits for a client's call into the SSL object to end. With the data
#: available, a call takes microseconds.
MOMENT = 0.01

#: How often a client waits for the engine to release the lock, with pauses of so many seconds after
#: the first few; and for its call to end. Counted, so that a process that was suspended meanwhile
#: does not treat the engine as stuck.
_SHORT_WAITS, _WAITS_FOR_ENGINE, _WAITS_FOR_CALL, _PAUSE = 10, 260, 1000, 0.001


class LockedSslObject:
    """Replaces the inner SSL object of a session.

    This includes every call: reading the cipher's name while another thread reads data also uses
    one object in two threads.
    """

    # In a slot, hidden from an eventlet that patches later; see `allocate_reentrant_lock`.
    __slots__ = ("_engine_calls", "_engine_lock", "_engine_waits_until", "_inner", "lock")

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.lock = allocate_reentrant_lock()
        # The lock that the engine holds, and whether it is in a call of the inner object.
        self._engine_lock: NativeLock | None = None
        self._engine_calls = False
        # A client that reads continuously acquires the lock again before another thread has woken
        # up; so it pauses while the engine waits.
        self._engine_waits_until = 0.0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        return self.alone(found) if callable(found) else found

    def alone(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap `function` so that it runs with the lock held."""

        def run_alone(*args: Any, **kwargs: Any) -> Any:
            lock = self._my_turn()
            try:
                lock.acquire()
                return function(*args, **kwargs)
            finally:
                try:  # noqa: SIM105
                    lock.release()
                except RuntimeError:
                    pass

        return run_alone

    def _my_turn(self) -> NativeLock:
        """Return the lock, after an engine that waits for it has released it.

        The caller acquires it inside the ``try`` whose ``finally`` releases it: Python 3.14 handles
        a signal directly after the call with which a ``with`` begins. Releasing raises RuntimeError
        if an exception came before the lock was acquired.

        An engine that does not release it is stuck in a finalizer of the application, which may run
        wherever its thread allocates. It is not waited for.
        """
        if self._engine_waits_until and time.monotonic() < self._engine_waits_until:
            original("time", "sleep")(_PAUSE)
        for wait in range(_WAITS_FOR_ENGINE):
            lock = self.lock
            if self._engine_lock is not lock:
                return lock
            # Without acquiring the lock: an exception might come before it is released.
            original("time", "sleep")(0 if wait < _SHORT_WAITS else _PAUSE)
        self._shut_engine_out()
        return self.lock

    def _shut_engine_out(self) -> bool:
        """Revoke the lock from an engine that holds it; return False if it is in a call.

        Before its next call the engine finds the lock replaced. Its calls return at once; one that
        does not is at its end already, creating an exception.
        """
        self.lock = allocate_reentrant_lock()
        for _ in range(_WAITS_FOR_CALL):
            if not self._engine_calls:
                return True
            original("time", "sleep")(_PAUSE)
        return False

    def renew_locks(self) -> None:
        """In a forked child: no thread of the parent exists here."""
        self.lock = allocate_reentrant_lock()
        self._engine_lock, self._engine_calls, self._engine_waits_until = None, False, 0.0

    def _engine_enters(self, wait: float) -> NativeLock | None:
        """Acquire the lock for the engine, and return it; None if a client holds it for long.

        A client does so, for example, while its write waits for space in the send queue.

        Parameters:
            wait: the longest wait, in seconds.
        """
        lock = self.lock
        self._engine_waits_until = time.monotonic() + wait
        try:
            if not lock.acquire(True, wait):
                if self._engine_lock is not lock or not self._shut_engine_out():
                    return None
                # Another engine held it, and has been replaced.
                lock = self.lock
                if not lock.acquire(False):
                    return None
        finally:
            self._engine_waits_until = 0.0
        self._engine_lock = lock
        return lock

    def _engine_leaves(self, lock: NativeLock) -> None:
        if self._engine_lock is lock:
            self._engine_lock = None
        lock.release()
