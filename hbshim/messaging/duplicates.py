"""The messages that this process has started and finished, by their ids.

A broker marks a message as redelivered whenever it was requeued: because a consumer was
cancelled, a connection was lost, or an operator asked for it. The mark does not show whether a
consumer had started to process the message. This cache does, for this process. All listeners of
the process share it, because a redelivered message may arrive at any of them.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable
from enum import Enum
from typing import Any, Generic, TypeAlias, TypeVar

from hbshim.messaging.recent import Recent
from hbshim.runtime.fork import PerProcess

#: The type of the messages that a listener receives.
Incoming = TypeVar("Incoming")

#: Queue, message id, and hash of the body: the copies of a FANOUT have one id in the queues of all
#: servers, and clients other than hbshim may give all messages the same id.
Key: TypeAlias = tuple[str, str, int]

#: How many ids of started messages are remembered.
REMEMBERED = 10_000


class Begun(Enum):
    """What the cache knows of a received message."""

    NEW = "new"
    RUNNING = "running"
    DONE = "done"


class DuplicateCache(Generic[Incoming]):
    """Remembers the latest messages, and all that are running.

    Parameters:
        most: messages that are remembered.
        lifetime: seconds for which each is remembered.
    """

    def __init__(self, most: int = REMEMBERED, lifetime: float = math.inf) -> None:
        self._lock = threading.RLock()
        self._running: dict[Key, list[Incoming]] = {}
        # The delivery that each of them was started with.
        self._run_by: dict[Key, Incoming] = {}
        self._done: Recent[Key] = Recent(most, lifetime)
        self._suspect: Recent[Key] = Recent(most, lifetime)
        # Started, and to be started again: a connection lost later has no influence on these.
        self._forgotten: Recent[Key] = Recent(most, lifetime)

    def begin_once(self, key: Key, *, check: bool) -> bool:
        """Record the start of a message that is acknowledged already.

        Parameters:
            key: of the message.
            check: look the message up; otherwise it is known to be new.

        Returns:
            False if this process has started it before.
        """
        with self._lock:
            if check and (key in self._done or key in self._suspect or key in self._running):
                return False
            self._forgotten.discard(key)
            self._done.add(key)
            return True

    def begin(self, key: Key, incoming: Incoming, *, check: bool) -> Begun:
        """Record the start of a message that is acknowledged at its end.

        Parameters:
            key: of the message.
            incoming: if another delivery of the message is running, this one is kept until that
                ends.
            check: look the message up; otherwise it is known to be new.
        """
        with self._lock:
            if check:
                if self.is_run_by(key, incoming):
                    return Begun.NEW  # an exception has interrupted its start
                if (copies := self._running.get(key)) is not None:
                    if incoming not in copies:
                        copies.append(incoming)
                    return Begun.RUNNING
                if key in self._done or key in self._suspect:
                    return Begun.DONE
            self._forgotten.discard(key)
            self._run_by[key] = incoming
            self._running.setdefault(key, [])
            return Begun.NEW

    def is_run_by(self, key: Key, incoming: Incoming) -> bool:
        """Return whether a message was started with this delivery, and has not ended."""
        return self._run_by.get(key) is incoming

    def end(self, key: Key) -> list[Incoming]:
        """Record the end of a message; return the deliveries that arrived in the meantime."""
        with self._lock:
            self._done.add(key)
            self._run_by.pop(key, None)
            return self._running.pop(key, [])

    def forget(self, key: Key) -> list[Incoming]:
        """Allow a message to start again; return the deliveries that arrived in the meantime."""
        with self._lock:
            self._done.discard(key)
            self._suspect.discard(key)
            self._forgotten.add(key)
            self._run_by.pop(key, None)
            return self._running.pop(key, [])

    def suspect(self, keys: Iterable[Key]) -> None:
        """Remember messages whose acknowledgements may be lost, however many others follow.

        A broker that does not notice the end of a connection redelivers them much later.
        """
        with self._lock:
            for key in keys:
                if key not in self._forgotten:
                    self._suspect.add(key)


#: By their limits. A lock that another thread holds at a fork stays locked in the child.
_caches: PerProcess[dict[tuple[int, float], DuplicateCache[Any]]] = PerProcess(dict)


def duplicate_cache(most: int = REMEMBERED, lifetime: float = math.inf) -> DuplicateCache[Any]:
    """Return the duplicate cache of this process that has these limits.

    Parameters:
        most, lifetime: see :class:`DuplicateCache`.
    """
    return _caches.get().setdefault((most, lifetime), DuplicateCache(most, lifetime))
