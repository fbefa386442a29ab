"""What is reported of a frame that has gone by, in both versions of AMQP."""

from __future__ import annotations

from typing import NamedTuple

#: The type of a heartbeat; AMQP 0-9-1, 4.2.7. The empty frame of AMQP 1.0 is reported as one.
HEARTBEAT = 8


class MalformedFrameError(ValueError):
    """The bytes are not AMQP frames; the stream cannot be followed further."""


class Frame(NamedTuple):
    """One frame that has gone by whole.

    Attributes:
        size: bytes on the wire, prefix and frame-end included.
        method: ``close``, ``close-ok``, ``blocked`` or ``unblocked`` for these methods of
            class connection, and ``close`` for that performative; None for everything else.
    """

    type: int
    channel: int
    size: int
    method: str | None = None
