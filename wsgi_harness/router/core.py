"""The router without a protocol: links are matched by address, and outcomes travel back.

Each method is about one thing that a client does; what it names is a requirement of
``docs/test-router.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from wsgi_harness.router.addresses import Address, Distribution, Rule, distribution_of
from wsgi_harness.router.links import (
    ReceiverDelivery,
    ReceiverLink,
    SenderDelivery,
    SenderLink,
)
from wsgi_harness.router.states import (
    LOST,
    NOT_DELIVERED,
    State,
    rejected,
    stronger,
)


class Router:
    """The addresses of a router.

    Parameters:
        rules: the distribution of addresses, by prefix.
        default: the distribution of all others.

    Attributes:
        addresses: those in use, by name.
        on_reachable: called with each address that gets its first receiver of a client.
        on_unreachable: called with each address that loses its last receiver of a client.
    """

    def __init__(
        self, rules: Sequence[Rule] = (), default: Distribution = Distribution.BALANCED
    ) -> None:
        self._rules = rules
        self._default = default
        self.addresses: dict[str, Address] = {}
        self.on_reachable: Callable[[Address], None] = lambda address: None
        self.on_unreachable: Callable[[Address], None] = lambda address: None

    def distribution(self, name: str) -> Distribution:
        """Return the distribution of an address."""
        return distribution_of(name, self._rules, self._default)

    def attach_sender(self, link: SenderLink, name: str | None) -> None:
        """Attach a link that sends (R2).

        Parameters:
            name: the target's address; None: each message has its own. Such a link has credit at
                once, the others when the address has a receiver.
        """
        if name is None:
            link.replenish(link.capacity)
            return
        address = self._use(name)
        link.address = name
        address.senders.append(link)
        link.withheld = link.capacity
        if address.reachable(from_router=link.from_router):
            link.start()

    def attach_receiver(self, link: ReceiverLink, name: str) -> None:
        """Attach a link that receives; senders to its address get their credit."""
        address = self._use(name)
        link.address = name
        links = address.remotes if link.to_router else address.receivers
        links.append(link)
        for sender in address.senders:
            if address.reachable(from_router=sender.from_router):
                sender.start()
        if links is address.receivers and len(links) == 1:
            self.on_reachable(address)

    def serve(self, name: str, handler: Callable[[bytes], State]) -> None:
        """Have the router itself answer the messages to an address."""
        self._use(name).handler = handler

    def deliver(self, delivery: SenderDelivery, to: str | None) -> None:
        """Send a message on.

        Parameters:
            to: the address in the message, for a link without one.
        """
        link = delivery.link
        address = self.addresses.get(link.address or to or "")
        if (
            link.address is not None
            and address is not None
            and not address.reachable(from_router=link.from_router)
        ):
            self._return(delivery)
            link.starve()
            return
        if not delivery.settled:
            link.unsettled[delivery] = None
        if delivery.settled or link.from_router:
            link.replenish(1)
        if address is None:
            self._refuse(delivery, to)
            return
        delivery.multicast = address.distribution is Distribution.MULTICAST
        if not address.forward(delivery):
            self._return(delivery)

    def send(self, name: str, payload: bytes) -> None:
        """Send a message of the router itself, settled."""
        address = self.addresses.get(name)
        if address is not None:
            address.forward(SenderDelivery(SenderLink(_Nobody()), payload, settled=True))

    def on_sender_state(
        self, delivery: SenderDelivery, state: State | None, *, settled: bool
    ) -> None:
        """Send receivers the state that a sender gave its message, and that it settled (R7)."""
        for copy in list(delivery.copies):
            copy.link.report(copy, state, settled=settled)
            if settled:
                delivery.untie(copy)
        if settled:
            delivery.settled = True
            delivery.link.finish(delivery)

    def on_receiver_state(
        self, delivery: ReceiverDelivery, state: State | None, *, settled: bool
    ) -> None:
        """Send the sender the outcome of a receiver (R4, R6, R10)."""
        original = delivery.original
        if settled:
            delivery.settled = True
            delivery.link.finish(delivery)
        if state is not None:
            delivery.answer = state
            if settled:
                delivery.link.counts[str(state.code)] += 1
        if original is None:
            return
        if original.multicast:
            self._on_multicast_state(delivery, original, state, settled=settled)
            return
        original.link.report(original, state, settled=settled)
        if settled:
            original.untie(delivery)

    def detach_sender(self, link: SenderLink) -> None:
        """Handle the end of a sender: what it sent is settled, as `MODIFIED` (R7)."""
        address = self._leave(link)
        if address is not None:
            address.senders.remove(link)
            self._drop(address)
        for delivery in list(link.unsettled):
            # Nothing is reported any more.
            del link.unsettled[delivery]
            self.on_sender_state(delivery, LOST, settled=True)

    def detach_receiver(self, link: ReceiverLink) -> None:
        """Handle the end of a receiver (R4).

        What waits for it is released; what it had may have been processed.
        """
        self.withdraw_receiver(link)
        for delivery in list(link.unsettled):
            self.on_receiver_state(delivery, LOST, settled=True)

    def withdraw_receiver(self, link: ReceiverLink) -> None:
        """Send a receiver nothing more; it still answers what it has."""
        address = self._leave(link)
        if address is not None:
            links = address.remotes if link.to_router else address.receivers
            links.remove(link)
            if links is address.receivers and not links:
                self.on_unreachable(address)
            self._drop(address)
        waiting = list(link.waiting)
        link.waiting.clear()
        for delivery in waiting:
            self.on_receiver_state(delivery, NOT_DELIVERED, settled=True)

    def _on_multicast_state(
        self,
        delivery: ReceiverDelivery,
        original: SenderDelivery,
        state: State | None,
        *,
        settled: bool,
    ) -> None:
        """Notify the sender of a multicast once all receivers have an outcome, and have settled."""
        reported = None
        if state is not None and state.is_outcome:
            original.strongest = stronger(original.strongest, state)
            if all(copy.answer and copy.answer.is_outcome for copy in original.copies):
                reported = original.strongest
        last = original.copies == [delivery]
        if reported is not None or (settled and last):
            original.link.report(original, reported, settled=settled and last)
        if settled:
            original.untie(delivery)

    def _use(self, name: str) -> Address:
        found = self.addresses.get(name)
        if found is None:
            found = self.addresses[name] = Address(name, self.distribution(name))
        return found

    def _leave(self, link: SenderLink | ReceiverLink) -> Address | None:
        name, link.address = link.address, None
        return None if name is None else self.addresses[name]

    def _drop(self, address: Address) -> None:
        if not address.used:
            self.addresses.pop(address.name, None)

    def _refuse(self, delivery: SenderDelivery, to: str | None) -> None:
        """Handle a message to an address that no link has."""
        if self.distribution(to or "") is Distribution.UNAVAILABLE:
            text = "Deliveries cannot be sent to an unavailable address"
            state = rejected("amqp:not-found", text)
            delivery.link.report(delivery, state, settled=True)
        else:
            self._return(delivery)

    def _return(self, delivery: SenderDelivery) -> None:
        """Return a message that has no receiver; one that is settled is lost."""
        if delivery.settled:
            delivery.link.counts["dropped"] += 1
        else:
            delivery.link.report(delivery, NOT_DELIVERED, settled=True)


class _Nobody:
    """The sender of the router's own messages."""

    def grant(self, credit: int) -> None:
        """Do nothing."""

    def drain(self) -> None:
        """Do nothing."""

    def update(self, delivery: SenderDelivery) -> None:
        """Do nothing."""
