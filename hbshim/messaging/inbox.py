"""The messages that a listener has received and not returned from a poll yet.

With `acknowledge_first` a message is processed at most once. A redelivered message is processed
unless this process has started it before: see :mod:`hbshim.messaging.duplicates`, and
docs/messaging.md for the limits of this guarantee.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from hbshim.messaging.duplicates import Begun, DuplicateCache, Key

#: How many of the latest messages of a connection are remembered when it is lost.
SUSPECTS = 1000


class Received(Protocol):
    """What an inbox needs of a message, beyond :class:`hbshim.messaging.base.Incoming`.

    Attributes:
        key: of the duplicate cache; None for a message without an id.
        may_be_copy: whether it may have been started before, as this delivery or as another one.
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
    def claim(self) -> bool:
        """Acknowledge it before it is processed.

        Returns whether this process is to process it.
        """
        ...

    def return_to_queue(self) -> None: ...

    def survive(self) -> bool:
        """Note that its connection is lost, and that it was not begun.

        Returns whether it is to be processed all the same, because nothing redelivers it.
        """
        ...

    def skip(self) -> None:
        """Drop it, because its time is over before it was begun."""
        ...

    def renew(self) -> bool:
        """Replace it by a fresh copy if the broker might soon drop it.

        Returns whether it was replaced.
        """
        ...

    def begin(self, duplicates: DuplicateCache[Any], key: Key) -> None:
        """Have the end of its processing recorded in `duplicates`."""
        ...

    def report_begun(self) -> None:
        """Report to its sender, if that waits for it, that this process has begun the message.

        It may have begun it earlier, as another copy.
        """
        ...


M = TypeVar("M", bound=Received)


class Inbox(Generic[M]):
    """Messages in order of arrival.

    Parameters:
        acknowledge_first: acknowledge each message when it is handed out, before it is processed.
        duplicates: the messages that this process has started.

    Attributes:
        put: adds a message, and whether its queue exists longer than the listener. A message of
            another queue would be lost if it were requeued.
    """

    def __init__(self, duplicates: DuplicateCache[M], *, acknowledge_first: bool) -> None:
        self._acknowledge_first = acknowledge_first
        self._entries: deque[tuple[M, bool]] = deque()
        self.put = self._entries.append
        self.duplicates = duplicates
        self._latest: deque[Key] = deque(maxlen=SUSPECTS)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def first(self) -> M:
        """Return the next message to hand out."""
        return self._entries[0][0]

    def hand_out(self, batch: list[M]) -> None:
        """Remove the first message; append it to `batch` if it is to be processed.

        An exception of a signal handler or a green timeout may come behind any call: the message is
        still the first one then, and the next call continues.
        """
        message, kept = self._entries[0]
        if self._begin(message, kept):
            # No call between these two.
            del self._entries[0]
            batch += (message,)
        else:
            del self._entries[0]

    def _begin(self, message: M, kept: bool) -> bool:
        """Return whether a message is to be processed; repeatable after an exception."""
        if message.expired():
            message.skip()
            return False
        if kept and message.renew():
            return False
        if self._acknowledge_first:
            return self._begin_once(message, kept)
        key = message.key
        if key is None:
            return True
        state = self.duplicates.begin(key, message, check=message.may_be_copy)
        message.report_begun()
        if state is Begun.RUNNING:
            return False
        if state is Begun.DONE:
            message.acknowledge()
            return False
        self._latest.append(key)
        message.begin(self.duplicates, key)
        return True

    def _begin_once(self, message: M, kept: bool) -> bool:
        """Acknowledge a message; return whether it is to be processed."""
        key = message.key
        if key is not None and not self.duplicates.begin_once(key, check=message.may_be_copy):
            message.acknowledge()
            message.report_begun()
            return False
        if not message.claim() and kept:
            # It is still the broker's, which redelivers it, here or to another server. Or a
            # router's, which reports to its sender that it was not processed here.
            if key is not None:
                self.duplicates.forget(key)
            return False
        if key is not None:
            self._latest.append(key)
            message.report_begun()
        return True

    def return_to_queue(self, *, stopped: bool) -> None:
        """Requeue the messages that were not handed out.

        Parameters:
            stopped: whether the listener ends. Messages of queues that end with it stay here, and
                are handed out.
        """
        entries = list(self._entries)
        self._entries.clear()
        for message, kept in entries:
            if kept or not stopped:
                if (key := message.key) is not None and self.duplicates.is_run_by(key, message):
                    message.begin(self.duplicates, key)  # its start was interrupted
                message.return_to_queue()
            else:
                self.put((message, kept))

    def drop_redelivered(self) -> None:
        """Drop the messages that the broker redelivers; keep those of a deleted queue."""
        self._keep(lambda _message, kept: not kept)

    def drop(self, which: Callable[[M], bool]) -> None:
        """Drop the messages for which `which` is true, if the broker redelivers them."""
        self._keep(lambda message, kept: not (kept and which(message)))

    def _keep(self, which: Callable[[M, bool], bool]) -> None:
        entries = [entry for entry in self._entries if which(*entry)]
        self._entries.clear()
        self._entries.extend(entries)

    def lose(self) -> None:
        """Handle a lost connection: acknowledgements that were written may not have arrived."""
        first = self._acknowledge_first
        self._keep(lambda message, kept: not kept or (first and message.survive()))
        self.duplicates.suspect(self._latest)
        self._latest.clear()
