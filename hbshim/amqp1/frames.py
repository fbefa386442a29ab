"""Frames (AMQP 1.0, part 2, 2.3): a header, a performative, and what a transfer carries."""

from __future__ import annotations

import struct
from typing import NamedTuple

from hbshim.amqp1.errors import FRAMING_ERROR, ProtocolError

#: Types of frames.
AMQP, SASL = 0, 1

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


def encode_frame(body: bytes, channel: int = 0, kind: int = AMQP) -> bytes:
    """Return a frame as bytes."""
    return _HEADER.pack(len(body) + HEADER_SIZE, _DATA_OFFSET, kind, channel) + body


class FrameSplitter:
    """Cuts what arrives into frames, and keeps an incomplete one until the rest arrives.

    Attributes:
        max_frame_size: the largest frame that is accepted, in bytes.
        missing: bytes that are missing of an incomplete frame; 0 at a frame boundary.
    """

    __slots__ = ("_parts", "max_frame_size", "missing")

    def __init__(self, max_frame_size: int) -> None:
        self.max_frame_size = max_frame_size
        self.missing = 0
        self._parts: list[bytes] = []

    def split(self, data: bytes) -> list[Frame]:
        """Return every frame that `data` completes.

        Raises:
            ProtocolError: what arrived is no frame, or one that is too large. The frames before
                it are lost with it: the connection has to be closed.
        """
        if self._parts:
            self._parts.append(data)
            self.missing -= len(data)
            if self.missing > 0:
                return []
            data = b"".join(self._parts)
        frames: list[Frame] = []
        begin, end, size = 0, len(data), HEADER_SIZE
        while begin + HEADER_SIZE <= end:
            size, offset, kind, channel = _HEADER.unpack_from(data, begin)
            self._check(size, offset, kind)
            if begin + size > end:
                break
            frames.append(Frame(kind, channel, data[begin + 4 * offset : begin + size]))
            begin, size = begin + size, HEADER_SIZE
        self._parts = [data[begin:]] if begin < end else []
        self.missing = size - (end - begin) if begin < end else 0
        return frames

    def _check(self, size: int, offset: int, kind: int) -> None:
        if kind not in (AMQP, SASL):
            raise ProtocolError(f"a frame has the unknown type {kind}", FRAMING_ERROR)
        if offset < _DATA_OFFSET or 4 * offset > size:
            raise ProtocolError(
                f"a frame of {size} bytes has its body at {4 * offset}", FRAMING_ERROR
            )
        if size > self.max_frame_size:
            raise ProtocolError(
                f"a frame has {size} bytes; the largest that was agreed has {self.max_frame_size}",
                FRAMING_ERROR,
            )
