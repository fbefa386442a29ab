"""The keys that were added latest, bounded by their number and by their age. No I/O."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Recent(Generic[K]):
    """See the module. One thread may use it at a time.

    Parameters:
        most: the most keys that are remembered.
        lifetime: seconds for which each is remembered.
        clock: returns the time, in seconds.
    """

    def __init__(
        self,
        most: int,
        lifetime: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = most
        self._lifetime = lifetime
        self._clock = clock
        # Not a dict: finding the first of its keys takes longer with each that was removed.
        self._added: OrderedDict[K, float] = OrderedDict()

    def __contains__(self, key: K) -> bool:
        added = self._added.get(key)
        return added is not None and self._clock() < added + self._lifetime

    def __len__(self) -> int:
        return len(self._added)

    def add(self, key: K) -> None:
        """Remember a key from now on."""
        now = self._clock()
        self._added.pop(key, None)
        self._added[key] = now
        while len(self._added) > self._most or self._oldest() < now - self._lifetime:
            self._added.popitem(last=False)

    def _oldest(self) -> float:
        while True:
            try:
                return next(iter(self._added.values()), math.inf)
            except RuntimeError:
                continue  # a signal handler has added a key

    def discard(self, key: K) -> None:
        """Forget a key."""
        self._added.pop(key, None)
