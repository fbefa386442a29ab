"""The fault list: what can break, what it hits, and what is promised then.

Times are in units of T, the heartbeat timeout. RabbitMQ gives a silent client up after
2 to 3 T; hbshim gives a silent peer up after 2 T.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

#: What hbshim may need beyond its rule to notice: two checks, on a machine that is busy.
SLACK = 1.0


class Scope(enum.Enum):
    """Whom a fault hits."""

    ZONE = "zone"  # every connection behind one relay
    BROKER = "broker"  # everybody
    PROCESS = "process"  # every connection of one application


class Effect(enum.Enum):
    """What a fault does to a connection, and so what must become of it."""

    #: Nothing arrives any more: dead, and known to be, 2 T later.
    SILENCE = "silence"
    #: What the client sends does not arrive, while the broker is still heard. Only the
    #: broker can know, and it closes the connection after at most 3 T.
    UNHEARD = "unheard"
    #: The connection is ended, and the client's kernel is notified.
    CUT = "cut"
    #: The process does not run. If that lasts for 3 T the broker closes, and the process
    #: must know before its next message is swallowed.
    STOPPED = "stopped"
    #: Nothing may die of it.
    HARMLESS = "harmless"


_PROMISES = {
    Effect.SILENCE: "dead, and known to be, within 2 T + 1 s",
    Effect.UNHEARD: "the broker closes; known within 3 T + 1 s",
    Effect.CUT: "ended; known within 2 T + 1 s",
    Effect.STOPPED: "known before the first write after it",
    Effect.HARMLESS: "stays alive",
}


@dataclass(frozen=True)
class FaultKind:
    """One line of the fault list.

    Attributes:
        lasts: shortest and longest duration, in units of T.
        holds_calls: calls may take as long as the fault lasts.
    """

    name: str
    scope: Scope
    effect: Effect
    lasts: tuple[float, float]
    what: str
    holds_calls: bool = False

    @property
    def kills(self) -> bool:
        """Whether connections may die of it."""
        return self.effect is not Effect.HARMLESS

    @property
    def promise(self) -> str:
        """What becomes of a connection, in one phrase."""
        return _PROMISES[self.effect]

    def bound(self, heartbeat: float) -> float:
        """Seconds after its beginning within which a connection's death must be known."""
        return (3 if self.effect is Effect.UNHEARD else 2) * heartbeat + SLACK


def _kinds() -> list[FaultKind]:
    zone, broker, process = Scope.ZONE, Scope.BROKER, Scope.PROCESS
    silence, cut, harmless = Effect.SILENCE, Effect.CUT, Effect.HARMLESS
    long, longer, short, moment = (3.0, 4.0), (4.0, 5.0), (0.3, 0.8), (0.0, 0.0)
    return [
        FaultKind("deaf", zone, silence, long, "nothing is forwarded; both kernels still answer"),
        FaultKind("swallow", zone, silence, long, "all is read and thrown away, ends included"),
        FaultKind("vanish", zone, silence, long, "no kernel answers: half-open"),
        FaultKind("deaf-to-client", zone, Effect.UNHEARD, longer, "only the broker is heard"),
        FaultKind("deaf-to-broker", zone, silence, long, "only the client is heard"),
        FaultKind("reset", zone, cut, moment, "every connection is reset"),
        FaultKind("outage", zone, cut, (0.5, 2.0), "reset, and new connections are refused"),
        FaultKind("hiccup", zone, harmless, short, "nothing is forwarded for less than T", True),
        FaultKind("slow", zone, harmless, (1.0, 3.0), "4 KiB a second in each direction", True),
        FaultKind("broker-paused", broker, silence, long, "the broker's processes are frozen"),
        FaultKind("broker-stopped", broker, cut, moment, "it closes all, and starts anew"),
        FaultKind("broker-killed", broker, cut, moment, "SIGKILL, and started again"),
        FaultKind("alarm", broker, harmless, longer, "memory alarm: publishers blocked", True),
        FaultKind("stopped", process, Effect.STOPPED, longer, "SIGSTOP, then SIGCONT", True),
        FaultKind("nap", process, harmless, short, "SIGSTOP for less than T, then SIGCONT", True),
        FaultKind("hub-blocked", process, harmless, (3.0, 4.0), "the main thread sleeps", True),
        FaultKind("computing", process, harmless, (2.0, 4.0), "the main thread computes", True),
        FaultKind("clock-ahead", process, harmless, moment, "the wall clock jumps one hour ahead"),
        FaultKind("clock-back", process, harmless, moment, "the wall clock jumps one hour back"),
    ]


FAULTS = {kind.name: kind for kind in _kinds()}


@dataclass(frozen=True)
class Fault:
    """A fault that happened. Times are ``time.monotonic()``, in seconds.

    Attributes:
        target: name of the zone or of the process; empty for the broker.
        began: when it was ordered; it took effect at `effective` at the latest.
        ended: when its end was ordered; over at `healed` at the latest.
    """

    kind: FaultKind
    target: str
    began: float
    effective: float
    ended: float
    healed: float
