"""How an application uses its connection; each workload meets a fault at another moment."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Workload:
    """What one connection does all day.

    Attributes:
        pauses: shortest and longest time between two calls, in units of T.
        confirms: each publish waits for the broker's confirmation.
        listens: it waits for messages in place of publishing.
        closes_after: calls after which it closes and opens anew; 0 for never.
    """

    name: str
    what: str
    pauses: tuple[float, float]
    confirms: bool = False
    listens: bool = False
    closes_after: int = 0

    def pause(self, draw: random.Random, heartbeat: float) -> float:
        """Seconds until the next call."""
        return heartbeat * draw.uniform(*self.pauses)


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("idle", "publishes after 3 to 6 T of silence, without confirms", (3.0, 6.0)),
        Workload("steady", "publishes many times in T, without confirms", (0.02, 0.15)),
        Workload(
            "confirmed", "publishes many times in T, with confirms", (0.02, 0.15), confirms=True
        ),
        Workload(
            "seldom", "publishes after 1 to 3 T of silence, with confirms", (1, 3), confirms=True
        ),
        Workload("listener", "waits for messages that never come", (0.0, 0.0), listens=True),
        Workload(
            "churner",
            "opens, publishes four times with confirms, closes, and again",
            (0.05, 0.3),
            confirms=True,
            closes_after=4,
        ),
    )
}
