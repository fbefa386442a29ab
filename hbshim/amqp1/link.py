"""Links: they carry messages in one direction, as many as the receiver gives credit for.

Credit is a window, not an increment (2.6.7): the receiver announces `link_credit` messages from
`delivery_count` on. Both sides count deliveries, and the side that computes the credit subtracts
those that are on their way.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from hbshim.amqp1 import states
from hbshim.amqp1.delivery import Delivery
from hbshim.amqp1.performatives import SENDER, Attach, DeliveryState, Detach, Error, Flow, Source
from hbshim.amqp1.states import Action, DeliveryEvent, LinkEvent, LinkState


class SessionPort(Protocol):
    """What a link needs of its session."""

    @property
    def peer_max_frame_size(self) -> int:
        """The largest frame that the peer accepts, in bytes."""

    def send(self, performative: Any) -> None:
        """Send a frame."""

    def send_flow(self, **fields: Any) -> None:
        """Send a flow of the session with these fields of a link."""

    def send_transfers(
        self, link: Link, delivery: Delivery, parts: list[Part], *, settled: bool
    ) -> None:
        """Send a delivery, as the peer's window allows."""

    def send_disposition(
        self, link: Link, delivery: Delivery, state: DeliveryState | None, *, settled: bool
    ) -> None:
        """Send the state of a delivery, after all of its frames."""

    def next_delivery_id(self) -> int:
        """Return the number of a delivery that is sent."""

    def emit(self, event: Any) -> None:
        """Report an event."""


class Part(NamedTuple):
    """A transfer, and what it carries."""

    head: bytes
    payload: memoryview | bytes


class AttachRequested(NamedTuple):
    """Event: the peer attaches a link; answer with `link.accept()` or `link.refuse()`."""

    link: Link


class Attached(NamedTuple):
    """Event: the peer has answered an attach; `link.remote` has what it agreed to."""

    link: Link


class Detached(NamedTuple):
    """Event: a link has ended.

    Attributes:
        error: why; None if the peer, or this side, did not want it any more.
        by_peer: the peer detached it; otherwise this side did.
    """

    link: Link
    error: Error | None
    by_peer: bool


class Link:
    """What senders and receivers have in common.

    Attributes:
        session: the link's session.
        local: what this side sends to attach it.
        remote: what the peer sent to attach it; None before.
        state: see :data:`hbshim.amqp1.states.LINK`.
        credit: messages that may be sent now.
        delivery_count: of messages that were sent, or given back as credit; it wraps around.
    """

    role = SENDER

    def __init__(self, session: SessionPort, local: Attach) -> None:
        self.session = session
        self.local = local
        self.remote: Attach | None = None
        self.state = LinkState.DETACHED
        self.credit = 0
        self.delivery_count = 0
        # Its end has been reported, and the peer's answer is no further event.
        self._failed = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}, {self.state.value}>"

    @property
    def name(self) -> str:
        """Its name, which is the same on both sides."""
        return self.local.name

    @property
    def refused(self) -> bool:
        """Whether the peer refuses it: a detach with the reason follows its attach (2.6.3)."""
        if self.remote is None:
            return False
        return (self.remote.target if self.role is SENDER else self.remote.source) is None

    def attach(self) -> None:
        """Send what attaches it."""
        self.move(LinkEvent.SEND_ATTACH)
        self.session.send(self.local)

    def accept(self, *, source: Source | None = None, target: Any = None) -> None:
        """Answer a link that the peer attaches.

        Parameters:
            source: what this side makes of the peer's source; without, the same.
            target: the same of the target.
        """
        assert self.remote is not None, "the peer has attached it"
        self.local = self.local._replace(
            source=source or self.remote.source, target=target or self.remote.target
        )
        self.attach()

    def refuse(self, error: Error) -> None:
        """Refuse a link that the peer attaches."""
        # An attach without a terminus announces the detach (2.6.3).
        self.local = self.local._replace(source=None, target=None)
        self.attach()
        self.detach(error)

    def detach(self, error: Error | None = None, *, closed: bool = True) -> None:
        """Detach it.

        Parameters:
            closed: for ever; otherwise the peer may keep its state.
        """
        if self.move(LinkEvent.SEND_DETACH) is Action.DO:
            self.session.send(Detach(self.local.handle, closed, error))

    def fail(self, condition: str, description: str) -> None:
        """Detach it because the peer did on it what is not allowed."""
        error = Error(condition, description)
        if self.state is LinkState.ATTACH_RECEIVED:
            self.refuse(error)
        else:
            self.detach(error)
        self._failed = True
        self.session.emit(Detached(self, error, by_peer=False))

    def settle(self, delivery: Delivery, state: DeliveryState | None = None) -> None:
        """Settle a delivery: this side forgets it. Nothing happens if it is settled.

        Parameters:
            state: what the receiver has done with the message.
        """
        if delivery.move(DeliveryEvent.SEND_SETTLED) is Action.DO:
            self.session.send_disposition(self, delivery, state, settled=True)

    def update(self, delivery: Delivery, state: DeliveryState) -> None:
        """Send the peer the state of a delivery without settling it."""
        if delivery.move(DeliveryEvent.SEND_STATE) is Action.DO:
            self.session.send_disposition(self, delivery, state, settled=False)

    def end(self) -> None:
        """Note that its session has ended."""
        self.state = LinkState.ENDED

    def move(self, event: LinkEvent) -> Action:
        """Advance its state; return what is to be done.

        Raises:
            StateError, ProtocolError: its state does not allow it.
        """
        self.state, action = states.advance(states.LINK, self.state, event, self)
        return action

    def receive_attach(self, attach: Attach) -> None:
        """Handle the peer's attach."""
        if self.move(LinkEvent.RECEIVE_ATTACH) is Action.IGNORE:
            return
        self.remote = attach
        self.start(attach)
        if self.state is LinkState.ATTACH_RECEIVED:
            self.session.emit(AttachRequested(self))
        elif not self.refused:
            self.session.emit(Attached(self))

    def receive_detach(self, detach: Detach) -> None:
        """Handle the peer's detach."""
        if self.state is LinkState.ATTACH_RECEIVED:
            # It gave up before it got an answer, which its detach needs all the same.
            self.session.send(self.local)
        if self.move(LinkEvent.RECEIVE_DETACH) is Action.ANSWER:
            self.session.send(Detach(self.local.handle, detach.closed))
            self.session.emit(Detached(self, detach.error, by_peer=True))
        elif not self._failed:
            self.session.emit(Detached(self, detach.error, by_peer=False))

    def start(self, attach: Attach) -> None:
        """Begin to count, from the peer's attach."""

    def receive_flow(self, flow: Flow) -> None:
        """Handle a flow of this link."""
        raise NotImplementedError
