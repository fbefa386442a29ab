"""Compares pairs of contestants, each pair at one work."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from hbshim.bench.rpc.parts import Work
from hbshim.bench.rpc.processes import Contestant
from hbshim.bench.rpc.turns import Figures, ratio_of, take_turns


class Entry(Protocol):
    """What takes part."""

    @property
    def name(self) -> str:
        """The name of its rows."""


E = TypeVar("E", bound=Entry)


@dataclass(frozen=True)
class Comparison(Generic[E]):
    """Two contestants at one work.

    Attributes:
        must: the ratio of rates to be reached; None: it is for information.
    """

    work: Work
    of: E
    against: E
    must: float | None = None


def compared(comparisons: Sequence[Comparison[E]]) -> set[str]:
    """Return the names of those that are compared."""
    return {each.name for pair in comparisons for each in (pair.of, pair.against)}


def measure(
    contestants: Mapping[str, Contestant],
    comparisons: Sequence[Comparison[E]],
    works: Sequence[Work],
    *,
    quick: bool,
) -> Iterator[tuple[Work, dict[str, Figures]]]:
    """At each work, let the contestants take turns that are compared at it.

    Parameters:
        contestants: by name.
        comparisons: what is compared.
        works: in the order in which they are measured.
        quick: fewer and shorter slices.

    Returns:
        Each work, and the figures by the names of the contestants.
    """
    for work in works:
        names = compared([each for each in comparisons if each.work is work])
        turns = {name: each for name, each in contestants.items() if name in names}
        figures = take_turns(list(turns.values()), work, quick=quick)
        yield work, dict(zip(turns, figures, strict=True))


def row_of(pair: Comparison[E], own: Figures, against: Figures) -> dict[str, Any]:
    """Return what every table of comparisons shows of one."""
    # A call ends with its reply; what has none counts when it has arrived.
    replied = pair.work.operation == "call"
    mine, theirs = (own.rates, against.rates) if replied else (own.arrived, against.arrived)
    ratio = ratio_of(mine, theirs)
    return {
        "work": pair.work.name,
        "contestant": pair.of.name,
        "against": pair.against.name,
        "ratio": ratio,
        "must": None if pair.must is None else f"≥ {pair.must:g}",
        "reached": None if pair.must is None else ratio >= pair.must,
        "per_second": statistics.median(mine),
        "against_per_second": statistics.median(theirs),
        "client_us": own.microseconds(own.client_cpu),
    }
