"""Measures the lateness of a periodic probe; runs in every cell.

Two of them show which thread does not run between two requests: one in a green thread, which needs
the hub, or in a task, which needs the event loop, and one in a native thread, which needs only the
GIL.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class Probe:
    """A latency probe: runs at a fixed interval and records when each run was due and when it came.

    A late run is recorded once; those that fell due in the meantime are skipped.

    Parameters:
        interval: seconds between two runs.
    """

    def __init__(self, interval: float) -> None:
        self._interval = interval
        # Due times come from the monotonic clock; reports are in time.time().
        self._to_wall = time.time() - time.monotonic()
        self._due = time.monotonic() + interval
        self._taken: list[tuple[float, float]] = []

    def run(self, sleep: Callable[[float], object]) -> None:
        """Run forever, in the thread whose `sleep` this is."""
        while True:
            sleep(self._until_due())
            self._take()

    async def run_in_loop(self) -> None:
        """Run forever, as a task of an event loop of asyncio."""
        while True:
            await asyncio.sleep(self._until_due())
            self._take()

    def _until_due(self) -> float:
        return max(0.0, self._due - time.monotonic())

    def _take(self) -> None:
        now = time.monotonic()
        self._taken.append((self._due, now))
        missed = int((now - self._due) / self._interval)
        self._due += (missed + 1) * self._interval

    def report(self) -> dict[str, object]:
        """Return [due, came] pairs and the next due time, in ``time.time()`` seconds."""
        wall = self._to_wall
        return {
            "taken": [(due + wall, came + wall) for due, came in list(self._taken)],
            "awaited": self._due + wall,
            "at": time.monotonic() + wall,
        }
