"""One message on its way over a link."""

from __future__ import annotations

from hbshim.amqp1 import states
from hbshim.amqp1.performatives import DeliveryState
from hbshim.amqp1.states import Action, DeliveryEvent, DeliveryPhase


class Delivery:
    """A message that is sent or received; a link makes it.

    Attributes:
        id: its number in the session; it wraps around at 2**32.
        tag: its name on the link, chosen by the sender.
        payload: the encoded message; b"" in one that is sent, and while one has not arrived whole.
        message_format: 0 for the messages of AMQP 1.0.
        phase: how much of it is sent or has arrived, and whether it is settled.
        state: what the peer sent last; None: nothing.
        was_accepted: the peer sent `accepted` before.
    """

    __slots__ = ("id", "message_format", "payload", "phase", "state", "tag", "was_accepted")

    def __init__(self, id_: int, tag: bytes, message_format: int) -> None:
        self.id = id_
        self.tag = tag
        self.message_format = message_format
        self.payload = b""
        self.phase = DeliveryPhase.PARTIAL
        self.state: DeliveryState | None = None
        self.was_accepted = False

    def __repr__(self) -> str:
        return f"<Delivery {self.id}, {self.phase.value}>"

    @property
    def settled(self) -> bool:
        """Whether one of the sides has settled it; nothing can change it any more."""
        return self.phase is DeliveryPhase.SETTLED

    @property
    def complete(self) -> bool:
        """Whether all of it has been sent, or has arrived, unless it was settled before."""
        return self.phase is not DeliveryPhase.PARTIAL

    def move(self, event: DeliveryEvent) -> Action:
        """Advance its phase; return what is to be done.

        Raises:
            StateError, ProtocolError: its phase does not allow it.
        """
        self.phase, action = states.advance(states.DELIVERY, self.phase, event, self)
        return action
