"""Messages that a listener took in."""

from __future__ import annotations

import time

from hbshim.errors import ConnectionLostError, MessagingError
from hbshim.messaging.amqp.caller import NUMBER_SIGN
from hbshim.messaging.amqp.connection import DIRECT_REPLY, Delivery, Message
from hbshim.messaging.amqp.sender import Sender
from hbshim.messaging.amqp.topology import Topology
from hbshim.messaging.base import FINAL, Payload, ReplyKind

#: Seconds after which the client may have lost the connection that its reply goes to
#: directly: from then on the reply goes to its own queue as well.
DIRECT_WITHIN = 0.5

#: Seconds that sending a reply may take where its caller gave no timeout.
REPLY_LIMIT = 60.0


class AmqpIncoming:
    """A delivery, and how to answer it; see :class:`hbshim.messaging.base.Incoming`."""

    __slots__ = ("_arrived", "_delivery", "_done", "_sender", "_topology", "payload", "priority")

    def __init__(
        self, delivery: Delivery, sender: Sender, topology: Topology, priority: str = ""
    ) -> None:
        self._delivery = delivery
        self._sender = sender
        self._topology = topology
        self._arrived = time.monotonic()
        self._done = False
        self.priority = priority
        self.payload = Payload(delivery.body, delivery.content_type or "application/json")

    @property
    def message_id(self) -> str:
        return self._delivery.message_id or ""

    @property
    def expects_reply(self) -> bool:
        return self._delivery.reply_to is not None

    @property
    def redelivered(self) -> bool:
        return self._delivery.redelivered

    @property
    def expires(self) -> bool:
        """Whether somebody waits for it for some time only."""
        return self._delivery.expiration is not None

    def expired(self) -> bool:
        # The broker counts the time in the queue and throws away what has expired there; the
        # clocks of two machines are not compared.
        limit = self._delivery.expiration
        return limit is not None and time.monotonic() - self._arrived > limit

    def acknowledge(self) -> bool:
        if self._done:
            return True
        try:
            self._delivery.connection.acknowledge(self._delivery.tag)
        except MessagingError:
            return False
        self._done = True
        return True

    def requeue(self) -> None:
        if not self._done:
            self._done = True
            try:
                self._delivery.connection.requeue(self._delivery.tag)
            except ConnectionLostError:
                return  # the broker has requeued it already

    def again(self, queue: str) -> Message | None:
        """The same message, for the rest of its time; None: that is over.

        Parameters:
            queue: where it is to go.
        """
        delivery = self._delivery
        left = (delivery.expiration or 0.0) - (time.monotonic() - self._arrived)
        if left <= 0:
            return None
        return Message(
            delivery.body,
            "",
            queue,
            self.payload.content_type,
            message_id=delivery.message_id,
            correlation_id=delivery.correlation_id,
            reply_to=delivery.reply_to,
            deadline=time.monotonic() + left,
            type=delivery.type,
            headers=delivery.headers,
        )

    def reply(self, payload: Payload, kind: ReplyKind = "result") -> None:
        delivery = self._delivery
        if delivery.reply_to is None:
            return
        passed = time.monotonic() - self._arrived
        limit = REPLY_LIMIT if delivery.expiration is None else delivery.expiration
        deadline = time.monotonic() + max(1.0, limit - passed)
        message = Message(
            payload.body,
            "",
            delivery.reply_to,
            payload.content_type,
            correlation_id=delivery.correlation_id,
            type=kind,
        )
        direct = delivery.reply_to.startswith(DIRECT_REPLY)
        if direct:
            self._sender.send(message, deadline, None)
        if not direct or (passed > DIRECT_WITHIN and kind in FINAL):
            client, sign, _ = (delivery.correlation_id or "").partition(NUMBER_SIGN)
            if sign:
                late = self._topology.replies(client)
                message.exchange, message.routing_key = late.exchange, late.routing_key
                self._sender.send(message, deadline, None)
