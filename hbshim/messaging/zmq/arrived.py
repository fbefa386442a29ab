"""What the I/O thread has received for a listener."""

from __future__ import annotations

from dataclasses import dataclass

from hbshim.messaging.zmq.frames import Flag, Header, Kind

#: Bytes of a message beyond its body, for limits.
_OVERHEAD = 1000


@dataclass(frozen=True, slots=True)
class Arrived:
    """A request or a publication.

    Attributes:
        client: the routing id that replies go to; empty where none may be sent.
        at: when it arrived, of ``time.monotonic()``.
        attempts: how often it was handled before.
    """

    client: bytes
    header: Header
    body: bytes
    at: float
    attempts: int = 0

    @property
    def is_publication(self) -> bool:
        """Whether it came over a PUB/SUB pipeline, so that its sender waits for nothing."""
        return self.header.kind in (Kind.FANOUT, Kind.NOTIFY) and not self.client

    @property
    def is_acknowledged(self) -> bool:
        """Whether its sender waits until this process reports that it has begun or handled it."""
        return bool(self.client and self.header.flags & Flag.ACKNOWLEDGED)

    @property
    def size(self) -> int:
        """Its bytes, about."""
        return _OVERHEAD + len(self.body)
