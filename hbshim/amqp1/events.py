"""The events of a connection; each is defined beside what it is about."""

from __future__ import annotations

import enum
from typing import NamedTuple, TypeAlias

from hbshim.amqp1.idle import IdleTimes
from hbshim.amqp1.link import Attached, AttachRequested, Detached
from hbshim.amqp1.performatives import Error, Open
from hbshim.amqp1.receiver import CreditUsed, Drained, Received
from hbshim.amqp1.sasl import LoginRefused
from hbshim.amqp1.sender import CreditChanged
from hbshim.amqp1.session import Begun, Ended
from hbshim.amqp1.unsettled import Updated

__all__ = [
    "AttachRequested",
    "Attached",
    "Begun",
    "Closed",
    "CreditChanged",
    "CreditUsed",
    "Detached",
    "Drained",
    "Ended",
    "Event",
    "LoginRefused",
    "Opened",
    "Origin",
    "Received",
    "Updated",
]


class Origin(enum.Enum):
    """Which side ended a connection."""

    PEER = "peer"
    LOCAL = "local"
    LOST = "lost"  # the stream ended without Close


class Opened(NamedTuple):
    """Event: the connection is open.

    Attributes:
        remote: what the peer sent; its `properties` have its product and version.
        idle: the times of both sides.
    """

    remote: Open
    idle: IdleTimes


class Closed(NamedTuple):
    """Event: the connection is over. Nothing follows it.

    Attributes:
        error: why; None if a side did not want it any more, or the stream ended.
    """

    error: Error | None
    origin: Origin


Event: TypeAlias = (
    Opened
    | Closed
    | LoginRefused
    | Begun
    | Ended
    | AttachRequested
    | Attached
    | Detached
    | CreditChanged
    | CreditUsed
    | Drained
    | Received
    | Updated
)
