"""Messages received over AMQP 1.0, and how they are answered."""

from __future__ import annotations

from hbshim.messaging.amqp.patterns import Names
from hbshim.messaging.amqp.queued import QueuedIncoming
from hbshim.messaging.amqp.retries import Retries
from hbshim.messaging.amqp1.answers import Answer, Answers
from hbshim.messaging.amqp1.outcomes import Pattern
from hbshim.messaging.amqp1.sender import Sender
from hbshim.messaging.base import Payload, ReplyKind
from hbshim.messaging.waiting import NUMBER_SIGN
from hbshim.protocol.messages import DIRECT_REPLY, Delivery, Message


class Amqp1Incoming(QueuedIncoming):
    """A delivery, and how to answer it; see :class:`hbshim.messaging.base.Incoming`.

    Parameters:
        sender: sends replies over the driver's connection.
        names: where replies to clients over AMQP 0-9-1 go.
        answers: sends replies over the connection that the request arrived over.
    """

    __slots__ = ("_answers", "_names", "_sender")

    def __init__(
        self,
        delivery: Delivery,
        sender: Sender,
        names: Names,
        priority: str = "",
        *,
        answers: Answers,
        queue: str = "",
        retries: Retries | None = None,
        later: bool = False,
    ) -> None:
        super().__init__(delivery, priority, queue=queue, retries=retries, later=later)
        self._sender = sender
        self._names = names
        self._answers = answers

    def reply(self, payload: Payload, kind: ReplyKind = "result") -> None:
        delivery = self._delivery
        if delivery.reply_to is None:
            return
        message = self._reply_message(delivery.reply_to, payload, kind)
        # A request that is acknowledged after its reply waits for the reply's outcome. An exchange
        # is declared first, over the other connection.
        if self._settled and kind != "alive" and not message.exchange:
            answer = Answer(message, self._reply_by())
            # A worker that waits for the next connection is one that a server's stop waits for.
            if self._answers.send(answer, delivery.connection, next_too=False):
                return
        self._sender.send(
            lambda _: (message, None), Pattern.REPLY, self._reply_by(), None, wait=kind != "alive"
        )

    def _reply_message(self, reply_to: str, payload: Payload, kind: ReplyKind) -> Message:
        delivery = self._delivery
        exchange, key = "", reply_to
        client, sign, _ = (delivery.correlation_id or "").partition(NUMBER_SIGN)
        if sign and key.startswith(DIRECT_REPLY):
            # A client over AMQP 0-9-1, which has a queue for replies, too.
            own = self._names.replies(client)
            exchange, key = own.exchange, own.routing_key
        return Message(
            payload.body,
            exchange,
            key,
            content_type=payload.content_type,
            correlation_id=delivery.correlation_id,
            type=kind,
        )
