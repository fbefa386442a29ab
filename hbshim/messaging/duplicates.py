"""Which messages this process has begun and finished, by their ids.

A broker marks a message as redelivered whenever anything has requeued it: a consumer that was
cancelled, a connection that was lost, an operator. The mark does not say whether work on it
has begun. This duplicate cache does, as far as this process is concerned. All listeners of the
process share it, because a redelivered message may arrive at any of them.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable
from enum import Enum
from typing import Any, Generic, TypeAlias, TypeVar

#: What a listener receives.
Incoming = TypeVar("Incoming")

#: Queue, message id, and hash of the body: a FANOUT has the same id in the queue of each server,
#: and a client of another kind may give all its messages the same id.
Key: TypeAlias = tuple[str, str, int]

#: Ids of begun messages that are remembered.
REMEMBERED = 10_000


class Begun(Enum):
    """What is known of a message that arrives."""

    NEW = "new"
    RUNNING = "running"
    DONE = "done"


class _Latest(set[Key]):
    """The latest keys that were added."""

    def __init__(self) -> None:
        super().__init__()
        self._order: deque[Key] = deque()

    def add(self, key: Key) -> None:
        super().add(key)
        self._order.append(key)
        if len(self._order) > REMEMBERED:
            self.discard(self._order.popleft())


class DuplicateCache(Generic[Incoming]):
    """Remembers the latest :data:`REMEMBERED` messages, and all that are running."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[Key, list[Incoming]] = {}
        self._done = _Latest()
        self._suspect = _Latest()
        # Begun, and to be begun again: a connection lost later says nothing about them.
        self._forgotten = _Latest()

    def begin_once(self, key: Key, *, check: bool) -> bool:
        """Record that work on a message begins which is acknowledged already.

        Parameters:
            check: look the message up; without, it is known to be new.

        Returns:
            False if this process has begun it before.
        """
        with self._lock:
            if check and (key in self._done or key in self._suspect or key in self._running):
                return False
            self._forgotten.discard(key)
            self._done.add(key)
            return True

    def begin(self, key: Key, incoming: Incoming, *, check: bool) -> Begun:
        """Record that work on a message begins which is acknowledged at its end.

        Parameters:
            incoming: kept, if another delivery of the message is running, until that ends.
            check: look the message up; without, it is known to be new.
        """
        with self._lock:
            if check:
                if key in self._running:
                    self._running[key].append(incoming)
                    return Begun.RUNNING
                if key in self._done or key in self._suspect:
                    return Begun.DONE
            self._forgotten.discard(key)
            self._running.setdefault(key, [])
            return Begun.NEW

    def end(self, key: Key) -> list[Incoming]:
        """Record that work has ended; return the deliveries that arrived meanwhile."""
        with self._lock:
            self._done.add(key)
            return self._running.pop(key, [])

    def forget(self, key: Key) -> list[Incoming]:
        """Let a message be begun again; return the deliveries that arrived meanwhile."""
        with self._lock:
            self._done.discard(key)
            self._suspect.discard(key)
            self._forgotten.add(key)
            return self._running.pop(key, [])

    def suspect(self, keys: Iterable[Key]) -> None:
        """Remember messages whose acknowledgements may be lost, however many others follow.

        A broker that does not notice the end of a connection redelivers them much later.
        """
        with self._lock:
            for key in keys:
                if key not in self._forgotten:
                    self._suspect.add(key)


#: By process id: a lock that another thread holds at a fork stays locked in the child.
_caches: dict[int, DuplicateCache[Any]] = {}


def duplicate_cache() -> DuplicateCache[Any]:
    """Return the duplicate cache of this process."""
    return _caches.setdefault(os.getpid(), DuplicateCache())
