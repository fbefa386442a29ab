"""Replies that a proxy holds for clients whose connection is lost for a moment. No I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from hbshim.messaging.zmq import frames

#: Bytes of a reply beyond its frames, about.
_OVERHEAD = 300


class HeldReplies:
    """Bounded by time and by bytes; what does not fit is dropped.

    Parameters:
        most_bytes: of all replies.

    Attributes:
        dropped: how many replies never reached their clients.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._size = 0
        self._by_client: dict[bytes, deque[tuple[float, list[bytes]]]] = {}
        self.dropped = 0

    def __len__(self) -> int:
        return sum(map(len, self._by_client.values()))

    def holds(self, client: bytes) -> bool:
        """Return whether replies are held for a client."""
        return client in self._by_client

    def held_for(self, client: bytes) -> set[bytes]:
        """Return the ids of the requests whose replies are held for a client."""
        return {frames.id_of(message[0]) for _, message in self._by_client.get(client, ())}

    def put(self, client: bytes, message: list[bytes], until: float) -> None:
        """Hold a reply behind the earlier ones of its client.

        Parameters:
            until: when it is dropped, of ``time.monotonic()``; not before the earlier ones.
        """
        size = _size_of(message)
        if self._size + size > self._most_bytes:
            self.dropped += 1
            return
        self._size += size
        self._by_client.setdefault(client, deque()).append((until, message))

    def send(self, client: bytes, send: Callable[[list[bytes]], bool]) -> None:
        """Pass the replies to a client on, until one cannot be sent.

        Parameters:
            send: returns whether it could.
        """
        queue = self._by_client.get(client, deque())
        while queue and send(queue[0][1]):
            self._size -= _size_of(queue.popleft()[1])
        if not queue:
            self._by_client.pop(client, None)

    def drop_late(self, now: float) -> None:
        """Drop what was held for its time."""
        for client, queue in list(self._by_client.items()):
            while queue and queue[0][0] <= now:
                self._size -= _size_of(queue.popleft()[1])
                self.dropped += 1
            if not queue:
                del self._by_client[client]


def _size_of(message: list[bytes]) -> int:
    return _OVERHEAD + sum(map(len, message))
