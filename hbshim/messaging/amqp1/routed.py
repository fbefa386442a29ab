"""Messages received over a router, whose outcomes go back to their senders.

A router stores nothing: a message is its sender's until it is settled, and the sender learns what
became of it, also if this process dies.
"""

from __future__ import annotations

from hbshim.errors import MessagingError
from hbshim.messaging.amqp.patterns import Names
from hbshim.messaging.amqp.queued import count_in
from hbshim.messaging.amqp.retries import Retries
from hbshim.messaging.amqp1.answers import Answer, Answers
from hbshim.messaging.amqp1.content import AWAITED, DELIVERY_COUNT
from hbshim.messaging.amqp1.incoming import Amqp1Incoming
from hbshim.messaging.amqp1.outcomes import Pattern
from hbshim.messaging.amqp1.sender import Sender
from hbshim.messaging.base import FINAL, Payload, ReplyKind
from hbshim.protocol.messages import Delivery


class RoutedIncoming(Amqp1Incoming):
    """A delivery, and how to answer it; see :class:`hbshim.messaging.base.Incoming`."""

    __slots__ = ("_answering", "_begun", "_orphaned", "_settle_later")

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
        super().__init__(
            delivery,
            sender,
            names,
            priority,
            answers=answers,
            queue=queue,
            retries=retries,
            later=later,
        )
        self.attempts = count_in(delivery.headers.get(DELIVERY_COUNT))
        # Accepted, and not settled yet.
        self._begun = False
        # Its reply is under way, and it is to be settled when that has arrived.
        self._answering = self._settle_later = False
        # Its connection was lost before it was begun.
        self._orphaned = False

    def expired(self) -> bool:
        """Return whether no caller waits for it: its time is over, or its caller has left."""
        return super().expired() or self._withdrawn()

    def _withdrawn(self) -> bool:
        delivery = self._delivery
        if AWAITED not in delivery.headers:
            # Its sender may have settled it as it sent it, and ended since.
            return False
        try:
            return bool(delivery.connection.is_withdrawn(delivery.tag))
        except MessagingError:
            return False

    def survive(self) -> bool:
        # Its sender does not send it again, or marks it, and then no server runs the copy.
        self._orphaned = True
        return not self.may_have_run

    def claim(self) -> bool:
        if not (self._orphaned or self._delivery.connection.is_open):
            self.survive()
        if self.may_have_run:
            # Another process may have begun it, and its acceptance got lost.
            self._settled = True
            self._settle("refuse_copy")
            return False
        if self._orphaned:
            self._settled = True
            return True
        if not self.expects_reply:
            return self.acknowledge()
        # Settled with the reply: until then, the caller learns if this process is gone.
        self._begun = self._settled = self._settle("begin")
        return self._begun

    def reject(self, reason: str) -> None:
        # Its sender gets an error as the reply, if it waits for one.
        self._record_rejected(reason)
        if not self.expects_reply:
            self.acknowledge()

    def renew(self) -> bool:
        """Return False: a router does not count how often it is requeued."""
        return False

    def requeue(self) -> None:
        """Have its sender send a notification again, to any listener; requeue anything else."""
        if not self._later or self._retries is None:
            self.return_to_queue()
        elif self.attempts + 1 >= self._retries.attempts:
            self._record_rejected(f"it was tried {self.attempts + 1} times")
            self._end("refuse")
        elif not self._settled:
            self._settled = True
            for each in (self, *self._forgotten()):
                each._settled = True
                each._settle("give_back")

    def acknowledge(self) -> bool:
        # When the client has the reply: until then, it learns if this process is gone.
        self._settle_later = True
        return self._answering or super().acknowledge()

    def reply(self, payload: Payload, kind: ReplyKind = "result") -> None:
        address = self._delivery.reply_to
        if address is None:
            return
        if self._withdrawn():
            self._replied(kind)
            return
        message = self._reply_message(address, payload, kind)
        self._answering = kind in FINAL
        answer = Answer(
            message,
            self._reply_by(),
            lambda: self._replied(kind),
            self._settle_begun if self._begun and kind in FINAL else None,
        )
        if not self._answers.send(answer, self._delivery.connection):
            try:
                self._sender.send(lambda _: (message, None), Pattern.REPLY, answer.deadline, None)
            finally:
                self._replied(kind)

    def _replied(self, kind: ReplyKind) -> None:
        """Settle the request if this was its last reply, received or given up."""
        if kind not in FINAL:
            return
        self._answering = False
        if self._begun:
            self._settle_begun()
        elif self._settle_later:
            super().acknowledge()

    def _settle_begun(self) -> None:
        self._begun = False
        self._settle("acknowledge")
