"""Sessions: they carry links, number deliveries, and limit the frames on their way (2.5).

Longer than others: attaching a link takes all that a link can be asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar

from hbshim.amqp1 import serial, states
from hbshim.amqp1.composites import encode_composite
from hbshim.amqp1.delivery import Delivery
from hbshim.amqp1.errors import (
    FRAMING_ERROR,
    HANDLE_IN_USE,
    RESOURCE_LIMIT_EXCEEDED,
    UNATTACHED_HANDLE,
    WINDOW_VIOLATION,
    ProtocolError,
    StateError,
)
from hbshim.amqp1.handles import Handles
from hbshim.amqp1.link import Link, Part
from hbshim.amqp1.performatives import (
    FIRST,
    MIXED,
    RECEIVER,
    SENDER,
    Attach,
    Begin,
    DeliveryState,
    Detach,
    Disposition,
    End,
    Error,
    Flow,
    Source,
    Target,
    Transfer,
)
from hbshim.amqp1.receiver import Receiver
from hbshim.amqp1.sender import Sender
from hbshim.amqp1.states import Action, SessionEvent, SessionState
from hbshim.amqp1.transfers import TransferQueue
from hbshim.amqp1.unsettled import Unsettled

#: Frames that the peer may send before this side allows it to send more. The credit of links
#: limits messages; this only bounds what one session has in flight.
INCOMING_WINDOW = 2048
#: What this side announces as its own limit. Peers do not use it.
OUTGOING_WINDOW = 0x7FFFFFFF
#: The largest number of a link that the peer may use.
HANDLE_MAX = 255
#: The largest message that is accepted, in bytes, by default.
MAX_MESSAGE_SIZE = 128 * 1024 * 1024

L = TypeVar("L", bound=Link)


class ConnectionPort(Protocol):
    """What a session needs of its connection."""

    @property
    def peer_max_frame_size(self) -> int:
        """The largest frame that the peer accepts, in bytes."""

    def write(self, channel: int, body: bytes, payload: bytes | memoryview = b"") -> None:
        """Send a frame."""

    def emit(self, event: Any) -> None:
        """Report an event."""


class Begun(NamedTuple):
    """Event: the peer has answered a begin, or begins a session itself."""

    session: Session


class Ended(NamedTuple):
    """Event: a session has ended, with all of its links.

    Attributes:
        error: why; None if the peer, or this side, did not want it any more.
        by_peer: the peer ended it; otherwise this side did.
    """

    session: Session
    error: Error | None
    by_peer: bool


class Session:
    """A session; `Connection.begin()` makes it.

    Attributes:
        channel: its number on this side.
        state: see :data:`hbshim.amqp1.states.SESSION`.
        remote: what the peer sent to begin it; None before.
    """

    def __init__(self, connection: ConnectionPort, channel: int) -> None:
        self.channel = channel
        self.state = SessionState.UNMAPPED
        self.remote: Begin | None = None
        self._connection = connection
        self._links = Handles()
        self._transfers = TransferQueue(self._write)
        self._next_incoming_id = 0
        self._incoming_window = INCOMING_WINDOW
        self._next_delivery_id = 0
        self._outgoing, self._incoming = Unsettled(), Unsettled()
        # Its end has been reported, and the peer's answer is no further event.
        self._failed = False
        self._handlers: dict[type, Callable[[Any], None]] = {
            Attach: self._receive_attach,
            Flow: self._receive_flow,
            Disposition: self._receive_disposition,
            Detach: self._receive_detach,
        }

    def __repr__(self) -> str:
        return f"<Session {self.channel}, {self.state.value}>"

    @property
    def peer_max_frame_size(self) -> int:
        """The largest frame that the peer accepts, in bytes."""
        return self._connection.peer_max_frame_size

    @property
    def peer_window(self) -> int:
        """Frames with messages that the peer accepts now."""
        return self._transfers.window

    @property
    def queued_frames(self) -> int:
        """Frames that wait for the peer's window."""
        return len(self._transfers)

    def attach_sender(
        self,
        name: str,
        target: Target,
        *,
        source: Source = Source(),  # noqa: B008 - immutable
        snd_settle_mode: int = MIXED,
        rcv_settle_mode: int = FIRST,
        desired_capabilities: tuple[str, ...] = (),
        properties: Mapping[Any, Any] | None = None,
    ) -> Sender:
        """Attach a link that sends; `Attached` follows, and `CreditChanged` with its credit.

        Raises:
            StateError: the session has ended, the name is in use, or there are too many links.
        """
        attach = Attach(
            name,
            self._handle_for(name, SENDER),
            SENDER,
            snd_settle_mode,
            rcv_settle_mode,
            source,
            target,
            initial_delivery_count=0,
            desired_capabilities=desired_capabilities,
            properties=properties,
        )
        return self._attach(Sender(self, attach))

    def attach_receiver(
        self,
        name: str,
        source: Source,
        *,
        target: Target = Target(),  # noqa: B008 - immutable
        snd_settle_mode: int = MIXED,
        rcv_settle_mode: int = FIRST,
        max_message_size: int = MAX_MESSAGE_SIZE,
        desired_capabilities: tuple[str, ...] = (),
        properties: Mapping[Any, Any] | None = None,
    ) -> Receiver:
        """Attach a link that receives; `Attached` follows. It has no credit at first.

        Parameters:
            max_message_size: in bytes; the link is detached if a message is larger.

        Raises:
            StateError: the session has ended, the name is in use, or there are too many links.
        """
        attach = Attach(
            name,
            self._handle_for(name, RECEIVER),
            RECEIVER,
            snd_settle_mode,
            rcv_settle_mode,
            source,
            target,
            max_message_size=max_message_size,
            desired_capabilities=desired_capabilities,
            properties=properties,
        )
        return self._attach(Receiver(self, attach))

    def end(self, error: Error | None = None) -> None:
        """End the session; `Ended` follows when the peer has answered."""
        if self._move(SessionEvent.SEND_END) is Action.DO:
            self._write(encode_composite(End(error)))
            self.close()

    # What the connection calls.

    def begin(self) -> None:
        """Send what begins it."""
        self._move(SessionEvent.SEND_BEGIN)
        self._write_begin(None)

    def close(self) -> None:
        """Forget links and deliveries: the session is over, or its connection."""
        self._links.end()
        self._transfers.clear()
        self._outgoing.clear()
        self._incoming.clear()

    def lose(self) -> None:
        """Note that the connection has ended."""
        self.state = SessionState.ENDED
        self.close()

    def receive_begin(self, begin: Begin, channel: int) -> None:
        """Handle the peer's begin.

        Parameters:
            channel: the number of the session on the peer's side.
        """
        self.remote = begin
        action = self._move(SessionEvent.RECEIVE_BEGIN)
        if action is Action.IGNORE:
            return
        self._next_incoming_id = begin.next_outgoing_id
        self._transfers.window = begin.incoming_window
        if action is Action.ANSWER:
            self._write_begin(channel)
        self._connection.emit(Begun(self))

    def receive_end(self, end: End) -> None:
        """Handle the peer's end."""
        by_peer = self._move(SessionEvent.RECEIVE_END) is Action.ANSWER
        if by_peer:
            self._write(encode_composite(End()))
            self.close()
        if not self._failed:
            self._connection.emit(Ended(self, end.error, by_peer))

    def receive(self, performative: Any, payload: bytes) -> None:
        """Handle another frame.

        Raises:
            ProtocolError: it is not allowed.
        """
        if self._move(SessionEvent.RECEIVE_FRAME) is Action.IGNORE:
            return
        if isinstance(performative, Transfer):
            self._receive_transfer(performative, payload)
        else:
            self._handlers[type(performative)](performative)

    # What links call.

    def emit(self, event: Any) -> None:
        """Report an event."""
        self._connection.emit(event)

    def send(self, performative: Any) -> None:
        """Send a frame."""
        self._move(SessionEvent.SEND_FRAME)
        if isinstance(performative, Detach):
            self._transfers.drop(self._links[performative.handle])
        self._write(encode_composite(performative))

    def send_flow(self, **fields: Any) -> None:
        """Send a flow of the session; the fields are those of a link."""
        # Before the peer's begin, its next id is not known.
        known = self.remote is not None
        self.send(
            Flow(
                self._next_incoming_id if known else None,
                self._incoming_window,
                self._transfers.next_id,
                OUTGOING_WINDOW,
                **fields,
            )
        )

    def next_delivery_id(self) -> int:
        """Return the number of a delivery that is sent."""
        found = self._next_delivery_id
        self._next_delivery_id = serial.add(found, 1)
        return found

    def send_transfers(
        self, link: Link, delivery: Delivery, parts: list[Part], *, settled: bool
    ) -> None:
        """Send a delivery, as the peer's window allows."""
        self._move(SessionEvent.SEND_FRAME)
        if not settled:
            self._outgoing.add(link, delivery)
        self._transfers.add(link, delivery, parts, settled=settled)

    def send_disposition(
        self, link: Link, delivery: Delivery, state: DeliveryState | None, *, settled: bool
    ) -> None:
        """Send the state of a delivery, after all of its frames."""
        self._move(SessionEvent.SEND_FRAME)
        if settled:
            (self._outgoing if link.role is SENDER else self._incoming).remove(delivery)
        disposition = Disposition(link.role, delivery.id, settled=settled, state=state)
        self._transfers.add_disposition(link, delivery, encode_composite(disposition))

    def _move(self, event: SessionEvent) -> Action:
        self.state, action = states.advance(states.SESSION, self.state, event, self)
        return action

    def _write_begin(self, remote_channel: int | None) -> None:
        begin = Begin(
            remote_channel,
            self._transfers.next_id,
            self._incoming_window,
            OUTGOING_WINDOW,
            HANDLE_MAX,
        )
        self._write(encode_composite(begin))

    def _write(self, body: bytes, payload: bytes | memoryview = b"") -> None:
        self._connection.write(self.channel, body, payload)

    def _handle_for(self, name: str, role: bool) -> int:
        if self._links.named(name, role):
            raise StateError(f"a link with the name {name!r} is attached already; detach it first")
        handle = self._free_handle()
        if handle is None:
            raise StateError(f"{self!r} has {len(self._links)} links, and no more are allowed")
        return handle

    def _free_handle(self) -> int | None:
        most = min(HANDLE_MAX, self.remote.handle_max if self.remote else HANDLE_MAX)
        return self._links.free(most)

    def _attach(self, link: L) -> L:
        link.attach()
        self._links.add(link)
        return link

    def _fail(self, condition: str, description: str) -> None:
        """End the session because the peer did in it what is not allowed."""
        error = Error(condition, description)
        self.end(error)
        self._failed = True
        self._connection.emit(Ended(self, error, by_peer=False))

    def _receive_attach(self, attach: Attach) -> None:
        if attach.handle > HANDLE_MAX:
            raise ProtocolError(
                f"attach: handle {attach.handle} is above {HANDLE_MAX}", FRAMING_ERROR
            )
        if self._links.of_peer(attach.handle) is not None:
            self._fail(HANDLE_IN_USE, f"handle {attach.handle} is attached already")
            return
        role = not attach.role
        link = self._links.named(attach.name, role)
        if link is None:
            handle = self._free_handle()
            if handle is None:
                self._fail(RESOURCE_LIMIT_EXCEEDED, f"there are {len(self._links)} links already")
                return
            kind = Sender if role is SENDER else Receiver
            answer = Attach(
                attach.name,
                handle,
                role,
                attach.snd_settle_mode,
                attach.rcv_settle_mode,
                initial_delivery_count=0 if role is SENDER else None,
                max_message_size=MAX_MESSAGE_SIZE if role is RECEIVER else None,
            )
            link = kind(self, answer)
            self._links.add(link)
        self._links.bind(attach.handle, link)
        link.receive_attach(attach)

    def _receive_detach(self, detach: Detach) -> None:
        link = self._links.of_peer(detach.handle)
        if link is None:
            self._fail(UNATTACHED_HANDLE, f"detach: handle {detach.handle} is not attached")
            return
        link.receive_detach(detach)
        self._links.remove(detach.handle)
        self._outgoing.drop(link)
        self._incoming.drop(link)

    def _receive_flow(self, flow: Flow) -> None:
        self._transfers.receive_flow(flow)
        if flow.handle is not None:
            link = self._links.of_peer(flow.handle)
            if link is None:
                self._fail(UNATTACHED_HANDLE, f"flow: handle {flow.handle} is not attached")
                return
            link.receive_flow(flow)
        elif flow.echo:
            self.send_flow()
        self._transfers.send()

    def _receive_transfer(self, transfer: Transfer, payload: bytes) -> None:
        self._incoming_window -= 1
        self._next_incoming_id = serial.add(self._next_incoming_id, 1)
        if self._incoming_window < 0:
            self._fail(WINDOW_VIOLATION, f"more than {INCOMING_WINDOW} frames were sent at once")
            return
        link = self._links.of_peer(transfer.handle)
        if not isinstance(link, Receiver):
            text = f"transfer: handle {transfer.handle} is not attached, or is not of a sender"
            self._fail(UNATTACHED_HANDLE, text)
            return
        delivery = link.receive_transfer(transfer, payload)
        if delivery is not None and not delivery.settled:
            self._incoming.add(link, delivery)
        elif delivery is not None:
            self._incoming.remove(delivery)
        if self._incoming_window <= INCOMING_WINDOW // 2:
            self._incoming_window = INCOMING_WINDOW
            self.send_flow()

    def _receive_disposition(self, disposition: Disposition) -> None:
        unsettled = self._outgoing if disposition.role is RECEIVER else self._incoming
        for updated in unsettled.apply(disposition):
            self._connection.emit(updated)
