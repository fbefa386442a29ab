"""What a listener has received and not handed out yet.

A message is run once, or not at all, if it is acknowledged before the work begins. What the
broker redelivers is run unless this process has begun it: see :mod:`hbshim.messaging.duplicates`,
and docs/messaging.md for the limits of this promise.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Generic, Protocol, TypeVar

from hbshim.messaging.duplicates import Begun, DuplicateCache, Key, duplicate_cache

#: Messages of one connection that are remembered when it is lost: those begun last.
SUSPECTS = 1000


class Received(Protocol):
    """What an inbox needs of a message, beyond :class:`hbshim.messaging.base.Incoming`.

    Attributes:
        key: of the duplicate cache; None for a message without an id.
        may_be_copy: whether it may have been begun before, as this delivery or as another one.
    """

    @property
    def attempts(self) -> int: ...
    @property
    def expires(self) -> bool: ...
    @property
    def key(self) -> Key | None: ...
    @property
    def may_be_copy(self) -> bool: ...

    def expired(self) -> bool: ...
    def acknowledge(self) -> bool: ...
    def give_back(self) -> None: ...

    def renew(self) -> bool:
        """Replace it by a new copy if the broker might soon drop it; return whether it was."""
        ...

    def begin(self, duplicates: DuplicateCache[Any], key: Key) -> None:
        """Record in `duplicates` when the work on it ends."""
        ...


M = TypeVar("M", bound=Received)


class Inbox(Generic[M]):
    """Messages in the order in which they came.

    Parameters:
        acknowledge_first: acknowledge each as it is handed out, and so before the work on it
            begins.

    Attributes:
        put: adds a message, and whether its queue outlives the listener. What is given back to
            one that does not is lost.
        duplicates: the messages that this process has begun.
    """

    def __init__(self, *, acknowledge_first: bool) -> None:
        self._acknowledge_first = acknowledge_first
        self._entries: deque[tuple[M, bool]] = deque()
        self.put = self._entries.append
        self.duplicates: DuplicateCache[M] = duplicate_cache()
        self._latest: deque[Key] = deque(maxlen=SUSPECTS)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def first(self) -> M:
        """The message that is handed out next."""
        return self._entries[0][0]

    def hand_out(self, batch: list[M]) -> None:
        """Take the first message out; append it to `batch` if work on it is to begin."""
        message, kept = self._entries.popleft()
        if message.expired():
            message.acknowledge()
            return
        if kept and message.renew():
            return
        if self._acknowledge_first:
            if self._begin_once(message, kept):
                batch.append(message)
            return
        key = message.key
        if key is not None:
            state = self.duplicates.begin(key, message, check=message.may_be_copy)
            if state is Begun.RUNNING:
                return
            if state is Begun.DONE:
                message.acknowledge()
                return
            self._latest.append(key)
            message.begin(self.duplicates, key)
        batch.append(message)

    def _begin_once(self, message: M, kept: bool) -> bool:
        """Acknowledge a message; return whether work on it is to begin."""
        key = message.key
        if key is not None and not self.duplicates.begin_once(key, check=message.may_be_copy):
            message.acknowledge()
            return False
        if not message.acknowledge() and kept:
            # It is the broker's, and is redelivered, here or to another server.
            if key is not None:
                self.duplicates.forget(key)
            return False
        if key is not None:
            self._latest.append(key)
        return True

    def give_back(self, *, stopped: bool) -> None:
        """Return what was not handed out to its queues.

        Parameters:
            stopped: what is in queues that end with the listener stays here, to be handed out.
        """
        entries = list(self._entries)
        self._entries.clear()
        for message, kept in entries:
            if kept or not stopped:
                message.give_back()
            else:
                self.put((message, kept))

    def drop_redelivered(self) -> None:
        """Drop what the broker redelivers; what was in a deleted queue is handed out."""
        entries = [entry for entry in self._entries if not entry[1]]
        self._entries.clear()
        self._entries.extend(entries)

    def lose(self) -> None:
        """The connection was lost: acknowledgements that were written may not have arrived."""
        self.drop_redelivered()
        self.duplicates.suspect(self._latest)
        self._latest.clear()
