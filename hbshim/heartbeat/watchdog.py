"""Watches an engine whose worker runs in a hub, from the native thread.

A hub that is parked between requests, or blocked by a long computation, cannot notice that it is
late. The native thread can.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable

from hbshim.heartbeat.engine import Engine
from hbshim.metrics import Metrics

#: Lateness above this share of T moves the links to the native thread.
LATE_SHARE = 1 / 8


class Watchdog:
    """Checks whether `engine` ran an iteration when one was due.

    Parameters:
        engine: the engine of a green worker; held weakly.
        timeout: the smallest T among its links, in seconds.
        on_late: called once per lateness with its seconds; returns True when the links have been
            moved and the watchdog is no longer needed.
    """

    def __init__(
        self, engine: Engine, timeout: float, metrics: Metrics, on_late: Callable[[float], bool]
    ) -> None:
        self.timeout = timeout
        self._engine = weakref.ref(engine)
        self._metrics = metrics
        self._on_late = on_late
        self._reported_due: float | None = None
        # When this check is due, unless the one before it was late itself.
        self._planned: float | None = None

    @property
    def engine(self) -> Engine | None:
        """The watched engine, while it exists."""
        return self._engine()

    def check(self, now: float) -> float | None:
        """Check once. Return the time of the next check, or None when the watchdog ends.

        It also ends while the engine has nothing to do: an idle process is not woken up for it.
        """
        engine = self._engine()
        due = None if engine is None else engine.next_due
        if engine is None or due is None:
            return None
        grace = self.timeout * LATE_SHARE
        planned, self._planned = self._planned, None
        if planned is not None and now > planned + grace / 2:
            # Late itself, for example because the whole process was stopped: give the hub time.
            return now + grace
        if now < due + grace:
            self._planned = due + grace
            return self._planned
        if due != self._reported_due:
            self._reported_due = due
            self._metrics.record(
                "worker-late",
                "",
                f"worker {engine.worker.name} is {now - due:.2f} s late, T = {self.timeout:g} s",
            )
        if self._on_late(now - due):
            return None
        self._planned = now + grace
        return self._planned
