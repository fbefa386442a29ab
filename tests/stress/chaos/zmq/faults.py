"""What can break where messages travel over hbzmq, and what it may cost.

Times are in units of T, the heartbeat interval.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

#: What is sent: calls, casts and so on, from so many threads each.
SENDS = {
    "call": 3,
    "cast": 1,
    "acked cast": 1,
    "fanout": 1,
    "notification": 1,
    "acked notification": 1,
}


class Target(enum.Enum):
    """What a fault hits."""

    HOST = "host"  # a proxy and its servers
    CLIENT = "client"
    DIRECTORY = "directory"


@dataclass(frozen=True)
class FaultKind:
    """One line of the fault list.

    Attributes:
        lasts: shortest and longest duration, in units of T.
        may_lose: messages that nothing acknowledges may be lost with it, uncounted.
        stops: the process that it hits does not run meanwhile.
        needs_network: it can be made between machines of their own only.
    """

    name: str
    target: Target
    lasts: tuple[float, float]
    what: str
    may_lose: bool = False
    stops: bool = False
    needs_network: bool = False


def _kinds() -> list[FaultKind]:
    host, client, directory = Target.HOST, Target.CLIENT, Target.DIRECTORY
    moment, short, long = (0.0, 0.0), (0.3, 1.0), (1.5, 3.0)
    return [
        FaultKind("proxy-killed", host, short, "SIGKILL, and started again", True),
        FaultKind("proxy-stopped", host, short, "SIGTERM, and started again", True),
        FaultKind("proxy-paused", host, long, "SIGSTOP of all its processes", True),
        FaultKind("requests-killed", host, moment, "SIGKILL of one process of it", True),
        FaultKind("fanout-killed", host, moment, "SIGKILL of one process of it", True),
        FaultKind("notify-killed", host, moment, "SIGKILL of one process of it", True),
        FaultKind("server-killed", host, short, "SIGKILL, and another one starts", True),
        FaultKind("server-stopped", host, short, "a graceful stop, and another one starts", True),
        FaultKind("server-paused", host, long, "SIGSTOP, then SIGCONT", True),
        FaultKind("deaf", host, long, "no packet passes, either way", True, False, True),
        FaultKind("half-deaf", host, long, "its packets do not arrive", True, False, True),
        FaultKind("resets", host, short, "a fifth of the packets resets", True, False, True),
        FaultKind("client-paused", client, long, "SIGSTOP, then SIGCONT", True, True),
        FaultKind("client-blocked", client, (2.0, 4.0), "its main thread sleeps", False, True),
        FaultKind("client-forks", client, short, "a child uses the driver that it inherited"),
        FaultKind("directory-killed", directory, short, "SIGKILL, and started empty"),
        FaultKind("directory-paused", directory, long, "SIGSTOP, then SIGCONT"),
        FaultKind("directory-empty", directory, moment, "all its keys are deleted"),
    ]


FAULTS = {kind.name: kind for kind in _kinds()}


@dataclass(frozen=True)
class Fault:
    """A fault that happened, between two times of ``time.monotonic()``.

    Attributes:
        target: name of the host or client; empty for the directory.
    """

    kind: FaultKind
    target: str
    began: float
    healed: float
