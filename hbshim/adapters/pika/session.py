"""pika's AMQP state machine on a socket of our own, without an I/O loop of pika's.

``BlockingConnection`` pays for each publish with a turn of its loop, looks for something to
read while it writes, and cannot be written to by one thread while another waits for it.
Here whoever has octets to send sends them, and whoever was told that there is something to
read calls :meth:`StreamConnection.receive`; both return at once, and neither waits.

The caller sees to it that one thread at a time is in here.

Longer than others: each method stands in for one of pika's, and states why.
"""

from __future__ import annotations

import weakref
from _socket import socket as NativeSocket  # noqa: N812
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pika
from pika.channel import Channel
from pika.connection import Connection
from pika.data import decode_table, encode_table
from pika.exceptions import (
    ChannelClosedByBroker,
    ConnectionClosedByClient,
    ShortStringTooLong,
    StreamLostError,
    UnsupportedAMQPFieldException,
)
from pika.frame import decode_frame
from pika.spec import FRAME_METHOD, Basic
from pika.spec import Channel as ChannelMethods

from hbshim.adapters.attach import leave_alone, not_negotiated, watch
from hbshim.adapters.pika.heartbeat import SUPPORTED, KeptAliveChecker, forked_error
from hbshim.adapters.sockets import native_socket, wire_for
from hbshim.adapters.versions import require_version
from hbshim.heartbeat import service
from hbshim.heartbeat.link import Link
from hbshim.heartbeat.state import WATCHED
from hbshim.options import Options
from hbshim.protocol.decode import DeliveryDecoder

#: Octets that one read takes at most, and reads before others get a turn.
_READ = 65536
_READS = 16

#: Octets before and after the payload of a frame (AMQP 0-9-1, 4.2.3).
_HEADER, _END = 7, 1
_FRAME_END = 0xCE

#: T of a connection without heartbeats: the peer is never called dead for its silence.
_NEVER = float("inf")


def _nothing(*_arguments: Any) -> None:
    return None


