"""A connection of AMQP 1.0: bytes in, events out; calls in, bytes out.

No socket, clock, thread or lock: the caller reads, writes, keeps the time, and makes one call at a
time. A client::

    connection = Connection("an-id", hostname="vhost:/", sasl=SaslClient([Plain(user, password)]))
    while not connection.closed:
        sock.sendall(connection.data_to_send(now()))
        for event in connection.receive_data(sock.recv(65536), now()):
            ...

Errors of the peer are events too: after `Closed`, send what is left and close the socket.

Longer than others: each performative, in both directions, changes the state that is here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hbshim.amqp1 import states
from hbshim.amqp1.channels import Channels
from hbshim.amqp1.composites import decode_composite, encode_composite
from hbshim.amqp1.errors import (
    FRAMING_ERROR,
    ILLEGAL_STATE,
    NOT_ALLOWED,
    RESOURCE_LIMIT_EXCEEDED,
    ProtocolError,
    StateError,
)
from hbshim.amqp1.events import Closed, Event, LoginRefused, Opened, Origin
from hbshim.amqp1.frames import (
    AMQP_HEADER,
    EMPTY_FRAME,
    PROTOCOL_HEADER,
    SASL,
    SASL_HEADER,
    SMALLEST_MAX_FRAME_SIZE,
    Frame,
    FrameSplitter,
    encode_frame,
)
from hbshim.amqp1.idle import (
    SHORTEST_OWN_TIMEOUT,
    SHORTEST_TIMEOUT,
    IdleEvent,
    IdleTimes,
    idle_times,
)
from hbshim.amqp1.performatives import (
    Attach,
    Begin,
    Close,
    Detach,
    Disposition,
    End,
    Error,
    Flow,
    Open,
    Transfer,
)
from hbshim.amqp1.sasl import SaslClient, SaslLayer, SaslServer
from hbshim.amqp1.session import Session
from hbshim.amqp1.states import Action, ConnectionEvent, ConnectionState
from hbshim.errors import OptionError, PayloadError

#: The largest frame that is accepted, in bytes, and the largest that a caller may choose. Some
#: peers send a whole message in a frame if they may.
MAX_FRAME_SIZE = 64 * 1024
LARGEST_MAX_FRAME_SIZE = 16 * 1024 * 1024
#: The largest number of a session that the peer may use.
CHANNEL_MAX = 255


class Connection:
    """A connection.

    Parameters:
        container_id: names this end; unique among those that a peer has.
        hostname: of the server, or what the server takes for a virtual host.
        server: this side waits for the peer to begin.
        sasl: the login; None: there is none.
        max_frame_size: the largest frame that is accepted and sent, in bytes.
        idle_timeout: seconds that the peer is asked to let pass at most without sending anything.
            It is taken for dead after twice as long. None: it is never.
        offered_capabilities: of this end.
        desired_capabilities: of the peer.
        properties: of this end, such as its product and version.

    Attributes:
        local: what this side sends to open it.
        remote: what the peer sent to open it; None before.
        state: see :data:`hbshim.amqp1.states.CONNECTION`.
        idle: the times of both sides; none before it is open.
        closed: it is over; data that is left should be sent.

    Raises:
        OptionError: a parameter is outside of its range.
        PayloadError: the parameters are longer than a frame before `Open` may be.
    """

    def __init__(
        self,
        container_id: str,
        *,
        hostname: str | None = None,
        server: bool = False,
        sasl: SaslClient | SaslServer | None = None,
        max_frame_size: int = MAX_FRAME_SIZE,
        idle_timeout: float | None = None,
        offered_capabilities: tuple[str, ...] = (),
        desired_capabilities: tuple[str, ...] = (),
        properties: Mapping[Any, Any] | None = None,
    ) -> None:
        if not SMALLEST_MAX_FRAME_SIZE <= max_frame_size <= LARGEST_MAX_FRAME_SIZE:
            raise OptionError(
                f"max_frame_size must be in {SMALLEST_MAX_FRAME_SIZE}..{LARGEST_MAX_FRAME_SIZE}, "
                f"got {max_frame_size}"
            )
        if idle_timeout is not None and idle_timeout < SHORTEST_OWN_TIMEOUT:
            raise OptionError(
                f"idle_timeout must be at least {SHORTEST_OWN_TIMEOUT} s, got {idle_timeout}"
            )
        self.local = Open(
            container_id,
            hostname,
            max_frame_size,
            CHANNEL_MAX,
            None if idle_timeout is None else int(idle_timeout * 1000),
            offered_capabilities=offered_capabilities,
            desired_capabilities=desired_capabilities,
            properties=properties,
        )
        self._open_frame = encode_frame(encode_composite(self.local))
        if len(self._open_frame) > SMALLEST_MAX_FRAME_SIZE:
            raise PayloadError(
                f"the frame that opens the connection has {len(self._open_frame)} bytes; it may "
                f"have {SMALLEST_MAX_FRAME_SIZE}: use shorter names, or fewer properties"
            )
        self.remote: Open | None = None
        self.state = ConnectionState.START
        self.idle = IdleTimes(None, None)
        self.closed = False
        self._server = server
        # None once the client is logged in.
        self._login = None if sasl is None else SaslLayer(sasl)
        self._splitter = FrameSplitter(max_frame_size, expects_header=True)
        self._out: list[bytes | memoryview] = []
        self._events: list[Any] = []
        self._sent_at = self._received_at = 0.0
        self._sessions = Channels()
        self._handlers: dict[type, Callable[[int, Any], None]] = {
            Open: self._receive_open,
            Begin: self._receive_begin,
            End: self._receive_end,
            Close: self._receive_close,
        }
        if self._login is not None:
            self._out.append(self._login.first)
        elif not server:
            self._start()

    def __repr__(self) -> str:
        return f"<Connection {self.local.container_id!r}, {self.state.value}>"

    @property
    def logged_in(self) -> bool:
        """Whether the login has succeeded, or there is none."""
        return self._login is None

    @property
    def peer_max_frame_size(self) -> int:
        """The largest frame that is sent, in bytes: both sides limit it."""
        limit = self.remote.max_frame_size if self.remote else SMALLEST_MAX_FRAME_SIZE
        return max(SMALLEST_MAX_FRAME_SIZE, min(limit, self.local.max_frame_size))

    @property
    def missing(self) -> int:
        """Bytes that are missing of a frame that has arrived in part; 0 at a frame boundary."""
        return self._splitter.missing

    def receive_data(self, data: bytes, now: float) -> list[Event]:
        """Handle what has arrived; b"" means that the stream has ended.

        Parameters:
            now: of a monotonic clock, in seconds.
        """
        if not data:
            self._lose()
        elif not self.closed or self.state is ConnectionState.CLOSE_SENT:
            self._received_at = now
            try:
                for frame in self._splitter.split(data):
                    self._receive(frame)
            except ProtocolError as error:
                self._fail(error.condition, str(error))
        events, self._events = self._events, []
        return events

    def data_to_send(self, now: float) -> bytes:
        """Return what is to be sent: whole frames; b"" if there are none.

        Parameters:
            now: of a monotonic clock, in seconds.
        """
        if not self._out:
            return b""
        self._sent_at = now
        data = b"".join(self._out)
        self._out.clear()
        return data

    def check(self, now: float) -> list[Event]:
        """Have an empty frame sent if it is due, and close the connection if the peer is dead.

        Parameters:
            now: of a monotonic clock, in seconds.
        """
        if self.state is ConnectionState.OPENED:
            found = self.idle.classify(now - self._sent_at, now - self._received_at)
            if found is IdleEvent.SILENT:
                text = f"local-idle-timeout expired: nothing arrived in {self.idle.silence:g} s"
                self._fail(RESOURCE_LIMIT_EXCEEDED, text)
            elif found is IdleEvent.DUE and not self._out:
                self._out.append(EMPTY_FRAME)
        events, self._events = self._events, []
        return events

    def next_check(self, now: float) -> float | None:
        """Return the seconds until `check` may have something to do; None: never."""
        if self.state is not ConnectionState.OPENED:
            return None
        return self.idle.next_check(now - self._sent_at, now - self._received_at)

    def begin(self) -> Session:
        """Begin a session; `Begun` follows.

        Raises:
            StateError: the connection is not open, or there are too many sessions.
        """
        channel = self._free_channel()
        if channel is None:
            raise StateError(f"{self!r} has {len(self._sessions)} sessions; no more are allowed")
        session = Session(self, channel)
        session.begin()
        self._sessions.add(session)
        return session

    def close(self, error: Error | None = None) -> None:
        """Close the connection; `Closed` follows when the peer has answered.

        Without an `Open` there is nothing to close, and `closed` is true at once.
        """
        self._close(error)
        self.closed = self.closed or self.state is ConnectionState.END

    # What sessions call.

    def write(self, channel: int, body: bytes, payload: bytes | memoryview = b"") -> None:
        """Send a frame."""
        self._move(ConnectionEvent.SEND_FRAME)
        self._out.append(encode_frame(body, channel, follow=len(payload)))
        if payload:
            self._out.append(payload)

    def emit(self, event: Event) -> None:
        """Report an event."""
        self._events.append(event)

    def _move(self, event: ConnectionEvent) -> Action:
        self.state, action = states.advance(states.CONNECTION, self.state, event, self)
        return action

    def _start(self) -> None:
        """Send what a client sends after the login."""
        self._move(ConnectionEvent.SEND_HEADER)
        self._move(ConnectionEvent.SEND_OPEN)
        self._out += (AMQP_HEADER, self._open_frame)

    def _close(self, error: Error | None) -> None:
        if self._move(ConnectionEvent.SEND_CLOSE) is Action.DO:
            self._out.append(encode_frame(encode_composite(Close(error))))
        self._sessions.lose()

    def _fail(self, condition: str, description: str) -> None:
        """Close the connection because the peer did what is not allowed."""
        error = Error(condition, description)
        self._close(error)
        self._report(Closed(error, Origin.LOCAL))

    def _lose(self) -> None:
        self._move(ConnectionEvent.LOSE)
        self._report(Closed(None, Origin.LOST))

    def _report(self, event: Closed | LoginRefused) -> None:
        """Report the end of the connection, once."""
        self._sessions.lose()
        if not self.closed:
            self.closed = True
            self.emit(event)

    def _receive(self, frame: Frame) -> None:
        if self.state is ConnectionState.END:
            return
        if frame.type == PROTOCOL_HEADER:
            self._receive_header(frame.body)
        elif frame.type == SASL:
            self._receive_login(frame.body)
        elif self._login is not None:
            raise ProtocolError("a frame of AMQP before the login", ILLEGAL_STATE)
        elif frame.body:
            self._receive_performative(frame.channel, frame.body)

    def _receive_header(self, header: bytes) -> None:
        expected = AMQP_HEADER if self._login is None else SASL_HEADER
        if header != expected:
            if self._server:
                self._out.append(expected)
            self._move(ConnectionEvent.LOSE)
            text = f"the peer does not speak this protocol: it sent {header!r}, not {expected!r}"
            self._report(Closed(Error(FRAMING_ERROR, text), Origin.LOCAL))
        elif self._login is not None:
            self._out.append(self._login.receive_header())
        else:
            self._move(ConnectionEvent.RECEIVE_HEADER)
            if self._server:
                self._move(ConnectionEvent.SEND_HEADER)
                self._out.append(AMQP_HEADER)

    def _receive_login(self, body: bytes) -> None:
        if self._login is None:
            raise ProtocolError("a frame of SASL after the login", ILLEGAL_STATE)
        answer, refused = self._login.receive(body)
        self._out.append(answer)
        if refused is not None:
            self._move(ConnectionEvent.LOSE)
            self._report(refused)
        elif self._login.done:
            self._login = None
            self._splitter.expects_header = True
            if not self._server:
                self._start()

    def _receive_performative(self, channel: int, body: bytes) -> None:
        performative, end = decode_composite(body)
        kind = type(performative)
        if end != len(body) and kind is not Transfer:
            raise ProtocolError(f"{len(body) - end} bytes follow {kind.__name__} in its frame")
        handler = self._handlers.get(kind)
        if handler is not None:
            handler(channel, performative)
        elif kind not in _SESSION_FRAMES:
            raise ProtocolError(f"a frame holds {kind.__name__}, which is no performative")
        elif self._move(ConnectionEvent.RECEIVE_FRAME) is Action.DO:
            self._sessions.of_peer(channel).receive(performative, body[end:])

    def _receive_open(self, channel: int, remote: Open) -> None:
        if self._move(ConnectionEvent.RECEIVE_OPEN) is Action.IGNORE:
            return
        self.remote = remote
        if self._server:
            self._move(ConnectionEvent.SEND_OPEN)
            self._out.append(self._open_frame)
        self.idle = idle_times(self.local.idle_time_out, remote.idle_time_out)
        if self.idle.timeout is not None and self.idle.timeout < SHORTEST_TIMEOUT:
            text = f"an idle-time-out of {remote.idle_time_out} ms is too short to be kept"
            self._fail(NOT_ALLOWED, text)
            return
        self.emit(Opened(remote, self.idle))

    def _receive_close(self, channel: int, close: Close) -> None:
        if self._move(ConnectionEvent.RECEIVE_CLOSE) is Action.ANSWER:
            self._out.append(encode_frame(encode_composite(Close())))
            self._report(Closed(close.error, Origin.PEER))
        else:
            self._report(Closed(close.error, Origin.LOCAL))

    def _receive_begin(self, channel: int, begin: Begin) -> None:
        if self._move(ConnectionEvent.RECEIVE_FRAME) is Action.IGNORE:
            return
        if channel > CHANNEL_MAX:
            raise ProtocolError(f"begin: channel {channel} is above {CHANNEL_MAX}", NOT_ALLOWED)
        if begin.remote_channel is None:
            number = self._free_channel()
            if number is None:
                text = f"begin: there are {len(self._sessions)} sessions already"
                raise ProtocolError(text, RESOURCE_LIMIT_EXCEEDED)
            session = Session(self, number)
            self._sessions.add(session)
        else:
            session = self._sessions.waiting(begin.remote_channel)
        self._sessions.bind(channel, session)
        session.receive_begin(begin, channel)

    def _receive_end(self, channel: int, end: End) -> None:
        if self._move(ConnectionEvent.RECEIVE_FRAME) is Action.IGNORE:
            return
        self._sessions.of_peer(channel).receive_end(end)
        self._sessions.remove(channel)

    def _free_channel(self) -> int | None:
        limit = self.remote.channel_max if self.remote else CHANNEL_MAX
        return self._sessions.free(min(CHANNEL_MAX, limit))


_SESSION_FRAMES = frozenset({Attach, Flow, Transfer, Disposition, Detach})
