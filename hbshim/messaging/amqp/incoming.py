"""Messages that a listener took in."""

from __future__ import annotations

import time
import uuid

from hbshim.errors import ConnectionLostError, DeliveryError, MessagingError
from hbshim.messaging.amqp.caller import NUMBER_SIGN
from hbshim.messaging.amqp.connection import DIRECT_REPLY, PERSISTENT, Delivery, Message
from hbshim.messaging.amqp.sender import Sender
from hbshim.messaging.amqp.topology import Subscription, Topology
from hbshim.messaging.base import Payload, ReplyKind

#: Seconds after which the client may have lost the connection that its reply goes to
#: directly, without the broker's knowing it: from then on replies go to its own queue.
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
        address = delivery.reply_to
        if address is None:
            return
        passed = time.monotonic() - self._arrived
        limit = REPLY_LIMIT if delivery.expiration is None else delivery.expiration
        deadline = time.monotonic() + max(1.0, limit - passed)
        message = Message(
            payload.body,
            "",
            address,
            payload.content_type,
            correlation_id=delivery.correlation_id,
            type=kind,
        )
        if not address.startswith(DIRECT_REPLY):
            # A queue that the client has declared: what it stores lasts as long as the request.
            message.message_id = uuid.uuid4().hex
            message.delivery_mode = PERSISTENT
            self._sender.send_confirmed(message, None, deadline, None)
            return
        client, sign, _ = (delivery.correlation_id or "").partition(NUMBER_SIGN)
        own = self._topology.replies(client) if sign else None
        if own is not None and passed > DIRECT_WITHIN:
            if self._send_to_own_queue(message, own, deadline):
                return
            message.exchange, message.routing_key = "", address
        self._sender.send(message, deadline, None)
        if own is not None and kind != "alive":
            self._sender.direct_replies.sent(message, own, deadline)

    def _send_to_own_queue(self, message: Message, own: Subscription, deadline: float) -> bool:
        """Whether the client's own queue has taken a reply."""
        message.exchange, message.routing_key = own.exchange, own.routing_key
        if message.type == "alive":
            self._sender.send(message, deadline, None)
            return True
        try:
            self._sender.send_confirmed(message, None, deadline, None)
        except DeliveryError:
            return False
        return True
