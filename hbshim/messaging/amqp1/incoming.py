"""Messages received over AMQP 1.0, and how they are answered."""

from __future__ import annotations

from hbshim.messaging.amqp.queued import QueuedIncoming
from hbshim.messaging.amqp.retries import Retries
from hbshim.messaging.amqp1.outcomes import Pattern
from hbshim.messaging.amqp1.sender import Sender
from hbshim.messaging.base import Payload, ReplyKind
from hbshim.protocol.messages import Delivery, Message


class Amqp1Incoming(QueuedIncoming):
    """A delivery, and how to answer it; see :class:`hbshim.messaging.base.Incoming`.

    Parameters:
        sender: sends the replies.
    """

    __slots__ = ("_sender",)

    def __init__(
        self,
        delivery: Delivery,
        sender: Sender,
        priority: str = "",
        *,
        queue: str = "",
        retries: Retries | None = None,
        later: bool = False,
    ) -> None:
        super().__init__(delivery, priority, queue=queue, retries=retries, later=later)
        self._sender = sender

    def reply(self, payload: Payload, kind: ReplyKind = "result") -> None:
        delivery = self._delivery
        if delivery.reply_to is None:
            return
        message = Message(
            payload.body,
            "",
            delivery.reply_to,
            content_type=payload.content_type,
            correlation_id=delivery.correlation_id,
            type=kind,
        )
        self._sender.send(message, Pattern.REPLY, self._reply_by(), None, wait=kind != "alive")
