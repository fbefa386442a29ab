"""A run's faults, drawn from a seed: the same seed, the same faults in the same order."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tests.stress.chaos.faults import FAULTS, FaultKind, Scope

#: Seconds for each step of opening. No heartbeat is negotiated before a connection is
#: open, so hbshim cannot help there: these are the libraries' own time limits.
OPEN_LIMIT = 3

#: Shortest and longest time between the beginnings of two faults, in units of T.
_BETWEEN = (0.2, 1.0)
#: Nothing begins in the first T, while the last connections are opened.
_FIRST = 1.0
#: Time that stopping and starting a broker may take (seconds), and that the connections need
#: to come back (units of T) before the next fault hits the same target.
_BROKER_TAKES = 12.0
_REST = 2.0


@dataclass(frozen=True)
class Step:
    """One fault to come; `at` and `lasts` are in seconds, `at` since the beginning."""

    at: float
    kind: FaultKind
    target: str
    lasts: float


def draw(
    seed: int,
    seconds: float,
    heartbeat: float,
    zones: Sequence[str],
    processes: Sequence[str],
    kinds: Sequence[FaultKind] = tuple(FAULTS.values()),
) -> list[Step]:
    """Draw the faults of a run.

    No target has two faults at once: it would not be known which of them caused a death.
    A fault of the broker waits until no zone has one, for the same reason.

    Parameters:
        seed: any whole number.
        seconds: how long the run is to last; every fault ends within it.
        heartbeat: T in seconds.
        zones, processes: names of the targets.
        kinds: which faults to choose from.
    """
    chance = random.Random(seed)
    free = dict.fromkeys([*zones, *processes], _FIRST * heartbeat)
    steps: list[Step] = []
    at = _FIRST * heartbeat
    misses = 0
    while misses < len(FAULTS):
        kind = chance.choice(kinds)
        lasts = heartbeat * chance.uniform(*kind.lasts)
        target = {
            Scope.ZONE: chance.choice(zones),
            Scope.PROCESS: chance.choice(processes),
            Scope.BROKER: "",
        }[kind.scope]
        hit = zones if kind.scope is Scope.BROKER else [target]
        begin = max(at, *(free[each] for each in hit))
        end = begin + lasts + (_BROKER_TAKES if kind.scope is Scope.BROKER else 0.0)
        if end > seconds:
            misses += 1
            continue
        steps.append(Step(begin, kind, target, lasts))
        free |= dict.fromkeys(hit, end + _REST * heartbeat)
        at += heartbeat * chance.uniform(*_BETWEEN)
    return sorted(steps, key=lambda step: step.at)
