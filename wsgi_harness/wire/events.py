"""What the relay can do with bytes, and the events that it reports."""

from __future__ import annotations

import dataclasses
import enum


class Mode(enum.Enum):
    """What the relay does with the bytes that arrive."""

    PASS = "pass"
    #: Reads nothing, so both kernels' windows close in time, as behind a stalled proxy.
    DEAF = "deaf"
    #: Reads and throws away: both kernels get their acknowledgements, neither program an answer.
    SWALLOW = "swallow"
    #: Neither reads nor acknowledges, as when the peer or the way to it is gone: nothing answers,
    #: not even a kernel. A new connection is not accepted either.
    VANISH = "vanish"


@dataclasses.dataclass(frozen=True)
class RelayEvent:
    """Something that the relay saw.

    Attributes:
        kind: ``opened``; ``heartbeat``; ``close``, ``close-ok``, ``blocked``, ``unblocked``
            (connection methods); ``fin`` or ``rst`` (that side's kernel ended its stream);
            ``forgotten`` (the client was idle for too long, see :meth:`.relay.Relay.forget_idle`);
            ``closed`` (the relay let go of both sockets); ``malformed`` or ``torn`` (what
            went by is not whole AMQP frames); ``unreachable`` (the target refused).
        side: the sender: ``client`` or ``server``; for ``closed`` the side that ended the
            connection first, ``relay`` when ordered to; empty for ``opened``.
        cell: name of the listening port.
        connection: number of the connection at this port, from 1.
        at: ``time.time()``, in seconds.
        frames, byte_count: passed in this direction so far; for ``closed`` in both.
        detail: more about an error; for ``opened`` the client's port.
    """

    kind: str
    side: str
    cell: str
    connection: int
    at: float
    frames: int = 0
    byte_count: int = 0
    detail: str = ""

    @property
    def is_error(self) -> bool:
        """Whether the stream was not whole AMQP frames."""
        return self.kind in ("malformed", "torn")
