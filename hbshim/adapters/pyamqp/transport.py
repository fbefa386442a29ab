"""py-amqp's transport over a socket that never blocks.

py-amqp waits inside the socket, and for a limit of its own sets the timeout of a socket that
another thread may be writing to. Here every read and write returns at once, and whoever has
to wait does so outside, as :class:`Waiting` knows how: so one thread may read while others
write, each within its own limit. And a read takes what is there, where py-amqp calls the
kernel three times for each frame.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
import struct
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from amqp import transport as amqp_transport
from amqp.exceptions import UnexpectedFrame

from hbshim.adapters.pyamqp.heartbeat import StalledError

#: Octets taken from the socket at once.
READ_AT_MOST = 65536

#: Seconds for octets that nobody gave a limit for, such as an acknowledgement.
STALL_LIMIT = 10.0

#: Type, channel and payload.
Frame: TypeAlias = tuple[int, int, bytes]

#: How a socket that never blocks says that it would have to.
_NOT_YET = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

# AMQP 0-9-1, 4.2.3: type, channel and size before the payload, one octet behind it.
_HEAD = struct.Struct(">BHI")
_AROUND = 8
_FRAME_END = 0xCE
#: Of a method, a header, a body and a heartbeat.
_KINDS = frozenset({1, 2, 3, 8})


class Waiting(Protocol):
    """Opens a socket and waits for it in the way of the program: natively, or greenly."""

    def dial(self) -> Any: ...
    def readable(self, timeout: float) -> bool: ...
    def writable(self, timeout: float) -> bool: ...
    def close(self, then: Callable[[], None]) -> None: ...


class Transport(amqp_transport.TCPTransport):  # type: ignore[misc]
    """Over a socket that is there already, of TCP or TLS.

    Attributes:
        more: there may be octets that a wait for the descriptor would not tell of.
        write_by: ``time.monotonic()`` by which the write under way is to be done; None:
            :data:`STALL_LIMIT` from now.
    """

    connected: bool
    sock: Any

    def __init__(self, host: str, waiting: Waiting) -> None:
        super().__init__(host)
        self._waiting = waiting
        self.write_by: float | None = None
        self.more = False
        self._parts: list[bytes] = []
        self._missing = 0

    def connect(self) -> None:
        if self.connected:
            return
        self.sock = sock = self._waiting.dial()
        self._tls = tls = hasattr(sock, "_sslobj")
        self._receive, self._send = (sock.read, sock.write) if tls else (sock.recv, sock.send)
        self._write(amqp_transport.AMQP_PROTOCOL_HEADER)
        self.connected = True

    def read_frame(self) -> list[Frame]:
        """Every frame that is there whole; half a one is kept until the rest comes.

        Raises:
            OSError: the connection ended.
            UnexpectedFrame: what came is not AMQP.
        """
        at_most = max(READ_AT_MOST, self._missing)
        try:
            data: bytes = self._receive(at_most)
        except _NOT_YET:
            self.more = False
            return []
        except OSError:
            self.connected = False
            raise
        if not data:
            self.connected = False
            raise ConnectionResetError(errno.ECONNRESET, "the broker closed the TCP connection")
        # A TLS session may hold more than it gave; only its refusal tells that it does not.
        self.more = self._tls or len(data) == at_most
        if self._parts:
            self._parts.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                return []
            data = b"".join(self._parts)
        return self._cut(data)

    def _cut(self, data: bytes) -> list[Frame]:
        frames: list[Frame] = []
        begin, end, need = 0, len(data), _AROUND
        while begin + _AROUND <= end:
            kind, channel, size = _HEAD.unpack_from(data, begin)
            if kind not in _KINDS:
                raise UnexpectedFrame(
                    f"no frame of AMQP begins with {bytes(data[begin : begin + 8])!r}"
                )
            need = size + _AROUND
            last = begin + need - 1
            if last >= end:
                break
            if data[last] != _FRAME_END:
                raise UnexpectedFrame(f"a frame ends with {data[last]:#04x} in place of 0xce")
            frames.append((kind, channel, data[begin + 7 : last]))
            begin, need = last + 1, _AROUND
        # Where hbshim's guard looks whether the reader stands at a frame boundary.
        self._read_buffer = data[begin:]
        self._parts = [self._read_buffer] if begin < end else []
        self._missing = need - (end - begin)
        return frames

    def write(self, s: Any) -> None:
        """Write whole frames where no heartbeat was negotiated; else hbshim's guard does."""
        try:
            super().write(s)
        except StalledError:
            raise
        except BaseException:
            # A part of a frame may be out, and nothing may follow it.
            self.connected = False
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)
            raise

    def _write(self, data: Any) -> None:
        try:
            sent = self._send(data)
        except _NOT_YET:
            sent = 0
        if sent < len(data):
            self._write_rest(memoryview(data), sent)

    def _write_rest(self, data: memoryview, sent: int) -> None:
        until = self.write_by
        if until is None:
            until = time.monotonic() + STALL_LIMIT
        while sent < len(data):
            left = until - time.monotonic()
            if left <= 0:
                # A TLS session keeps what it could not send, and sends it before all else.
                if sent == 0 and not self._tls:
                    raise StalledError
                raise ConnectionAbortedError(
                    errno.ECONNABORTED, "the broker took half a frame, and no more in time"
                )
            self._waiting.writable(left)
            with contextlib.suppress(*_NOT_YET):
                sent += self._send(data[sent:])

    def drop(self) -> None:
        """Forget the descriptor, and say nothing on it; for a forked child."""
        self.connected = False
        self.sock.close()

    def close(self) -> None:
        sock = self.sock
        if sock is None:
            return
        self.connected = False
        # Wakes whoever waits; the descriptor goes when nobody does any more.
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        self._waiting.close(super().close)
