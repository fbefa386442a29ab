"""Frames of AMQP 0-9-1 (4.2.3)."""

from __future__ import annotations

import errno

#: Types of frames.
METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
#: Bytes of a frame around its payload: type, channel and size before it, one byte behind it.
FRAME_OVERHEAD = 8


def not_amqp(what: str) -> OSError:
    """Return the error for bytes of the broker that AMQP does not allow."""
    return OSError(errno.EPROTO, f"what the broker sent is not AMQP 0-9-1: {what}")
