"""Renews the leases of the hosts in this process from hbshim's own heartbeat engine.

Its native worker is on time whatever the program's hub does, and its lateness is part of
``hbshim watch``. The engine checks nothing in a forked child, so that a child renews nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from hbshim.heartbeat.service import current
from hbshim.messaging.zmq.directory.settings import RENEWALS


class Lease:
    """Decides when to renew; held weakly by the engine.

    Parameters:
        seconds: that a lease lasts.
        on_due: called in the engine's thread, which must do no I/O there.

    Attributes:
        timeout: seconds after which a check that did not come is overdue.
    """

    def __init__(self, seconds: float, on_due: Callable[[], None]) -> None:
        self.timeout = seconds
        self._on_due = on_due
        self._ended = False

    def start(self) -> None:
        """Have it checked from now on.

        Raises:
            WorkerError: no native thread can be started here.
        """
        current().watch_item(self)

    def end(self) -> None:
        """Have it checked no more."""
        self._ended = True

    def check(self, now: float) -> float | None:
        """Report that it is due; return when it is due next."""
        if self._ended:
            return None
        self._on_due()
        return now + self.timeout / RENEWALS
