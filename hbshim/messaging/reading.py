"""Reading for operations that wait without a thread: one thread reads for all of them.

It takes part in :mod:`hbshim.messaging.role` as any thread that waits: it reads while no other
thread does. It starts with the first operation, and ends some seconds after the last one.
"""

from __future__ import annotations

import threading
import time
from typing import Protocol

from hbshim.errors import CallTimeoutError
from hbshim.messaging.flag import Flag
from hbshim.messaging.role import ReaderRole, Waiter
from hbshim.runtime.unpatched import start_without_signals

#: Seconds of one wait, at most and at least. An attempt to connect may take the longest.
LONGEST, SHORTEST = 10.0, 0.05

#: Seconds without an operation after which the thread ends.
IDLE = 5.0


#: Seconds after which an operation is ended that should have ended by a timer of its own.
LATE = 5.0


class Party(Protocol):
    """An operation that waits."""

    def fail(self, error: BaseException) -> None:
        """Throw an error into it. It must neither wait nor raise."""
        ...


class _Parties(Waiter):
    """Waits for nothing while there are parties, so that it reads as long as possible."""

    __slots__ = ("until",)

    def __init__(self) -> None:
        super().__init__()
        self.until: dict[Party, float] = {}

    @property
    def ready(self) -> bool:
        return not self.until


class BackgroundReader:
    """See the module.

    Parameters:
        role: of the threads that read from one connection.

    Attributes:
        trouble: why there is no connection; empty if there is one, as far as is known.
    """

    def __init__(self, role: ReaderRole) -> None:
        self.trouble = ""
        self._role = role
        self._parties = _Parties()
        self._changed = Flag()
        self._starting = threading.RLock()
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def thread(self) -> threading.Thread | None:
        """The thread that reads; None while there is none."""
        return self._thread

    def add(self, party: Party, until: float) -> None:
        """Read for `party` until :meth:`remove`.

        Parameters:
            party: the operation.
            until: when it ends at the latest, of ``time.monotonic()``.

        Raises:
            RuntimeError: no thread can be started.
        """
        self._parties.until[party] = until
        self._changed.set()
        with self._starting:
            if self._thread is not None:
                return
            thread = threading.Thread(target=self._run, name="hbshim-aio-reader", daemon=True)
            start_without_signals(thread.start)
            self._thread = thread

    def remove(self, party: Party) -> None:
        """Read no longer for `party`."""
        self._parties.until.pop(party, None)

    def close(self) -> None:
        """End the thread, as soon as the driver is closed."""
        self._closed = True
        self._changed.set()

    def _run(self) -> None:
        while not self._has_ended():
            self._read()

    def _has_ended(self) -> bool:
        """Wait for a party; return whether there was none for long."""
        self._changed.clear()
        if self._parties.until:
            return False
        if not self._closed:
            self._changed.wait(IDLE)
        with self._starting:
            if self._parties.until:
                return False
            if not self._closed and self._changed.is_set():
                return False
            self._thread = None
            return True

    def _drop_late(self, now: float) -> None:
        """End the parties that nothing has ended, because their event loop is closed or blocked."""
        # A copy: the event loop adds and removes parties. list() of the items may be interrupted by
        # the garbage collector.
        for party, until in self._parties.until.copy().items():
            if until + LATE < now:
                party.fail(CallTimeoutError("it was not answered"))
                self.remove(party)

    def _read(self) -> None:
        now = time.monotonic()
        self._drop_late(now)
        latest = max(list(self._parties.until.values()), default=now)
        # Not less: each party ends by a timer of its own, which may be late.
        until = now + min(LONGEST, max(SHORTEST, latest - now))
        try:
            self._role.wait_once(self._parties, until, "")
        except CallTimeoutError as error:
            self.trouble = str(error)
        except BaseException as error:
            for party in list(self._parties.until):
                party.fail(error)
                self.remove(party)
        else:
            self.trouble = ""
