"""Links that send."""

from __future__ import annotations

from typing import Any, NamedTuple

from hbshim.amqp1 import serial
from hbshim.amqp1.composites import encode_composite
from hbshim.amqp1.delivery import Delivery
from hbshim.amqp1.errors import StateError
from hbshim.amqp1.frames import HEADER_SIZE
from hbshim.amqp1.link import Link, Part
from hbshim.amqp1.performatives import SENDER, SETTLED, UNSETTLED, Flow, Transfer
from hbshim.amqp1.states import Action, LinkEvent, LinkState
from hbshim.errors import PayloadError


class CreditChanged(NamedTuple):
    """Event: the receiver has changed how many messages a sender may send.

    Attributes:
        drain: the peer wants them now, or not at all: send what is there, then call
            `link.drained()`.
    """

    link: Sender
    credit: int
    drain: bool


class Sender(Link):
    """A link that sends."""

    role = SENDER

    def send(
        self,
        payload: bytes,
        *,
        tag: bytes | None = None,
        settled: bool | None = None,
        message_format: int = 0,
    ) -> Delivery:
        """Send a message; it takes one credit.

        Parameters:
            payload: the encoded message.
            tag: up to 32 bytes, unique among the unsettled deliveries of the link.
            settled: nothing is reported of it; without, by the link's settle mode.

        Raises:
            StateError: there is no credit, or the link's settle mode does not allow it.
            PayloadError: the peer does not accept so large a message.
        """
        mode = self.local.snd_settle_mode
        if settled is None:
            settled = mode == SETTLED
        elif settled == (mode == UNSETTLED) and mode in (SETTLED, UNSETTLED):
            raise StateError(f"the settle mode {mode} of {self!r} does not allow {settled=}")
        self.move(LinkEvent.SEND_FRAME)
        if not self.credit:
            raise StateError(f"{self!r} has no credit; wait for CreditChanged")
        limit = self.remote.max_message_size if self.remote else None
        if limit and len(payload) > limit:
            raise PayloadError(
                f"the peer accepts messages up to {limit} bytes here, and this one has "
                f"{len(payload)}; send it in parts or by another way"
            )
        if tag is None:
            tag = self.delivery_count.to_bytes(4, "big")
        delivery = Delivery(self.session.next_delivery_id(), tag, message_format)
        self.credit -= 1
        self.delivery_count = serial.add(self.delivery_count, 1)
        transfer = Transfer(self.local.handle, delivery.id, tag, message_format, settled)
        self.session.send_transfers(self, delivery, self._parts(transfer, payload), settled=settled)
        return delivery

    def drained(self) -> None:
        """Give back what is left of the credit, after `CreditChanged` with `drain`."""
        self.move(LinkEvent.SEND_FRAME)
        self.delivery_count = serial.add(self.delivery_count, self.credit)
        self.credit = 0
        self.session.send_flow(**self.flow_fields(), drain=True)

    def flow_fields(self) -> dict[str, Any]:
        """Return the fields of a flow that are this link's."""
        return {
            "handle": self.local.handle,
            "delivery_count": self.delivery_count,
            "link_credit": self.credit,
        }

    def receive_flow(self, flow: Flow) -> None:
        if self.move(LinkEvent.RECEIVE_FRAME) is Action.IGNORE:
            return
        if flow.link_credit is not None:
            first = self.local.initial_delivery_count or 0
            seen = first if flow.delivery_count is None else flow.delivery_count
            on_their_way = serial.distance(seen, self.delivery_count, "flow: the latest delivery")
            self.credit = max(0, flow.link_credit - on_their_way)
            self.session.emit(CreditChanged(self, self.credit, flow.drain))
        if flow.echo and self.state is LinkState.ATTACHED:
            self.session.send_flow(**self.flow_fields())

    def _parts(self, transfer: Transfer, payload: bytes) -> list[Part]:
        largest = self.session.peer_max_frame_size - HEADER_SIZE
        head = encode_composite(transfer)
        if len(head) + len(payload) <= largest:
            return [Part(head, payload)]
        rest = memoryview(payload)
        # Further transfers of a delivery need not repeat the fields of the first one.
        head = encode_composite(transfer._replace(more=True))
        further = encode_composite(Transfer(transfer.handle, more=True))
        last = encode_composite(Transfer(transfer.handle))
        size = largest - len(head)
        parts = [Part(head, rest[:size])]
        rest, size = rest[size:], largest - len(further)
        while len(rest) > largest - len(last):
            parts.append(Part(further, rest[:size]))
            rest = rest[size:]
        return [*parts, Part(last, rest)]
