"""The faults of a run, drawn from a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tests.stress.chaos.zmq.faults import FAULTS, FaultKind, Target

#: Shortest and longest time between the beginnings of two faults, and the time in which a target
#: is left alone after one, in units of T.
_BETWEEN, _REST = (0.2, 1.0), 1.0

#: Seconds that a host needs to start again.
_RESTART = 3.0


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
    hosts: Sequence[str],
    clients: Sequence[str],
    kinds: Sequence[FaultKind] = tuple(FAULTS.values()),
) -> list[Step]:
    """Draw the faults of a run; no target has two at once.

    Parameters:
        seconds: within which every fault ends.
        kinds: which faults to choose from.
    """
    chance = random.Random(seed)
    names = {Target.HOST: hosts, Target.CLIENT: clients, Target.DIRECTORY: [""]}
    free = dict.fromkeys([*hosts, *clients, ""], 0.0)
    steps: list[Step] = []
    at, misses = 0.0, 0
    while misses < 2 * len(FAULTS):
        kind = chance.choice(kinds)
        target = chance.choice(names[kind.target])
        lasts = heartbeat * chance.uniform(*kind.lasts)
        begin = max(at, free[target])
        if begin + lasts > seconds:
            misses += 1
            continue
        steps.append(Step(begin, kind, target, lasts))
        restart = _RESTART if kind.target is Target.HOST else 0.0
        free[target] = begin + lasts + restart + _REST * heartbeat
        at += heartbeat * chance.uniform(*_BETWEEN)
    return sorted(steps, key=lambda step: step.at)
