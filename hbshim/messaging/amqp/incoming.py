"""Messages received over AMQP 0-9-1, and how they are answered."""

from __future__ import annotations

import time
import uuid

from hbshim.errors import DeliveryError
from hbshim.messaging.amqp.addresses import queue_at
from hbshim.messaging.amqp.queued import QueuedIncoming
from hbshim.messaging.amqp.retries import Retries
from hbshim.messaging.amqp.sender import Sender
from hbshim.messaging.amqp.topology import Subscription, Topology
from hbshim.messaging.base import Payload, ReplyKind
from hbshim.messaging.waiting import NUMBER_SIGN
from hbshim.protocol.messages import DIRECT_REPLY, PERSISTENT, Delivery, Message

#: Seconds after which the client may have lost the connection of its direct reply-to address
#: without the broker noticing: from then on replies go to its own queue.
DIRECT_WITHIN = 0.5


class AmqpIncoming(QueuedIncoming):
    """A delivery, and how to answer it; see :class:`hbshim.messaging.base.Incoming`.

    Parameters:
        sender: sends the replies.
        topology: the names of queues for them.
    """

    __slots__ = ("_sender", "_topology")

    def __init__(
        self,
        delivery: Delivery,
        sender: Sender,
        topology: Topology,
        priority: str = "",
        *,
        queue: str = "",
        retries: Retries | None = None,
        later: bool = False,
    ) -> None:
        super().__init__(delivery, priority, queue=queue, retries=retries, later=later)
        self._sender = sender
        self._topology = topology

    def reply(self, payload: Payload, kind: ReplyKind = "result") -> None:
        delivery = self._delivery
        if delivery.reply_to is None:
            return
        address = queue_at(delivery.reply_to)
        passed = time.monotonic() - self._arrived
        deadline = self._reply_by()
        message = Message(
            payload.body,
            "",
            address,
            content_type=payload.content_type,
            correlation_id=delivery.correlation_id,
            type=kind,
        )
        if not address.startswith(DIRECT_REPLY):
            # The client declared this queue: its contents last as long as the request.
            message.message_id = uuid.uuid4().hex
            message.delivery_mode = PERSISTENT
            self._sender.send_confirmed(message, None, deadline, None)
            return
        client, sign, _ = (delivery.correlation_id or "").partition(NUMBER_SIGN)
        if sign and passed > DIRECT_WITHIN:
            if self._send_to_own_queue(message, self._topology.replies(client), deadline):
                return
            message.exchange, message.routing_key = "", address
        self._sender.send(message, deadline, None, resend=True)
        if sign and kind != "alive":
            self._sender.direct_replies.sent(message, client, self._topology, deadline)

    def _send_to_own_queue(self, message: Message, own: Subscription, deadline: float) -> bool:
        """Send a reply to the client's own queue; return whether the broker has stored it."""
        message.exchange, message.routing_key = own.exchange, own.routing_key
        if message.type == "alive":
            self._sender.send(message, deadline, None, resend=True)
            return True
        try:
            self._sender.send_confirmed(message, None, deadline, None)
        except DeliveryError:
            return False
        return True
