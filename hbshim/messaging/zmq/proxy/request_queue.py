"""Requests that wait in a proxy until a server has credit for them. No I/O.

The queue is bounded by the requests of each key that can be rejected, by bytes, and by the time
that each has left.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from hbshim.messaging.zmq.frames import Flag, Header

#: Bytes of a request beyond its header and body, about.
_OVERHEAD = 500


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request.

    Attributes:
        client: the routing id that its replies go to; empty for a cast that no server
            acknowledges.
        head: the bytes of its header.
        header: decoded from them.
        since: when it arrived, of ``time.monotonic()``.
    """

    client: bytes
    head: bytes
    header: Header
    body: memoryview
    since: float

    @property
    def size(self) -> int:
        """Its bytes, about."""
        return _OVERHEAD + len(self.head) + len(self.body)

    @property
    def until(self) -> float:
        """When its time is over, of ``time.monotonic()``."""
        return self.since + self.header.left / 1000 if self.header.left else math.inf

    @property
    def is_one_way(self) -> bool:
        """Whether its sender cannot be notified that there is no space."""
        return not (self.client or self.header.flags & Flag.WANTS_ACK)

    def left(self, now: float) -> int:
        """Return its milliseconds left; less than 1 where its time is over."""
        return self.header.left - int((now - self.since) * 1000)

    def expired(self, now: float) -> bool:
        """Return whether its time is over."""
        return self.header.left != 0 and self.left(now) < 1


class RequestQueue:
    """The requests of every key.

    Parameters:
        most: requests of one key.
        most_bytes: of all requests.

    Attributes:
        size: bytes of all requests.
        expired: how many ended here because their time was over.
    """

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._by_key: dict[bytes, deque[Waiting]] = {}
        self.size = 0
        self.expired = 0

    def __len__(self) -> int:
        return sum(map(len, self._by_key.values()))

    def oldest(self, now: float) -> float:
        """Return for how many seconds the oldest request has waited; 0 where none does."""
        return max((now - queue[0].since for queue in self._by_key.values()), default=0.0)

    def waits(self, key: bytes) -> bool:
        """Return whether requests to `key` wait."""
        return key in self._by_key

    def put(self, key: bytes, waiting: Waiting) -> bool:
        """Add a request; return False if there is no space for it."""
        queue = self._by_key.get(key, ())
        # A burst of casts over one way does not slow its sender down: bytes and time bound it.
        full = len(queue) >= self._most and not waiting.is_one_way
        if full or self.size + waiting.size > self._most_bytes:
            return False
        self._by_key.setdefault(key, deque()).append(waiting)
        self.size += waiting.size
        return True

    def put_back(self, key: bytes, waiting: Waiting) -> None:
        """Add a request before all others: it was let in before."""
        self._by_key.setdefault(key, deque()).appendleft(waiting)
        self.size += waiting.size

    def take(self, key: bytes, now: float) -> Waiting | None:
        """Remove and return the first request to `key` whose time is not over."""
        queue = self._by_key.get(key)
        while queue:
            waiting = queue.popleft()
            self.size -= waiting.size
            if not queue:
                del self._by_key[key]
            if not waiting.expired(now):
                return waiting
            self.expired += 1
        return None

    def calls_of(self, client: bytes) -> set[bytes]:
        """Return the ids of the calls of a client."""
        queues = self._by_key.values()
        return {each.header.id for queue in queues for each in queue if each.client == client}

    def drop_expired(self, now: float) -> None:
        """Remove the requests whose time is over."""
        for key, queue in list(self._by_key.items()):
            kept = deque(each for each in queue if not each.expired(now))
            self.expired += len(queue) - len(kept)
            self.size -= sum(each.size for each in queue if each.expired(now))
            if kept:
                self._by_key[key] = kept
            else:
                del self._by_key[key]

    def take_calls(self, key: bytes) -> list[Waiting]:
        """Remove and return what clients wait for; other casts stay until their time is over."""
        queue = self._by_key.pop(key, None)
        if queue is None:
            return []
        calls = [each for each in queue if each.client]
        self.size -= sum(each.size for each in calls)
        if casts := deque(each for each in queue if not each.client):
            self._by_key[key] = casts
        return calls
