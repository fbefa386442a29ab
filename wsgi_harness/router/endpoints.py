"""Links of proton, each with the link of the router that it carries."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from proton import Condition, Delivery, Link, Message

from wsgi_harness.router.core import Router
from wsgi_harness.router.links import (
    ReceiverDelivery,
    ReceiverLink,
    SenderDelivery,
    SenderLink,
)
from wsgi_harness.router.states import TAKEN, State, rejected

D = TypeVar("D", SenderDelivery, ReceiverDelivery)


class _Endpoint(Generic[D]):
    """Deliveries of a link, each with that of proton while it is not settled.

    Parameters:
        link: of proton.
        changed: called when there is something to be sent.
    """

    def __init__(self, router: Router, link: Any, changed: Callable[[], None]) -> None:
        self._router = router
        self._proton = link
        self._changed = changed
        self._transfers: dict[D, Any] = {}

    def update(self, delivery: D) -> None:
        """Send the state of a delivery, and settle it if it is settled."""
        transfer = self._transfers.get(delivery)
        if transfer is None:
            return
        if delivery.state is not None:
            _send_state(transfer, delivery.state)
        if delivery.settled:
            self._forget(delivery)
        self._changed()

    def _forget(self, delivery: D) -> None:
        transfer = self._transfers.pop(delivery, None)
        if transfer is not None:
            transfer.settle()
            self._changed()


class SenderEndpoint(_Endpoint[SenderDelivery]):
    """A client sends here.

    Parameters:
        link: of proton, which receives.
        changed: called when there is something to be sent.
        allows: whether the client may send to the address that a message has.
    """

    def __init__(
        self,
        router: Router,
        link: Any,
        changed: Callable[[], None],
        *,
        capacity: int,
        from_router: bool,
        allows: Callable[[str], bool],
    ) -> None:
        super().__init__(router, link, changed)
        self._allows = allows
        self.link = SenderLink(self, capacity=capacity, from_router=from_router)

    def grant(self, credit: int) -> None:
        self._proton.flow(credit)
        self._changed()

    def drain(self) -> None:
        self._proton.drain(0)
        self._changed()

    def on_delivery(self, transfer: Any) -> None:
        """Handle a message that arrives, or the state that the sender reports of one."""
        known = getattr(transfer, "known", None)
        if known is not None:
            if transfer.settled:
                self._forget(known)
            self._router.on_sender_state(known, _state_of(transfer), settled=transfer.settled)
        elif transfer.aborted:
            transfer.settle()
            self.link.replenish(1)
        elif not transfer.partial:
            self._receive(transfer)

    def on_flow(self) -> None:
        """Handle that a sender returns its credit."""
        if not self._proton.credit:
            self.link.returned_credit()

    def end(self) -> None:
        """Handle the end of the link."""
        self._transfers.clear()
        self._router.detach_sender(self.link)

    def _receive(self, transfer: Any) -> None:
        payload = self._proton.recv(transfer.pending) or b""
        self._proton.advance()
        delivery = SenderDelivery(self.link, payload, settled=transfer.settled)
        transfer.known = delivery
        self._transfers[delivery] = transfer
        self.link.counts["messages"] += 1
        to = None if self.link.address is not None else _destination(payload)
        if to is not None and not self._allows(to):
            state = rejected("amqp:unauthorized-access", "policy violation on target")
            self.link.report(delivery, state, settled=True)
            self.link.replenish(1)
        else:
            self._router.deliver(delivery, to)
        if delivery.settled:
            self._forget(delivery)


class ReceiverEndpoint(_Endpoint[ReceiverDelivery]):
    """A client receives here.

    Parameters:
        link: of proton, which sends.
        changed: called when there is something to be sent.
    """

    def __init__(
        self,
        router: Router,
        link: Any,
        changed: Callable[[], None],
        *,
        capacity: int,
        to_router: bool,
    ) -> None:
        super().__init__(router, link, changed)
        self._tags = itertools.count(1)
        self._ended = False
        self.link = ReceiverLink(self, capacity=capacity, to_router=to_router)

    def flush(self) -> None:
        while not self._ended and self._proton.credit > 0:
            delivery = self.link.next()
            if delivery is None:
                return
            self._send(delivery)

    def on_delivery(self, transfer: Any) -> None:
        """Handle the state that the receiver reports of a message."""
        known: ReceiverDelivery | None = getattr(transfer, "known", None)
        if known is None:
            return
        state, settled = _state_of(transfer), bool(transfer.settled)
        if settled:
            self._forget(known)
        if settled or state != known.answer:
            self._router.on_receiver_state(known, state, settled=settled)

    def on_flow(self) -> None:
        """Handle credit, and that the receiver drains the link."""
        self.flush()
        if self._proton.drain_mode and not self.link.waiting:
            self._proton.drained()
            self._changed()

    def end(self) -> None:
        """Handle the end of the link."""
        self._ended = True
        self._transfers.clear()
        self._router.detach_receiver(self.link)

    def _send(self, delivery: ReceiverDelivery) -> None:
        transfer = self._proton.delivery(str(next(self._tags)))
        self.link.counts["messages"] += 1
        if delivery.state is not None:
            _send_state(transfer, delivery.state)
        self._proton.stream(delivery.payload)
        self._proton.advance()
        self._changed()
        if delivery.settled:
            transfer.settle()
        elif self._proton.snd_settle_mode == Link.SND_SETTLED:
            # The receiver wants no unsettled messages: sent is taken.
            transfer.settle()
            self._router.on_receiver_state(delivery, TAKEN, settled=True)
        else:
            transfer.known = delivery
            self._transfers[delivery] = transfer


def _destination(payload: bytes) -> str:
    message = Message()
    message.decode(payload)
    return str(message.address or "")


def _state_of(transfer: Any) -> State | None:
    """Return the state that the peer has sent; None: none."""
    code = int(transfer.remote_state)
    if not code:
        return None
    remote = transfer.remote
    if code == Delivery.MODIFIED:
        return State(code, remote.failed, remote.undeliverable, remote.annotations)
    if code == Delivery.REJECTED:
        error = remote.condition
        return State(code, error=error and (error.name, error.description))
    if code in (Delivery.ACCEPTED, Delivery.RELEASED):
        return State(code)
    return State(code, data=remote.data)


def _send_state(transfer: Any, state: State) -> None:
    """Send a state to the peer."""
    local = transfer.local
    local.failed, local.undeliverable = state.failed, state.undeliverable
    local.annotations, local.data = state.annotations, state.data
    if state.error is not None:
        local.condition = Condition(*state.error)
    transfer.update(state.code)
