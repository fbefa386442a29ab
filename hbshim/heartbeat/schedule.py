"""The deadlines of many links, in slots.

Links that are due in the same slot share one wake-up. A closed link is removed completely, so that
it causes no wake-up later. Not thread-safe: only the engine changes it.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)

#: Length of a slot in seconds; a check may run this much before its time. The wake-ups are the
#: cost, not the heartbeats: with 800 links at T = 10 s on a virtual machine, a heartbeat costs
#: 45 microseconds with slots of 1/32 s and 19 with these, for the thread's sleep and `send` alone.
SLOT = 1 / 8


class Schedule(Generic[Item]):
    """A heap of slots, each with the items that are due in it. Times in seconds."""

    def __init__(self) -> None:
        self._heap: list[int] = []
        self._buckets: dict[int, dict[Item, float]] = {}

    def __len__(self) -> int:
        return sum(map(len, list(self._buckets.values())))

    def __iter__(self) -> Iterator[Item]:
        # Lists first: a report in another thread may read during an iteration.
        return iter([item for bucket in list(self._buckets.values()) for item in list(bucket)])

    def put(self, item: Item, deadline: float) -> None:
        """Schedule `item` for the last slot before `deadline`; replaces its earlier entry."""
        self.discard(item)
        self.put_new(item, deadline)

    def put_new(self, item: Item, deadline: float) -> None:
        """The same for an item without an entry, at every heartbeat: without a search."""
        slot = math.floor(deadline / SLOT)
        bucket = self._buckets.get(slot)
        if bucket is None:
            bucket = self._buckets[slot] = {}
            heapq.heappush(self._heap, slot)
        bucket[item] = deadline

    def discard(self, item: Item) -> None:
        """Remove `item`, if it has an entry."""
        # At most a few hundred slots exist, for any number of links.
        slot = next((slot for slot, bucket in self._buckets.items() if item in bucket), None)
        if slot is None:
            return
        del self._buckets[slot][item]
        if not self._buckets[slot]:
            del self._buckets[slot]
            self._heap.remove(slot)
            heapq.heapify(self._heap)

    def next_deadline(self) -> float | None:
        """Return the time of the next slot with an item; None if there is none."""
        return self._heap[0] * SLOT if self._heap else None

    def pop_due(self, now: float) -> Iterator[tuple[Item, float]]:
        """Remove and yield each item that is due at `now`, with its deadline.

        One at a time: if the caller stops early, the rest stays here, still due.
        """
        while self._heap and self._heap[0] * SLOT <= now:
            bucket = self._buckets[self._heap[0]]
            while bucket:
                yield bucket.popitem()
            del self._buckets[heapq.heappop(self._heap)]
