"""Splits the bytes read from a connection into frames (AMQP 0-9-1, 4.2.3)."""

from __future__ import annotations

import errno
import struct
from typing import TypeAlias

#: Types of frames.
METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
#: Bytes of a frame beside its payload: type, channel and size before it, one byte after it.
FRAME_OVERHEAD = 8

#: Type, channel and payload.
Frame: TypeAlias = tuple[int, int, bytes]

_HEAD = struct.Struct(">BHI")
_END = 0xCE
_TYPES = frozenset({METHOD, HEADER, BODY, HEARTBEAT})


class Splitter:
    """Keeps an incomplete frame until the rest of it arrives.

    Attributes:
        missing: bytes that are missing of an incomplete frame; 0 at a frame boundary.
    """

    __slots__ = ("_parts", "missing")

    def __init__(self) -> None:
        self.missing = 0
        self._parts: list[bytes] = []

    def split(self, data: bytes) -> list[Frame]:
        """Return every frame that `data` completes.

        Raises:
            OSError: it is not AMQP.
        """
        if self._parts:
            self._parts.append(data)
            self.missing -= len(data)
            if self.missing > 0:
                return []
            data = b"".join(self._parts)
        frames: list[Frame] = []
        begin, end, need = 0, len(data), FRAME_OVERHEAD
        while begin + FRAME_OVERHEAD <= end:
            kind, channel, size = _HEAD.unpack_from(data, begin)
            if kind not in _TYPES:
                raise not_amqp(f"no frame begins with {data[begin : begin + FRAME_OVERHEAD]!r}")
            need = size + FRAME_OVERHEAD
            last = begin + need - 1
            if last >= end:
                break
            if data[last] != _END:
                raise not_amqp(f"a frame ends with {data[last]:#04x} instead of 0xce")
            frames.append((kind, channel, data[begin + 7 : last]))
            begin, need = last + 1, FRAME_OVERHEAD
        if begin < end:
            self._parts = [data[begin:]]
            self.missing = need - (end - begin)
        else:
            self._parts = []
            self.missing = 0
        return frames


def not_amqp(what: str) -> OSError:
    """Return the error for bytes that AMQP does not allow."""
    return OSError(errno.EPROTO, f"what the broker sent is not AMQP 0-9-1: {what}")


def joined(frame: Frame) -> bytes:
    """Return the encoded frame."""
    kind, channel, payload = frame
    return _HEAD.pack(kind, channel, len(payload)) + payload + b"\xce"
