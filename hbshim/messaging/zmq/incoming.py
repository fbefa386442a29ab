"""A request that a listener received, and how to answer it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from hbshim.errors import BrokerBlockedError
from hbshim.heartbeat import service
from hbshim.messaging.base import Payload, ReplyKind
from hbshim.messaging.duplicates import DuplicateCache, Key
from hbshim.messaging.zmq.arrived import Arrived
from hbshim.messaging.zmq.frames import Flag, Header, Kind

if TYPE_CHECKING:
    from hbshim.messaging.zmq.connection import Connection
    from hbshim.messaging.zmq.options import ZmqOptions

_KINDS: dict[ReplyKind, Kind] = {
    "result": Kind.RESULT,
    "error": Kind.ERROR,
    "progress": Kind.PROGRESS,
    "alive": Kind.ALIVE,
}

#: Seconds that sending a reply may take where its caller gave no timeout.
REPLY_LIMIT = 60.0

#: The longest pause before a notification is handled again, in seconds.
LONGEST_RETRY_PAUSE = 60.0

#: Seconds between two checks whether the proxy takes replies again.
_CHECK_EVERY = 0.01


class ZmqIncoming:
    """See :class:`hbshim.messaging.base.Incoming`."""

    __slots__ = (
        "_arrived",
        "_begun",
        "_connection",
        "_duplicates",
        "_options",
        "_settled",
        "payload",
    )

    def __init__(self, arrived: Arrived, connection: Connection, options: ZmqOptions) -> None:
        self._arrived = arrived
        self._options = options
        self._connection = connection
        self._settled = False
        self._begun = False
        self._duplicates: DuplicateCache[ZmqIncoming] | None = None
        content_type = arrived.header.content_type or "application/json"
        self.payload = Payload(arrived.body, content_type)

    @property
    def message_id(self) -> str:
        return self._arrived.header.id.hex()

    @property
    def may_have_run(self) -> bool:
        return bool(self._arrived.header.flags & Flag.AGAIN)

    @property
    def may_be_copy(self) -> bool:
        """Whether it may have been begun before: the copies arrive in any order."""
        return self._arrived.is_acknowledged

    @property
    def key(self) -> Key | None:
        """The key for the duplicate cache; None for what is never sent again."""
        return ("", self.message_id, 0) if self._arrived.is_acknowledged else None

    @property
    def attempts(self) -> int:
        # Those of what is sent again count at its sender.
        return self._arrived.attempts or int(self.may_have_run)

    @property
    def priority(self) -> str:
        return self._arrived.header.topic.rpartition(".")[2] if self._is_notification else ""

    @property
    def _is_notification(self) -> bool:
        return self._arrived.header.kind is Kind.NOTIFY

    @property
    def expects_reply(self) -> bool:
        return self._arrived.header.kind is Kind.CALL

    @property
    def expires(self) -> bool:
        # What is acknowledged has a time in which it may be begun, and nothing waits for its end.
        return self._arrived.header.left != 0 and not (self._begun and self.may_be_copy)

    @property
    def _until(self) -> float:
        return self._arrived.at + self._arrived.header.left / 1000

    def expired(self) -> bool:
        return self.expires and time.monotonic() > self._until

    def begin(self, duplicates: DuplicateCache[Any], key: Key) -> None:
        self._duplicates = duplicates

    def report_begun(self) -> None:
        self._begun = True
        if not self._is_notification:
            self._connection.confirm(self._arrived)

    def renew(self) -> bool:
        """Return False: the proxy does not count how often it is requeued."""
        return False

    def acknowledge(self) -> bool:
        if not self._settled:
            self._settled = True
            self._connection.acknowledge(self._arrived)
            if self._is_notification and self._arrived.is_acknowledged:
                self._connection.confirm(self._arrived)
            if self._duplicates is not None and self.key is not None:
                for copy in self._duplicates.end(self.key):
                    copy.acknowledge()
        return True

    def claim(self) -> bool:
        return self.acknowledge()

    def survive(self) -> bool:
        return False

    def skip(self) -> None:
        self._settled = True
        self._connection.expire(self._arrived)

    def reject(self, reason: str) -> None:
        detail = f"message {self.message_id} of topic {self._arrived.header.topic!r}: {reason}"
        service.current().metrics.record("message-rejected", "", detail)
        self.acknowledge()

    def return_to_queue(self) -> None:
        if not self._settled:
            self._settled = True
            self._forget()
            self._connection.release(self._arrived)

    def requeue(self) -> None:
        """Have a notification handled again later; give anything else back at once.

        One that its sender waits for is sent again, to any listener of its pool. Another one stays.
        """
        if self._is_notification and self._arrived.is_acknowledged:
            if not self._settled:
                self._settled = True
                self._forget()
                self._connection.requeue_elsewhere(self._arrived)
        elif not self._arrived.is_publication:
            self.return_to_queue()
        elif self.attempts + 1 >= self._options.notification_retry_attempts:
            self.reject(f"it was tried {self.attempts + 1} times")
        elif not self._settled:
            self._settled = True
            delay = self._options.notification_retry_delay * 2**self.attempts
            self._connection.requeue(self._arrived, min(delay, LONGEST_RETRY_PAUSE))

    def _forget(self) -> None:
        """Allow this process to begin it again, and drop the copies that have come meanwhile."""
        if self._duplicates is not None and self.key is not None:
            for copy in self._duplicates.forget(self.key):
                copy.skip()

    def reply(self, payload: Payload, kind: ReplyKind = "result") -> None:
        if not self.expects_reply:
            return
        until = self._until if self.expires else time.monotonic() + REPLY_LIMIT
        while not self._connection.has_space:
            if time.monotonic() >= until:
                raise BrokerBlockedError(
                    "the proxy of this host takes no replies; check that it runs: hbshim zmq-proxy"
                )
            time.sleep(_CHECK_EVERY)
        header = Header(_KINDS[kind], self._arrived.header.id, content_type=payload.content_type)
        self._connection.reply(self._arrived.client, header, payload.body)
