"""Deadlines of many links, in coarse ticks.

Links that fall due within the same tick are looked at in one wake-up, and a
closed link leaves without a trace: no stale entry wakes the thread later.
Not thread-safe; only the engine's turn touches it.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)

#: Length of a tick in seconds; a look comes up to this much before its time. It is
#: the wake-ups that cost, not the beats: with 800 links at T = 10 s on a virtual
#: machine, 45 microseconds a beat with ticks of 1/32 s and 19 with these, for
#: nothing but the thread's sleep and `send`.
TICK = 1 / 8


class Schedule(Generic[Item]):
    """A heap of ticks, each with the items that fall due in it. Times in seconds."""

    def __init__(self) -> None:
        self._heap: list[int] = []
        self._buckets: dict[int, dict[Item, float]] = {}
        self._tick_of: dict[Item, int] = {}

    def __len__(self) -> int:
        return len(self._tick_of)

    def __iter__(self) -> Iterator[Item]:
        return iter(list(self._tick_of))

    def put(self, item: Item, deadline: float) -> None:
        """Look at `item` at the last tick before `deadline`; replaces an earlier one."""
        self.discard(item)
        tick = math.floor(deadline / TICK)
        bucket = self._buckets.get(tick)
        if bucket is None:
            bucket = self._buckets[tick] = {}
            heapq.heappush(self._heap, tick)
        bucket[item] = deadline
        self._tick_of[item] = tick

    def discard(self, item: Item) -> None:
        """Forget `item`, if it is here."""
        tick = self._tick_of.pop(item, None)
        if tick is None:
            return
        bucket = self._buckets[tick]
        del bucket[item]
        if not bucket:
            del self._buckets[tick]
            # At most a few hundred ticks lie ahead, however many the links.
            self._heap.remove(tick)
            heapq.heapify(self._heap)

    def next_deadline(self) -> float | None:
        """When the next tick with something in it comes; None when nothing is scheduled."""
        return self._heap[0] * TICK if self._heap else None

    def pop_due(self, now: float) -> Iterator[tuple[Item, float]]:
        """Take out everything due at `now`, with the deadline it was put in with."""
        while self._heap and self._heap[0] * TICK <= now:
            bucket = self._buckets.pop(heapq.heappop(self._heap))
            for item in bucket:
                del self._tick_of[item]
            yield from bucket.items()
