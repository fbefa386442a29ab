"""Cuts what was read from a connection into frames (AMQP 0-9-1, 4.2.3)."""

from __future__ import annotations

import errno
import struct
from typing import TypeAlias

#: Types of frames.
METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
#: Bytes of a frame around its payload: type, channel and size before it, one byte behind it.
FRAME_OVERHEAD = 8

#: Type, channel and payload.
Frame: TypeAlias = tuple[int, int, bytes]

_HEAD = struct.Struct(">BHI")
_END = 0xCE
_TYPES = frozenset({METHOD, HEADER, BODY, HEARTBEAT})


class Splitter:
    """Keeps the beginning of a frame until the rest of it arrives.

    Attributes:
        missing: bytes that are still to come of a frame that has begun; 0 at a boundary.
    """

    __slots__ = ("_parts", "missing")

    def __init__(self) -> None:
        self.missing = 0
        self._parts: list[bytes] = []

    def split(self, data: bytes) -> list[Frame]:
        """Return every frame that is complete with `data`.

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
    """Return the error for bytes of the broker that AMQP does not allow."""
    return OSError(errno.EPROTO, f"what the broker sent is not AMQP 0-9-1: {what}")


def joined(frame: Frame) -> bytes:
    """Return a frame as it is on the wire."""
    kind, channel, payload = frame
    return _HEAD.pack(kind, channel, len(payload)) + payload + b"\xce"
