"""A message that this side has received and not settled."""

from __future__ import annotations

from hbshim.amqp1.delivery import Delivery
from hbshim.amqp1.performatives import Accepted, DeliveryState, Modified
from hbshim.messaging.amqp1.links import IncomingLink


class Held:
    """See the module. Used under the connection's lock.

    Attributes:
        link: that it arrived over.
        delivery: the engine's; its sender may have settled it.
    """

    __slots__ = ("_begun", "delivery", "link")

    def __init__(self, link: IncomingLink, delivery: Delivery) -> None:
        self.link = link
        self.delivery = delivery
        self._begun = False

    @property
    def withdrawn(self) -> bool:
        """Whether its sender has settled it: it wants it no more."""
        # Where the sender's connection was lost, the router reports `modified`. The sender may be
        # there again, and waits for the reply.
        return self.delivery.settled and not isinstance(self.delivery.state, Modified)

    def begin(self) -> None:
        """Accept it without settling it, and let another one arrive."""
        self._begun = True
        if not self.delivery.settled:
            self.link.link.update(self.delivery, Accepted())
        self.link.release()

    def settle(self, state: DeliveryState) -> None:
        """Settle it."""
        self.link.link.settle(self.delivery, state)
        if not self._begun:
            self.link.release()
