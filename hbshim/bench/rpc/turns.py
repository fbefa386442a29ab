"""Slices of work in which contestants take turns, and what they add up to.

A slice is short, so that disturbances of the machine affect all.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hbshim.bench.rpc.parts import Work
from hbshim.bench.rpc.processes import Contestant

#: Seconds of a slice, and how many each contestant has for each work.
SLICE, SLICES = 1.0, 10
QUICK_SLICE, QUICK_SLICES = 0.3, 4


@dataclass
class Figures:
    """What the slices of one contestant add up to.

    Attributes:
        taken: microseconds of each operation.
        rates: of the client in each slice, in operations per second.
        arrived: the same, until the server had received the last of them.
        client_cpu, server_cpu, between_cpu: seconds of CPU time, of all slices.
    """

    taken: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    arrived: list[float] = field(default_factory=list)
    client_cpu: float = 0.0
    server_cpu: float = 0.0
    between_cpu: float = 0.0

    def add(self, slice_: dict[str, Any]) -> None:
        """Add what :meth:`Contestant.measure` returned."""
        self.taken += slice_["taken"]
        self.rates.append(slice_["rate"])
        self.arrived.append(slice_["arrived"])
        self.client_cpu += slice_["client_cpu"]
        self.server_cpu += slice_["server_cpu"]
        self.between_cpu += slice_["between_cpu"]

    def percentile(self, percent: int) -> float:
        """Return the milliseconds of an operation."""
        # Of one value alone, as a busy machine leaves of the shortest slices, it is every one.
        taken = self.taken if len(self.taken) > 1 else self.taken * 2
        return statistics.quantiles(taken, n=100, method="inclusive")[percent - 1] / 1000

    def microseconds(self, cpu: float) -> float:
        """Return CPU time for one operation.

        Parameters:
            cpu: seconds, one of the attributes.
        """
        return 1e6 * cpu / len(self.taken)


def take_turns(contestants: Sequence[Contestant], work: Work, *, quick: bool) -> list[Figures]:
    """Measure each contestant in slices, in turns; return the figures of each."""
    seconds, count = (QUICK_SLICE, QUICK_SLICES) if quick else (SLICE, SLICES)
    figures = [Figures() for _ in contestants]
    for contestant in contestants:
        contestant.measure(work, seconds / 2)  # warms up
    for turn in range(count):
        for each in range(len(contestants)):
            # A contestant's result depends on the state in which the one before leaves the machine.
            index = (turn + each) % len(contestants)
            figures[index].add(contestants[index].measure(work, seconds))
    return figures


def ratio_of(own: Sequence[float], against: Sequence[float]) -> float:
    """Return the median of the ratios within each turn: in the next the machine may be busier."""
    return statistics.median(mine / theirs for mine, theirs in zip(own, against, strict=True))
