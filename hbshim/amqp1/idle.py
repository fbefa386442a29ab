"""When an empty frame is due, and when the peer is dead (AMQP 1.0, 2.4.5).

Each side advertises a time, in `Open`, within which it wants to receive something. It should be
half of the time after which it takes the peer for dead. So there are two times here, and none has
to do with the other:

* `timeout` is what the peer advertised: an empty frame is due after half of it without a byte sent.
* `silence` is twice what this side advertised: the peer is dead after it without a byte received.

Pure: time is an argument, in seconds.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

#: Milliseconds that stand for "never": longer than any connection lives.
NEVER = 0xFFFFFFFF

#: The shortest time that a peer may advertise, in seconds. Nothing here can be relied on to send in
#: less.
SHORTEST_TIMEOUT = 0.1

#: The shortest time that this side advertises, in seconds. RabbitMQ refuses a shorter one.
SHORTEST_OWN_TIMEOUT = 1.0


class IdleEvent(enum.Enum):
    """The result of one check."""

    SILENT = "silent"
    DUE = "due"
    FRESH = "fresh"


class IdleTimes(NamedTuple):
    """The times of a connection, in seconds.

    Attributes:
        timeout: an empty frame is due after half of this time without a byte sent; None: never.
        silence: the peer is dead after this time without a byte received; None: never.
    """

    timeout: float | None
    silence: float | None

    def classify(self, sent_ago: float, received_ago: float) -> IdleEvent:
        """Return what applies now, by the seconds since a byte was sent and received."""
        if self.silence is not None and received_ago >= self.silence:
            return IdleEvent.SILENT
        if self.timeout is not None and sent_ago >= self.timeout / 2:
            return IdleEvent.DUE
        return IdleEvent.FRESH

    def next_check(self, sent_ago: float, received_ago: float) -> float | None:
        """Return the seconds until something may apply; None: never."""
        pauses = []
        if self.timeout is not None:
            pauses.append(self.timeout / 2 - sent_ago)
        if self.silence is not None:
            pauses.append(self.silence - received_ago)
        return max(0.0, min(pauses)) if pauses else None


def idle_times(own_limit: int | None, peer_limit: int | None) -> IdleTimes:
    """Return the times of a connection, by what each side advertised in `Open`.

    If the peer advertised nothing, empty frames are sent for what lies between: firewalls and
    address translation forget a connection that is idle.

    Parameters:
        own_limit: milliseconds; None, 0 and :data:`NEVER` stand for no limit.
        peer_limit: the same, of the peer.
    """
    own, peer = _seconds(own_limit), _seconds(peer_limit)
    return IdleTimes(own if peer is None else peer, None if own is None else 2 * own)


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds in (None, 0, NEVER) else milliseconds / 1000
