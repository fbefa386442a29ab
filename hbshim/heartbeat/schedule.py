"""Deadlines of many links, in coarse slots.

Links that fall due within the same slot are looked at in one wake-up, and a
closed link leaves without a trace: no stale entry wakes the thread later.
Not thread-safe: only the engine's turn changes it.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)

#: Length of a slot in seconds; a look comes up to this much before its time. It is
#: the wake-ups that cost, not the beats: with 800 links at T = 10 s on a virtual
#: machine, 45 microseconds a beat with slots of 1/32 s and 19 with these, for
#: nothing but the thread's sleep and `send`.
SLOT = 1 / 8


class Schedule(Generic[Item]):
    """A heap of slots, each with the items that fall due in it. Times in seconds."""

    def __init__(self) -> None:
        self._heap: list[int] = []
        self._buckets: dict[int, dict[Item, float]] = {}

    def __len__(self) -> int:
        return sum(map(len, list(self._buckets.values())))

    def __iter__(self) -> Iterator[Item]:
        # Lists first: a report in another thread may ask while a turn is under way.
        return iter([item for bucket in list(self._buckets.values()) for item in list(bucket)])

    def put(self, item: Item, deadline: float) -> None:
        """Look at `item` at the last slot before `deadline`; replaces an earlier one."""
        self.discard(item)
        self.put_new(item, deadline)

    def put_new(self, item: Item, deadline: float) -> None:
        """The same for an item that is not in here, at every beat: without a search."""
        slot = math.floor(deadline / SLOT)
        bucket = self._buckets.get(slot)
        if bucket is None:
            bucket = self._buckets[slot] = {}
            heapq.heappush(self._heap, slot)
        bucket[item] = deadline

    def discard(self, item: Item) -> None:
        """Forget `item`, if it is here."""
        # At most a few hundred slots lie ahead, however many the links.
        slot = next((slot for slot, bucket in self._buckets.items() if item in bucket), None)
        if slot is None:
            return
        del self._buckets[slot][item]
        if not self._buckets[slot]:
            del self._buckets[slot]
            self._heap.remove(slot)
            heapq.heapify(self._heap)

    def next_deadline(self) -> float | None:
        """When the next slot with something in it comes; None when nothing is scheduled."""
        return self._heap[0] * SLOT if self._heap else None

    def pop_due(self, now: float) -> Iterator[tuple[Item, float]]:
        """Take out each item that is due at `now`, with the deadline it was put in with.

        One at a time: an iteration that ends early leaves the rest in here, still due.
        """
        while self._heap and self._heap[0] * SLOT <= now:
            bucket = self._buckets[self._heap[0]]
            while bucket:
                yield bucket.popitem()
            del self._buckets[heapq.heappop(self._heap)]
