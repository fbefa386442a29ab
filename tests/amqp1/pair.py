"""Two connections of the engine, and the wire between them."""

from __future__ import annotations

from typing import Any, TypeVar

from hbshim.amqp1.connection import Connection
from hbshim.amqp1.link import AttachRequested, Link
from hbshim.amqp1.mechanisms import Anonymous
from hbshim.amqp1.performatives import Source, Target
from hbshim.amqp1.receiver import Receiver
from hbshim.amqp1.sasl import SaslClient, SaslServer
from hbshim.amqp1.sender import Sender
from hbshim.amqp1.session import Begun, Session

E = TypeVar("E")


class Pair:
    """A client and a server; what one sends reaches the other when `run()` is called.

    Attributes:
        now: the time of both.
        events: of each side so far, client and server.
        sent: bytes of each side so far.
    """

    def __init__(self, client: Connection | None = None, server: Connection | None = None) -> None:
        self.now = 100.0
        self.client = client or Connection("client", sasl=SaslClient([Anonymous()], None))
        self.server = server or Connection(
            "server", server=True, sasl=SaslServer(["ANONYMOUS"], lambda mechanism, response: True)
        )
        self.events: tuple[list[Any], list[Any]] = ([], [])
        self.sent = (bytearray(), bytearray())

    def run(self, chunk: int = 1 << 30) -> None:
        """Pass on what either side sends, in chunks, until both are silent."""
        moved = True
        while moved:
            moved = self.step(0, chunk) | self.step(1, chunk)

    def step(self, side: int, chunk: int = 1 << 30) -> bool:
        """Pass on what one side sends now; return whether there was anything."""
        sender, receiver = (self.client, self.server)[:: 1 if side == 0 else -1]
        data = sender.data_to_send(self.now)
        self.sent[side].extend(data)
        for at in range(0, len(data), chunk):
            got = receiver.receive_data(data[at : at + chunk], self.now)
            self.events[1 - side].extend(got)
        return bool(data)

    def last(self, side: int, kind: type[E]) -> E:
        """The last event of this type."""
        found = [event for event in self.events[side] if isinstance(event, kind)]
        assert found, f"no {kind.__name__} among {self.events[side]}"
        return found[-1]

    def clear(self) -> None:
        for events in self.events:
            events.clear()

    def session(self) -> tuple[Session, Session]:
        """A new session, as both sides have it."""
        mine = self.client.begin()
        self.run()
        return mine, self.last(1, Begun).session

    def sender(
        self, session: Session, name: str = "to", credit: int = 0
    ) -> tuple[Sender, Receiver]:
        """A link on which the client sends, as both sides have it."""
        mine = session.attach_sender(name, Target("there"))
        theirs = self._accept()
        assert isinstance(theirs, Receiver)
        theirs.grant(credit)
        self.run()
        return mine, theirs

    def receiver(
        self, session: Session, name: str = "from", credit: int = 0
    ) -> tuple[Receiver, Sender]:
        """A link on which the server sends, as both sides have it."""
        mine = session.attach_receiver(name, Source("there"))
        mine.grant(credit)
        theirs = self._accept()
        assert isinstance(theirs, Sender)
        return mine, theirs

    def _accept(self) -> Link:
        self.run()
        link = self.last(1, AttachRequested).link
        link.accept()
        self.run()
        return link


def opened(**client: Any) -> Pair:
    """A pair whose connection is open."""
    sasl = SaslClient([Anonymous()], None)
    pair = Pair(Connection("client", sasl=sasl, **client))
    pair.run()
    return pair
