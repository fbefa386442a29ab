"""Frames (AMQP 1.0, part 2, 2.3): a header, a performative, and what a transfer carries."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from hbshim.amqp1.errors import FRAMING_ERROR, ProtocolError

#: Types of frames.
AMQP, SASL = 0, 1

#: The type of what is no frame: the eight bytes with which each side announces its protocol.
PROTOCOL_HEADER = -1
AMQP_HEADER = b"AMQP\x00\x01\x00\x00"
SASL_HEADER = b"AMQP\x03\x01\x00\x00"

#: Bytes before the body.
HEADER_SIZE = 8

#: The largest frame that every peer accepts, and the only size before `Open` (2.3.1).
SMALLEST_MAX_FRAME_SIZE = 512

#: The heartbeat of AMQP 1.0: it has no body, and nothing else has eight bytes.
EMPTY_FRAME = bytes.fromhex("00000008 02 00 0000")

_HEADER = struct.Struct(">IBBH")
_DATA_OFFSET = 2


class Frame(NamedTuple):
    """A frame; an empty body is a heartbeat."""

    type: int
    channel: int
    body: bytes


def encode_frame(body: bytes, channel: int = 0, kind: int = AMQP, *, follow: int = 0) -> bytes:
    """Return a frame as bytes.

    Parameters:
        follow: bytes of the body that the caller sends behind it.
    """
    size = HEADER_SIZE + len(body) + follow
    return _HEADER.pack(size, _DATA_OFFSET, kind, channel) + body


class FrameSplitter:
    """Cuts what arrives into frames, and keeps an incomplete one until the rest arrives.

    Attributes:
        expects_header: the next eight bytes are a protocol header (2.2), not a frame.
        missing: bytes that are missing of an incomplete frame; 0 at a frame boundary.
    """

    __slots__ = ("_max_frame_size", "_parts", "expects_header", "missing")

    def __init__(self, max_frame_size: int, *, expects_header: bool = False) -> None:
        self._max_frame_size = max_frame_size
        self._parts: list[bytes] = []
        self.expects_header = expects_header
        self.missing = 0

    def split(self, data: bytes) -> Iterator[Frame]:
        """Yield every frame that `data` completes.

        Raises:
            ProtocolError: what arrived is no frame, or one that is too large. The connection has
                to be closed.
        """
        if self._parts:
            self._parts.append(data)
            self.missing -= len(data)
            if self.missing > 0:
                return
            data = b"".join(self._parts)
        begin, end, size = 0, len(data), HEADER_SIZE
        while begin + HEADER_SIZE <= end:
            if self.expects_header:
                self.expects_header = False
                yield Frame(PROTOCOL_HEADER, 0, data[begin : begin + HEADER_SIZE])
                begin += HEADER_SIZE
                continue
            size, offset, kind, channel = _HEADER.unpack_from(data, begin)
            self._check(size, offset, kind)
            if begin + size > end:
                break
            yield Frame(kind, channel, data[begin + 4 * offset : begin + size])
            begin, size = begin + size, HEADER_SIZE
        self._parts = [data[begin:]] if begin < end else []
        self.missing = size - (end - begin) if begin < end else 0

    def _check(self, size: int, offset: int, kind: int) -> None:
        if kind not in (AMQP, SASL):
            raise ProtocolError(f"a frame has the unknown type {kind}", FRAMING_ERROR)
        if offset < _DATA_OFFSET or 4 * offset > size:
            raise ProtocolError(
                f"a frame of {size} bytes has its body at {4 * offset}", FRAMING_ERROR
            )
        if size > self._max_frame_size:
            raise ProtocolError(
                f"a frame has {size} bytes; the largest that was agreed has {self._max_frame_size}",
                FRAMING_ERROR,
            )
