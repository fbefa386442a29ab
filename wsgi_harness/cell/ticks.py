"""Measures how late a tick comes; runs inside Apache, in every cell.

Two of these tell whose clock stands still between two requests: one in a green
thread, which needs the hub, and one in a native thread, which needs the GIL alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class Ticks:
    """Ticks at a fixed interval and notes when each was due and when it came.

    A tick that comes late is noted once; those that fell due meanwhile are left out.

    Parameters:
        interval: seconds between two ticks.
    """

    def __init__(self, interval: float) -> None:
        self._interval = interval
        # Due times come from the monotonic clock; reports are in time.time().
        self._to_wall = time.time() - time.monotonic()
        self._due = time.monotonic() + interval
        self._taken: list[tuple[float, float]] = []

    def run(self, sleep: Callable[[float], object]) -> None:
        """Tick for ever, in the thread whose `sleep` this is."""
        while True:
            sleep(max(0.0, self._due - time.monotonic()))
            now = time.monotonic()
            self._taken.append((self._due, now))
            missed = int((now - self._due) / self._interval)
            self._due += (missed + 1) * self._interval

    def report(self) -> dict[str, object]:
        """The ticks as [due, came] pairs and the one still awaited, in ``time.time()`` seconds."""
        wall = self._to_wall
        return {
            "taken": [(due + wall, came + wall) for due, came in list(self._taken)],
            "awaited": self._due + wall,
            "at": time.monotonic() + wall,
        }
