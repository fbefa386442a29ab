"""Follows AMQP frames through a byte stream, in pieces of any size.

AMQP 0-9-1 section 4.2.3: type (1 octet), channel (2), size (4), payload, frame-end 0xCE. A stream
that begins with a protocol header of AMQP 1.0 has the frames of :mod:`wsgi_harness.wire.frames1`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from wsgi_harness.wire import frames1
from wsgi_harness.wire.frame import HEARTBEAT, Frame, MalformedFrameError

METHOD, HEADER, BODY = 1, 2, 3

#: Section 4.2.7.
HEARTBEAT_FRAME = bytes.fromhex("08 0000 00000000 CE")

_FRAME_TYPES = frozenset({METHOD, HEADER, BODY, HEARTBEAT})
_FRAME_END = 0xCE
_PREFIX = struct.Struct(">BHI")
_PROTOCOL_HEADER = b"AMQP"
_PROTOCOL_HEADER_SIZE = 8
_VERSION = slice(4, 8)
_0_9_1 = bytes((0, 0, 9, 1))
_TLS_HANDSHAKE = 0x16

#: More than any frame_max in use (131 072 by default): a larger size is payload taken for a prefix.
_LARGEST_PAYLOAD = 16 * 1024 * 1024

#: Class 10 (connection) methods that show what happens to a connection; section 1.4, and
#: RabbitMQ's extension for `blocked`.
_CONNECTION_METHODS = {50: "close", 51: "close-ok", 60: "blocked", 61: "unblocked"}


class FrameParser:
    """Parses one direction of one connection; payloads are passed over, not kept.

    Attributes:
        byte_count: seen so far.
        frames: seen whole so far; a protocol header is none.
        heartbeat: the heartbeat of the stream's protocol.
        opaque: the stream is a TLS session, or was malformed: it is no longer parsed.
    """

    def __init__(self) -> None:
        self.byte_count = 0
        self.frames = 0
        self.heartbeat = HEARTBEAT_FRAME
        self.opaque = False
        self._frame_at = self._frame_of_0_9_1
        self._buffer = bytearray()
        self._first = True

    @property
    def inside_frame(self) -> bool:
        """Whether the stream is inside a frame."""
        return bool(self._buffer) and not self.opaque

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that `data` completes.

        Raises:
            MalformedFrameError: once; after that the stream is opaque.
        """
        self.byte_count += len(data)
        if self.opaque:
            return
        self._buffer += data
        if self._first and self._buffer:
            self._begin()
        start = 0
        try:
            while (frame := self._frame_at(start)) is not None:
                start += frame.size
                if frame.type != frames1.PROTOCOL_HEADER:
                    self.frames += 1
                    yield frame
        except MalformedFrameError:
            self.opaque = True
            raise
        finally:
            del self._buffer[:start]

    def _begin(self) -> None:
        """Pass over the protocol header.

        A server of AMQP 0-9-1 sends one only to refuse a version.
        """
        if self._buffer[0] == _TLS_HANDSHAKE:
            self.opaque, self._first = True, False
            self._buffer.clear()
        elif not _PROTOCOL_HEADER.startswith(bytes(self._buffer[: len(_PROTOCOL_HEADER)])):
            self._first = False
        elif len(self._buffer) >= _PROTOCOL_HEADER_SIZE:
            self._first = False
            if self._buffer[_VERSION] != _0_9_1:
                self.heartbeat = frames1.EMPTY_FRAME
                self._frame_at = self._frame_of_1_0
                return
            del self._buffer[:_PROTOCOL_HEADER_SIZE]

    def _frame_of_1_0(self, start: int) -> Frame | None:
        return frames1.frame_at(self._buffer, start, self.frames)

    def _frame_of_0_9_1(self, start: int) -> Frame | None:
        buffer = self._buffer
        if self._first or len(buffer) - start < _PREFIX.size:
            return None
        kind, channel, payload = _PREFIX.unpack_from(buffer, start)
        if kind not in _FRAME_TYPES:
            raise MalformedFrameError(f"frame type {kind} after {self.frames} frames")
        if payload > _LARGEST_PAYLOAD:
            raise MalformedFrameError(f"a frame of {payload} bytes after {self.frames} frames")
        size = _PREFIX.size + payload + 1
        if len(buffer) - start < size:
            return None
        if buffer[start + size - 1] != _FRAME_END:
            raise MalformedFrameError(
                f"frame-end is 0x{buffer[start + size - 1]:02X}, not 0xCE, after "
                f"{self.frames} frames (type {kind}, payload of {payload} bytes)"
            )
        if kind == HEARTBEAT and (channel or payload):
            raise MalformedFrameError(f"a heartbeat on channel {channel} of {payload} bytes")
        return Frame(kind, channel, size, _method_at(buffer, start, kind, payload))


def _method_at(buffer: bytearray, start: int, kind: int, payload: int) -> str | None:
    if kind != METHOD or payload < 4:
        return None
    class_id, method_id = struct.unpack_from(">HH", buffer, start + _PREFIX.size)
    return _CONNECTION_METHODS.get(method_id) if class_id == 10 else None
