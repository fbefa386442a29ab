"""What a client sends to the proxy of a host over the pipelines of calls and casts."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from hbshim.messaging.zmq import frames
from hbshim.messaging.zmq.frames import Header


@dataclass(eq=False, slots=True)
class Outgoing:
    """A message.

    Attributes:
        left: seconds until it expires; infinity: never.
        since: when that was so, of ``time.monotonic()``.
    """

    header: Header
    body: bytes
    left: float
    since: float = field(default_factory=time.monotonic, kw_only=True)

    def frames(self, sequence: int = 0) -> list[bytes]:
        """Return its frames, with the time that it has left and a number; see `frames.pack`."""
        left = self.left - (time.monotonic() - self.since)
        left_now = frames.milliseconds(max(0.001, left))
        return frames.pack(self.header._replace(left=left_now, sequence=sequence), self.body)

    def expired(self) -> bool:
        """Return whether its time is over."""
        return time.monotonic() > self.since + self.left
