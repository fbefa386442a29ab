"""The frames of AMQP 1.0 in a byte stream.

AMQP 1.0, 2.3.1: size (4 bytes, all of the frame), data offset (1, in words of 4 bytes), type (1),
channel (2), extended header, body. Protocol headers, also of 8 bytes, stand between the layers.
"""

from __future__ import annotations

import struct

from wsgi_harness.wire.frame import HEARTBEAT, Frame, MalformedFrameError

#: 2.4.5: a frame without a body, on any channel.
EMPTY_FRAME = bytes.fromhex("00000008 02 00 0000")
#: Reported as the type of a protocol header; not one of a frame.
PROTOCOL_HEADER = 0x100

_AMQP, _SASL = 0, 1
_PREFIX = struct.Struct(">IBBH")
_HEADER = b"AMQP"
#: More than any max-frame-size in use.
_LARGEST = 16 * 1024 * 1024
#: 1.6 and 2.7.9: the descriptor of Close, a small ulong.
_CLOSE = bytes.fromhex("00 53 18")


def frame_at(buffer: bytearray, start: int, before: int) -> Frame | None:
    """Return what begins at `start`; None if it has not gone by whole.

    Parameters:
        before: the number of frames before it, for the error.

    Raises:
        MalformedFrameError: no frame begins there.
    """
    if len(buffer) - start < _PREFIX.size:
        return None
    if buffer.startswith(_HEADER, start):
        return Frame(PROTOCOL_HEADER, 0, _PREFIX.size)
    size, offset, kind, channel = _PREFIX.unpack_from(buffer, start)
    if not _PREFIX.size <= size <= _LARGEST:
        raise MalformedFrameError(f"a frame of {size} bytes after {before} frames")
    body = 4 * offset
    if not _PREFIX.size <= body <= size:
        raise MalformedFrameError(f"data offset {offset} in a frame of {size} bytes")
    if kind not in (_AMQP, _SASL):
        raise MalformedFrameError(f"frame type {kind} after {before} frames")
    if len(buffer) - start < size:
        return None
    if size == body and kind == _AMQP:
        return Frame(HEARTBEAT, channel, size)
    is_close = kind == _AMQP and buffer.startswith(_CLOSE, start + body)
    return Frame(kind, channel, size, "close" if is_close else None)
