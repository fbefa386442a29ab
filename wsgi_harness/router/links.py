"""Links of clients and of other routers, and the messages on them, without a protocol.

A message has two deliveries: the sender's, and one to each receiver. They are tied to each other
until one side settles, so that the receiver's outcome travels back to the sender. The router itself
accepts nothing and stores nothing.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Protocol

from wsgi_harness.router.states import State

#: Messages that may be under way on a link: the credit of a sender (`linkCapacity`).
CAPACITY = 250


class SenderDelivery:
    """A message as its sender knows it.

    Attributes:
        link: on which it arrived.
        payload: the encoded message.
        settled: the sender wants to hear no more of it, or has heard all.
        multicast: each receiver of the address gets it.
        copies: the deliveries to receivers that are tied to it.
        state: reported to the sender.
        strongest: of a multicast: the strongest outcome so far.
    """

    def __init__(self, link: SenderLink, payload: bytes, *, settled: bool) -> None:
        self.link = link
        self.payload = payload
        self.settled = settled
        self.multicast = False
        self.copies: list[ReceiverDelivery] = []
        self.state: State | None = None
        self.strongest: State | None = None

    def untie(self, copy: ReceiverDelivery) -> None:
        """Have a copy and this delivery not change each other any more."""
        self.copies.remove(copy)
        copy.original = None


class ReceiverDelivery:
    """A message on its way to one receiver.

    Attributes:
        link: on which it is sent.
        original: the sender's delivery; None once one side has settled.
        settled: the receiver's answer matters to no one.
        state: reported to the receiver.
        answer: what the receiver sent last.
    """

    def __init__(self, link: ReceiverLink, original: SenderDelivery) -> None:
        self.link = link
        self.payload = original.payload
        self.settled = original.settled
        self.original: SenderDelivery | None = None
        self.state: State | None = None
        self.answer: State | None = None
        if not self.settled:
            self.original = original
            original.copies.append(self)


class SenderPort(Protocol):
    """What carries a sender's link."""

    def grant(self, credit: int) -> None:
        """Let the sender send this many messages more."""

    def drain(self) -> None:
        """Have the sender use or return its credit."""

    def update(self, delivery: SenderDelivery) -> None:
        """Send the sender the state of a delivery, and settle it if it is settled."""


class ReceiverPort(Protocol):
    """What carries a receiver's link."""

    def flush(self) -> None:
        """Send what waits, as far as the receiver has given credit."""

    def update(self, delivery: ReceiverDelivery) -> None:
        """Send the receiver the state of a delivery that was sent, and settle it if it is."""


class SenderLink:
    """A link on which a client, or another router, sends.

    Attributes:
        address: of the target; None: each message has its own.
        from_router: another router sends, which got the messages from its own clients.
        unsettled: deliveries whose outcome the sender waits for; each takes one of its credits.
        withheld: credit that the sender gets once the address has a receiver.
        draining: the sender is asked to return its credit.
        counts: how many messages ended how.
    """

    def __init__(
        self, port: SenderPort, *, capacity: int = CAPACITY, from_router: bool = False
    ) -> None:
        self.port = port
        self.capacity = capacity
        self.from_router = from_router
        self.address: str | None = None
        self.unsettled: dict[SenderDelivery, None] = {}
        self.withheld = 0
        self.draining = False
        self.counts: Counter[str] = Counter()

    def replenish(self, credit: int) -> None:
        """Give the sender credit."""
        self.withheld = max(0, self.withheld - credit)
        self.draining = False
        self.port.grant(credit)

    def starve(self) -> None:
        """Take the sender's credit back after a message that had no receiver."""
        self.withheld += 1
        if not self.draining:
            self.draining = True
            self.port.drain()

    def returned_credit(self) -> None:
        """Note that a drained sender has no credit left."""
        if self.draining:
            self.withheld = self.capacity

    def start(self) -> None:
        """Give the withheld credit: the address has a receiver."""
        if self.withheld:
            self.replenish(self.withheld)

    def finish(self, delivery: SenderDelivery) -> bool:
        """Forget a delivery that is settled; return whether it was known.

        Its credit goes back to the sender, unless a router had it back at once.
        """
        if delivery not in self.unsettled:
            return False
        del self.unsettled[delivery]
        if not self.from_router:
            self.replenish(1)
        return True

    def report(self, delivery: SenderDelivery, state: State | None, *, settled: bool) -> None:
        """Send the sender the state of a delivery."""
        if state is not None:
            delivery.state = state
        finished = False
        if settled:
            delivery.settled = True
            finished = self.finish(delivery)
            if delivery.state is not None:
                self.counts[str(delivery.state.code)] += 1
        if state is not None or finished:
            self.port.update(delivery)


class ReceiverLink:
    """A link on which a client, or another router, receives.

    Attributes:
        address: of the source.
        to_router: another router receives, for its own clients.
        waiting: deliveries that wait for the receiver's credit.
        unsettled: deliveries that the receiver has, and has not answered.
        dropped: settled deliveries that were discarded.
    """

    def __init__(
        self, port: ReceiverPort, *, capacity: int = CAPACITY, to_router: bool = False
    ) -> None:
        self.port = port
        self.capacity = capacity
        self.to_router = to_router
        self.address: str | None = None
        self.waiting: deque[ReceiverDelivery] = deque()
        self.unsettled: dict[ReceiverDelivery, None] = {}
        self.dropped = 0
        self.counts: Counter[str] = Counter()

    @property
    def outstanding(self) -> int:
        """Messages that this receiver has, or will get."""
        return len(self.waiting) + len(self.unsettled)

    def enqueue(self, delivery: ReceiverDelivery) -> None:
        """Send a message as soon as the receiver has credit.

        A settled one on a full link has all that are settled discarded before it, except for the
        first: the sender of a settled message waits for no outcome.
        """
        if delivery.settled and len(self.waiting) >= self.capacity:
            first, *others = self.waiting
            kept = [each for each in others if not each.settled]
            self.dropped += len(others) - len(kept)
            self.waiting = deque([first, *kept])
        self.waiting.append(delivery)
        self.port.flush()

    def next(self) -> ReceiverDelivery | None:
        """Take the next message, which the receiver gets now."""
        if not self.waiting:
            return None
        delivery = self.waiting.popleft()
        if not delivery.settled:
            self.unsettled[delivery] = None
        return delivery

    def report(self, delivery: ReceiverDelivery, state: State | None, *, settled: bool) -> None:
        """Send the receiver the sender's state of a delivery.

        One that waits is changed, and sent with the state later.
        """
        if state is not None:
            delivery.state = state
        finished = False
        if settled:
            delivery.settled = True
            finished = self.finish(delivery)
        if finished or (state is not None and delivery in self.unsettled):
            self.port.update(delivery)

    def finish(self, delivery: ReceiverDelivery) -> bool:
        """Forget a delivery that is settled; return whether the receiver had it unsettled."""
        if delivery not in self.unsettled:
            return False
        del self.unsettled[delivery]
        return True
