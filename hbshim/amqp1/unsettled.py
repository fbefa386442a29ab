"""Deliveries of a session, in one direction, that neither side has settled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from hbshim.amqp1 import serial
from hbshim.amqp1.delivery import Delivery
from hbshim.amqp1.errors import INVALID_FIELD, ProtocolError
from hbshim.amqp1.link import Link
from hbshim.amqp1.performatives import Accepted, Disposition
from hbshim.amqp1.states import DeliveryEvent


class Updated(NamedTuple):
    """Event: the peer has sent the state of a delivery, or settled it.

    For a sender this is the outcome. For a receiver it means that the sender wants no answer any
    more.
    """

    link: Link
    delivery: Delivery


class Unsettled:
    """The deliveries by their ids, in the order in which they were sent."""

    def __init__(self) -> None:
        self._deliveries: dict[int, tuple[Link, Delivery]] = {}

    def add(self, link: Link, delivery: Delivery) -> None:
        """Add a delivery, or nothing if it is there.

        Raises:
            ProtocolError: another one has its id.
        """
        _, known = self._deliveries.setdefault(delivery.id, (link, delivery))
        if known is not delivery:
            raise ProtocolError(f"transfer: delivery {delivery.id} is not settled", INVALID_FIELD)

    def remove(self, delivery: Delivery) -> None:
        """Remove a delivery that is settled."""
        self._deliveries.pop(delivery.id, None)

    def drop(self, link: Link) -> None:
        """Remove the deliveries of a link that has ended."""
        left = {id_: each for id_, each in self._deliveries.items() if each[0] is not link}
        self._deliveries = left

    def clear(self) -> None:
        """Remove all."""
        self._deliveries.clear()

    def apply(self, disposition: Disposition) -> Iterator[Updated]:
        """Yield the deliveries that a disposition of the peer changes, changed.

        Raises:
            ProtocolError: its range is not valid.
        """
        event = DeliveryEvent.RECEIVE_STATE
        if disposition.settled:
            event = DeliveryEvent.RECEIVE_SETTLED
        for id_ in self._in_range(disposition):
            link, delivery = self._deliveries[id_]
            if disposition.state is not None:
                delivery.was_accepted |= isinstance(delivery.state, Accepted)
                delivery.state = disposition.state
            delivery.move(event)
            if disposition.settled:
                del self._deliveries[id_]
            yield Updated(link, delivery)

    def _in_range(self, disposition: Disposition) -> list[int]:
        """Return the ids that are here; the others are settled, as dispositions may cross."""
        first = disposition.first
        last = first if disposition.last is None else disposition.last
        span = serial.distance(first, last, "disposition: delivery")
        # A range may have two billion ids, and seldom has more than one.
        if span < len(self._deliveries):
            ids = [serial.add(first, offset) for offset in range(span + 1)]
            return [id_ for id_ in ids if id_ in self._deliveries]
        return [id_ for id_ in self._deliveries if serial.add(id_, -first) <= span]
