"""Links that receive."""

from __future__ import annotations

from typing import NamedTuple

from hbshim.amqp1 import serial
from hbshim.amqp1.delivery import Delivery
from hbshim.amqp1.errors import (
    INVALID_FIELD,
    MESSAGE_SIZE_EXCEEDED,
    TRANSFER_LIMIT_EXCEEDED,
    ProtocolError,
)
from hbshim.amqp1.link import Link, SessionPort
from hbshim.amqp1.performatives import RECEIVER, Attach, Flow, Transfer
from hbshim.amqp1.states import Action, DeliveryEvent, LinkEvent, LinkState


class Received(NamedTuple):
    """Event: a message has arrived whole."""

    link: Receiver
    delivery: Delivery


class Drained(NamedTuple):
    """Event: the sender has used or returned the credit after `Receiver.drain()`."""

    link: Receiver


class CreditUsed(NamedTuple):
    """Event: credit was used without a message.

    The sender has given up a message or settled it before it had arrived whole, or has returned
    credit that it was not asked for.
    """

    link: Receiver


class Receiver(Link):
    """A link that receives."""

    role = RECEIVER

    def __init__(self, session: SessionPort, local: Attach) -> None:
        super().__init__(session, local)
        self._draining = False
        # The delivery whose frames arrive.
        self._current: Delivery | None = None
        self._current_settled = False
        self._parts: list[bytes] = []
        self._size = 0

    def grant(self, credit: int) -> None:
        """Let the peer send this many messages more."""
        self.credit += credit
        if self.state is LinkState.ATTACHED:
            self._send_credit()

    def drain(self) -> None:
        """Have the peer use or return its credit at once; `Drained` reports that it has."""
        self._draining = True
        self._send_credit()

    def start(self, attach: Attach) -> None:
        self.delivery_count = attach.initial_delivery_count or 0

    def attach(self) -> None:
        super().attach()
        self._send_first_credit()

    def receive_attach(self, attach: Attach) -> None:
        super().receive_attach(attach)
        self._send_first_credit()

    def receive_flow(self, flow: Flow) -> None:
        if self.move(LinkEvent.RECEIVE_FRAME) is Action.IGNORE:
            return
        if flow.delivery_count is not None:
            used = serial.add(flow.delivery_count, -self.delivery_count)
            self.delivery_count = flow.delivery_count
            self.credit = max(0, self.credit - used)
            if self._draining and not self.credit:
                self._draining = False
                self.session.emit(Drained(self))
            elif used and not self._draining:
                self.session.emit(CreditUsed(self))
        if flow.echo and self.state is LinkState.ATTACHED:
            self._send_credit()

    def receive_transfer(self, transfer: Transfer, payload: bytes) -> Delivery | None:
        """Handle a transfer of this link; return its delivery, unless it is ignored.

        Raises:
            ProtocolError: it contradicts the delivery that it continues.
        """
        if self.move(LinkEvent.RECEIVE_FRAME) is Action.IGNORE:
            return None
        delivery = self._current or self._begin(transfer)
        if delivery is None:
            return None
        if transfer.delivery_id not in (None, delivery.id):
            raise ProtocolError(
                f"transfer: delivery {transfer.delivery_id} begins before {delivery.id} has ended",
                INVALID_FIELD,
            )
        self._current_settled |= bool(transfer.settled)
        if transfer.state is not None:
            delivery.state = transfer.state
        self._size += len(payload)
        limit = self.local.max_message_size
        if limit and self._size > limit:
            self._reset()
            self.fail(MESSAGE_SIZE_EXCEEDED, f"a message is larger than {limit} bytes")
            return None
        if payload:
            self._parts.append(payload)
        if transfer.aborted:
            self._reset()
            delivery.move(DeliveryEvent.RECEIVE_SETTLED)
            self.session.emit(CreditUsed(self))
        elif not transfer.more:
            self._complete(delivery)
        return delivery

    def _begin(self, transfer: Transfer) -> Delivery | None:
        if transfer.delivery_id is None or transfer.delivery_tag is None:
            raise ProtocolError("transfer: a delivery begins without id or tag", INVALID_FIELD)
        if not self.credit:
            self.fail(TRANSFER_LIMIT_EXCEEDED, "a message was sent without credit")
            return None
        self.credit -= 1
        self.delivery_count = serial.add(self.delivery_count, 1)
        format_ = transfer.message_format or 0
        self._current = Delivery(transfer.delivery_id, transfer.delivery_tag, format_)
        self._current_settled = False
        return self._current

    def _complete(self, delivery: Delivery) -> None:
        # One of the sides may have settled it before it arrived whole.
        wanted = not delivery.settled
        delivery.payload = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        if self._current_settled:
            delivery.move(DeliveryEvent.RECEIVE_SETTLED)
        delivery.move(DeliveryEvent.COMPLETE)
        self._reset()
        self.session.emit(Received(self, delivery) if wanted else CreditUsed(self))

    def _reset(self) -> None:
        self._current, self._parts, self._size = None, [], 0

    def _send_first_credit(self) -> None:
        if self.credit and self.state is LinkState.ATTACHED and not self.refused:
            self._send_credit()

    def _send_credit(self) -> None:
        self.move(LinkEvent.SEND_FRAME)
        self.session.send_flow(
            handle=self.local.handle,
            delivery_count=self.delivery_count,
            link_credit=self.credit,
            drain=self._draining,
        )
