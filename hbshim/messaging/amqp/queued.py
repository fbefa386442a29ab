"""Messages received from a queue: how they are acknowledged and retried."""

from __future__ import annotations

import time
from typing import Literal

from hbshim.errors import ConnectionLostError, MessagingError
from hbshim.heartbeat import service
from hbshim.messaging.amqp.connection import FORMAT
from hbshim.messaging.amqp.retries import (
    ATTEMPTS_HEADER,
    DELIVERY_COUNT_HEADER,
    RENEWED_HEADER,
    Retries,
    own_headers,
    pause_before_requeue,
)
from hbshim.messaging.base import Payload, ReplyKind
from hbshim.messaging.duplicates import DuplicateCache, Key
from hbshim.messaging.reporting import LOG
from hbshim.protocol.messages import PERSISTENT, Delivery, Message

#: Seconds for sending a reply to a caller without a timeout.
REPLY_LIMIT = 60.0

#: Requeues of a message in a quorum queue after which a fresh copy replaces it. By default,
#: RabbitMQ 4 drops a message silently after 20.
RENEW_AFTER = 5


class QueuedIncoming:
    """A delivery; see :class:`hbshim.messaging.base.Incoming`.

    Parameters:
        source: the queue that it came from.
        retries: stores copies of it.
        later: :meth:`requeue` stores it for a later attempt even if it has a time limit;
            otherwise only messages without a time limit, and it requeues the others.

    Attributes:
        attempts: the number of earlier attempts.
    """

    __slots__ = (
        "_arrived",
        "_delivery",
        "_duplicates",
        "_key",
        "_later",
        "_retries",
        "_settled",
        "attempts",
        "payload",
        "priority",
        "queue",
    )

    def __init__(
        self,
        delivery: Delivery,
        priority: str = "",
        *,
        queue: str = "",
        retries: Retries | None = None,
        later: bool = False,
    ) -> None:
        self._delivery = delivery
        self._retries = retries
        self._later = later
        self._arrived = time.monotonic()
        self._settled = False
        self._duplicates: DuplicateCache[QueuedIncoming] | None = None
        self._key: Key | None = None
        self.queue = queue
        self.priority = priority
        self.payload = Payload(delivery.body, delivery.content_type or "application/json")
        headers = delivery.headers
        self.attempts = count_in(headers.get(ATTEMPTS_HEADER)) if headers else 0

    @property
    def message_id(self) -> str:
        return self._delivery.message_id or ""

    @property
    def key(self) -> Key | None:
        """The key for the duplicate cache; None for a message without an id."""
        identity = self._delivery.message_id
        return (self.queue, identity, hash(self._delivery.body)) if identity else None

    @property
    def expects_reply(self) -> bool:
        return self._delivery.reply_to is not None

    @property
    def may_have_run(self) -> bool:
        return self._delivery.redelivered

    @property
    def may_be_copy(self) -> bool:
        """Whether it may have been started before, as this delivery or as another one.

        If a confirm is lost, a request is stored twice. If the acknowledgement of a renewed request
        is lost, its earlier copy is redelivered.
        """
        delivery = self._delivery
        return (
            delivery.redelivered
            or (delivery.expiration is None and delivery.type == FORMAT)
            or RENEWED_HEADER in delivery.headers
        )

    @property
    def expires(self) -> bool:
        """Whether its sender set a time limit."""
        return self._delivery.expiration is not None

    def expired(self) -> bool:
        # The broker measures the time in the queue, and drops a message that expires there. The
        # clocks of two machines are not compared.
        limit = self._delivery.expiration
        return limit is not None and time.monotonic() - self._arrived > limit

    def begin(self, duplicates: DuplicateCache[QueuedIncoming], key: Key) -> None:
        """Have the end of its processing recorded: it has started, and is not acknowledged yet."""
        self._duplicates, self._key = duplicates, key

    def survive(self) -> bool:
        return False  # the broker redelivers it

    def skip(self) -> None:
        self.acknowledge()

    def report_begun(self) -> None:
        """Do nothing: the broker took it from its sender."""

    def acknowledge(self) -> bool:
        return self._end("acknowledge")

    def claim(self) -> bool:
        return self.acknowledge()

    def reject(self, reason: str) -> None:
        self._record_rejected(reason)
        self._end("refuse")

    def _record_rejected(self, reason: str) -> None:
        service.current().metrics.record(
            "message-rejected", "", f"message {self.message_id} of queue {self.queue!r}: {reason}"
        )

    def _end(self, how: Literal["acknowledge", "refuse"]) -> bool:
        if self._settled:
            return True
        later = self._duplicates.end(self._key) if self._duplicates and self._key else []
        self._settled = self._settle(how)
        # The broker has requeued all but the latest delivery, unless there are copies.
        for each in later:
            self._settled = each._end(how) or self._settled
        return self._settled

    def return_to_queue(self) -> None:
        if self._settled:
            return
        for each in (self, *self._forgotten()):
            each._settled = True
            each._settle("requeue")

    def requeue(self) -> None:
        if self._settled:
            return
        *others, latest = self, *self._forgotten()
        self._settled = True
        for each in others:
            # No effect, unless it is another copy.
            each._settled = True
            each._settle("requeue")
        latest._settled = True
        latest._retry()

    def _forgotten(self) -> list[QueuedIncoming]:
        """Allow this process to begin it again; return its copies that have come meanwhile."""
        return self._duplicates.forget(self._key) if self._duplicates and self._key else []

    def _retry(self) -> None:
        began = time.monotonic()
        if self._retries is None or not (self._later or not self.expires):
            # Stored for later, it would lose its time limit.
            pause_before_requeue(began)
            self._settle("requeue")
            return
        try:
            self._store_for_later(self._retries)
        except Exception as error:
            held = self._requeued_often()
            LOG.warning(
                "message %s cannot be stored for a later attempt (%s); it is %s",
                self.message_id,
                error,
                "held here and tried again" if held else "requeued at once",
            )
            if held:
                self._retries.held.add(self._store_held)
                return
            pause_before_requeue(began)
            self._settle("requeue")

    def _store_for_later(self, retries: Retries) -> None:
        attempts = self.attempts + 1
        dead = retries.retry(self._copy(), self.queue, attempts)
        if dead:
            LOG.error(
                "message %s of queue %r was tried %d times; it is in the dead-letter queue %r now",
                self.message_id,
                self.queue,
                attempts,
                dead,
            )
        self._settle("acknowledge")

    def _store_held(self) -> bool:
        """Try again to store it for a later attempt; return whether that is settled."""
        if self._retries is None or not self._delivery.connection.is_open:
            return True  # the broker redelivers it
        try:
            self._store_for_later(self._retries)
        except Exception:
            return False
        return True

    def _requeued_often(self) -> bool:
        return count_in(self._delivery.headers.get(DELIVERY_COUNT_HEADER)) >= RENEW_AFTER

    def renew(self) -> bool:
        """Replace it by a fresh copy if the broker might soon drop it.

        Returns whether it was replaced.

        A quorum queue counts how often a message was requeued, and has a limit.
        """
        if not self._delivery.redelivered or self._retries is None or not self._requeued_often():
            return False
        try:
            self._retries.renew(self._copy(), self.queue)
        except MessagingError:
            return False
        self._settled = True
        self._settle("acknowledge")
        return True

    def _settle(self, how: str) -> bool:
        """Call a method of its connection; return whether that can still reach the peer."""
        delivery = self._delivery
        connection = delivery.connection
        try:
            return bool(getattr(connection, how)(delivery.tag))
        except ConnectionLostError:
            return False
        except MessagingError:
            # The broker reads nothing. It requeues the message when the connection ends.
            connection.close(0.0)
            return False

    def _copy(self) -> Message:
        delivery = self._delivery
        deadline = None
        if delivery.expiration is not None:
            deadline = self._arrived + delivery.expiration
        return Message(
            delivery.body,
            "",
            self.queue,
            content_type=self.payload.content_type,
            message_id=delivery.message_id,
            correlation_id=delivery.correlation_id,
            reply_to=delivery.reply_to,
            deadline=deadline,
            delivery_mode=PERSISTENT,
            type=delivery.type,
            headers=own_headers(delivery.headers),
        )

    def _reply_by(self) -> float:
        """Return until when a reply may be sent, of ``time.monotonic()``."""
        expiration = self._delivery.expiration
        limit = REPLY_LIMIT if expiration is None else expiration
        return max(time.monotonic() + 1.0, self._arrived + limit)

    def reply(self, payload: Payload, kind: ReplyKind = "result") -> None:
        raise NotImplementedError


def count_in(value: object) -> int:
    """Return the count that a header states; 0 for what is none."""
    return value if isinstance(value, int) and value > 0 else 0