class _QuietChannel(Channel):  # type: ignore[misc]
    """A channel that the broker may close without a warning in the log.

    That is how it answers a question for a queue that is not there; the owner raises it.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        # What arrives between cancel and cancel-ok included: pika would reject it.
        self.intake = DeliveryDecoder(self._consumers.get, table_of)

    def _on_close_from_broker(self, method_frame: Any) -> None:
        self._send_method(ChannelMethods.CloseOk())
        closed = method_frame.method
        self._closing_reason = ChannelClosedByBroker(closed.reply_code, closed.reply_text)
        self._transition_to_closed()


class StreamConnection(Connection):  # type: ignore[misc]
    """An AMQP connection that is fed with what arrives and sends at once.

    Parameters:
        parameters: pika's connection parameters; host and port are for the name only.
        sock: connected, non-blocking; a TLS one with its handshake done. It is closed by
            the caller, at the earliest when `on_end` was called.
        options: hbshim's, for the heartbeats.
        on_end: called once, when nothing more is read or written.
        on_orphaned: called in a forked child, instead.

    Attributes:
        reason: why it ended; None before.
        ended: nothing more is read or written.
        queued, sent: octets that were to be sent so far, and that the socket took.
        secure: over TLS.
        send: sends whole frames, or keeps what the socket does not take; see :attr:`unsent`.
        link: keeps it alive; None before the handshake has come so far.

    Raises:
        UnsupportedVersionError: pika is of a version hbshim does not know.
    """

    def __init__(
        self,
        parameters: Any,
        sock: Any,
        options: Options,
        on_end: Callable[[], None],
        on_orphaned: Callable[[], None],
    ) -> None:
        require_version("pika", pika.__version__, SUPPORTED)
        self.reason: Exception | None = None
        self.link: Link | None = None
        self._more = False
        self._options = options
        self._on_end = on_end
        self._on_orphaned = on_orphaned
        self.ended = False
        self.queued = self.sent = 0
        self._native = native_socket(sock)
        self._wire = wire_for(sock)
        self._nothing_waits = self._wire.nothing_waits
        self._waiting: deque[memoryview] = deque()
        # SSL's own object: it knows no descriptor that a green library would wait for.
        self._session = getattr(sock, "_sslobj", None)
        self.secure = self._session is not None
        self._would_wait: tuple[type[OSError], ...] = (BlockingIOError,)
        if self.secure:
            import ssl

            self._would_wait += (ssl.SSLWantReadError, ssl.SSLWantWriteError)
        self._frame_buffer = b""
        # Until T is known, which the guard must know.
        self.send: Callable[[Any], None] = self._send_now
        self._read: Callable[[], None] = self._read_now
        super().__init__(
            parameters, on_open_error_callback=_nothing, internal_connection_workflow=False
        )

    # -- what the owner calls ------------------------------------------------

    def begin(self) -> None:
        """Start the handshake."""
        self._on_stream_connected()

    def receive(self) -> None:
        """Take in what is there; never waits.

        Raises:
            OSError, AMQPError: the stream has ended; :meth:`fail` is to be called.
        """
        self._read()
        self._settle()

    @property
    def alive(self) -> bool:
        """Whether it is open, and neither given up by its heartbeats nor broken off in a frame."""
        link = self.link
        return bool(self.is_open) and (link is None or link.state in WATCHED)

    @property
    def buffered(self) -> bool:
        """Whether there is something to read that the descriptor does not tell of."""
        return self._more or (self._session is not None and self._session.pending() > 0)

    def nothing_waits(self) -> bool:
        """Whether a read would certainly find nothing, for a quarter of its price."""
        if self._session is None:
            return self._nothing_waits()
        return not self._wire.unread() and not self.buffered

    @property
    def unsent(self) -> bool:
        """Whether octets wait until the socket takes more of them."""
        return bool(self._waiting)

    def flush(self) -> None:
        """Send what waits, as far as the socket takes it."""
        if self._waiting:
            self.send(b"")

    def withdraw(self, end: int) -> bool:
        """Take back what heads the queue and was to be sent up to octet `end`.

        Returns:
            False when some of it is out; in a TLS session nobody can tell.
        """
        head = self._waiting[0]
        untouched = isinstance(head.obj, bytes) and len(head.obj) == len(head)
        if self.secure or not untouched or self.sent + len(head) != end:
            return False
        self.queued -= len(self._waiting.popleft())
        return True

    def begin_close(self) -> None:
        """Say Connection.Close, without closing the channels one by one before."""
        self._error = ConnectionClosedByClient(200, "Normal shutdown")
        self._set_connection_state(self.CONNECTION_CLOSING)
        self._on_close_ready()

    def doom(self, error: Exception) -> None:
        """Have it end, as soon as pika has finished with the frame that it is in."""
        if not self.ended:
            self._terminate_stream(error)

    def fail(self, error: Exception) -> None:
        """The stream is of no use any more."""
        if not self.ended:
            self._terminate_stream(error)
            self._settle()

    # -- octets --------------------------------------------------------------

    def _send_now(self, data: Any) -> None:
        if data:
            self.queued += len(data)
            self._waiting.append(memoryview(data))
        while self._waiting:
            head = self._waiting[0]
            try:
                sent = self._write(head)
            except self._would_wait:
                return
            self.sent += sent
            if sent < len(head):
                self._waiting[0] = head[sent:]
            else:
                self._waiting.popleft()

    def _write(self, data: memoryview) -> int:
        if self._session is None:
            return int(NativeSocket.send(self._native, data))
        return int(self._session.write(data))

    def _read_now(self) -> None:
        self._more = False
        for _ in range(_READS):
            try:
                if self._session is None:
                    data = NativeSocket.recv(self._native, _READ)
                else:
                    data = self._session.read(_READ)
            except self._would_wait:
                return
            if not data:
                raise StreamLostError("the broker, or something on the way, closed the connection")
            self._on_data_available(data)
            if self._session is None and len(data) < _READ:
                return
        self._more = True

    def _on_data_available(self, data_in: bytes) -> None:
        # As pika's own, which copies what is left of the buffer for each frame in it.
        data: bytes = self._frame_buffer + data_in if self._frame_buffer else data_in
        if not self.is_open and data.startswith(b"AMQP"):
            super()._on_data_available(data_in)
            return
        at, end = 0, len(data)
        while end - at >= _HEADER + _END and not self.ended:
            size = _HEADER + int.from_bytes(data[at + 3 : at + _HEADER], "big") + _END
            if end - at < size:
                break
            last = at + size - _END
            channel = self._channels.get(int.from_bytes(data[at + 1 : at + 3], "big"))
            if (
                channel is None
                or data[last] != _FRAME_END
                or not channel.intake.take(data[at], data[at + _HEADER : last])
            ):
                self._process_frame(decode_frame(data[at : last + _END])[1])
            at += size
        self._frame_buffer = data[at:]

    def _process_frame(self, frame_value: Any) -> None:
        # What there is most of has no callbacks of pika's, and looking for them costs as much
        # as the rest.
        if frame_value.frame_type == FRAME_METHOD and not isinstance(
            frame_value.method, Basic.Deliver
        ):
            super()._process_frame(frame_value)
        elif frame_value.channel_number in self._channels:
            self._channels[frame_value.channel_number]._handle_content_frame(frame_value)

    # -- the end -------------------------------------------------------------

    def _terminate_stream(self, error: Exception | None) -> None:
        if self.reason is None:
            self.reason = error or self._error
        super()._terminate_stream(error)

    def _adapter_disconnect_stream(self) -> None:
        # pika wants to be told later, when it has finished with what it is in.
        self.ended = True

    def _settle(self) -> None:
        if self.ended and self._on_end is not _nothing:
            on_end, self._on_end = self._on_end, _nothing
            self._on_orphaned = _nothing
            self._waiting.clear()
            self._on_stream_terminated(None)
            # Both hold on to this connection.
            self.send, self._read = _refuse_send, _refuse_read
            on_end()

    def _orphaned(self) -> None:
        """In a forked child: have every further call refused."""
        self.reason = forked_error()
        self.ended = True
        self._set_connection_state(self.CONNECTION_CLOSED)
        self.send, self._read = _refuse_send, _refuse_read
        self._on_orphaned()

    # -- heartbeats ----------------------------------------------------------

    def _create_heartbeat_checker(self) -> Any:
        timeout = self.params.heartbeat
        myself = weakref.ref(self)

        def half_written() -> bool:
            alive = myself()
            return alive is not None and bool(alive._waiting)

        def half_read() -> bool:
            alive = myself()
            return alive is not None and bool(alive._frame_buffer)

        def orphaned() -> None:
            alive = myself()
            if alive is not None:
                alive._orphaned()

        link = Link(
            self._wire,
            float(timeout) if timeout else _NEVER,
            self._wire.name(),
            service.current().metrics,
            half_written=half_written,
            half_read=half_read,
            on_orphaned=orphaned,
            forked_error=forked_error,
        )
        if timeout:
            try:
                watch(link, self._options)
            except Exception as error:
                leave_alone(self._wire.name(), error)
        else:
            not_negotiated(self._wire.name(), self._options)
        self.link = link
        guard = link.guard
        self.send = guard.around_send(self._send_now, link.before_idle_write, _tears, link.tear)
        self._read = guard.around_read(self._read_now, link.before_idle_write)
        return KeptAliveChecker(link)

    # -- hooks of pika's adapters ---------------------------------------------

    def _create_channel(self, channel_number: int, on_open_callback: Any) -> Channel:
        return _QuietChannel(self, channel_number, on_open_callback)

    def _output_marshaled_frames(self, marshaled_frames: Sequence[bytes]) -> None:
        # A message at once: one system call instead of three.
        self.send(b"".join(marshaled_frames))

    def _adapter_emit_data(self, data: bytes) -> None:
        self.send(data)

    def _adapter_connect_stream(self) -> None:
        raise NotImplementedError("the socket is connected before")

    def _adapter_call_later(self, delay: float, callback: Callable[[], Any]) -> object:
        raise NotImplementedError("no timer of pika's is in use: no blocked_connection_timeout")

    def _adapter_remove_timeout(self, timeout_id: object) -> None:
        raise NotImplementedError("no timer of pika's is in use: no blocked_connection_timeout")

    def _adapter_add_callback_threadsafe(self, callback: Callable[..., Any]) -> None:
        raise NotImplementedError("the owner's lock lets any thread call")


def field_table(values: Mapping[str, Any]) -> bytes:
    """A table of AMQP's, as :func:`hbshim.protocol.encode.publication` wants it.

    Raises:
        ValueError: a value is of a type that AMQP does not have, or a key is too long.
    """
    pieces: list[bytes] = []
    try:
        encode_table(pieces, values)
    except (ShortStringTooLong, UnsupportedAMQPFieldException) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None
    return b"".join(pieces)


def table_of(data: bytes) -> dict[str, Any]:
    """Decode a table, length and all."""
    table: dict[str, Any] = decode_table(data, 0)[0]
    return table


def _tears(_error: BaseException) -> bool:
    # The rest is never sent: the owner gives the connection up.
    return True


def _refuse_send(_data: Any) -> None:
    raise StreamLostError("the connection has ended")


def _refuse_read() -> None:
    raise StreamLostError("the connection has ended")
