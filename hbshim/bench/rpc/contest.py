"""Rates and times of CALL, CAST and NOTIFY, in alternating slices.

Each contestant has a client and a server in their own processes. All exist the whole time, and one
of them works. A slice is short, so that disturbances of the machine affect all.
"""

from __future__ import annotations

import contextlib
import statistics
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hbshim.bench.libraries import require
from hbshim.bench.rpc.parts import PREFIX, Work
from hbshim.bench.rpc.processes import Contestant
from hbshim.bench.rpc.tidy import tidy
from hbshim.bench.rpc.turns import Figures, ratio_of, take_turns

MODELS = ("native", "eventlet")

#: The libraries that are compared, and the extras that install them.
LIBRARIES = {"kombu": "kombu", "pika": "pika", "eventlet": "eventlet", "oslo_messaging": "oslo"}

WORKS = (
    Work("call", "call"),
    Work("call, 32 callers", "call", callers=32),
    Work("cast", "cast"),
    Work("notify", "notify"),
)

_BARE = 0.7


@dataclass(frozen=True)
class Entry:
    """A contestant, and what it is compared with.

    Attributes:
        against: the index, within its group, of that; None: it is the measure itself.
        aims: for each of :data:`WORKS`, the ratio to be reached.
    """

    kind: str
    scheme: str
    against: int | None = None
    aims: tuple[float | None, ...] = (None,) * len(WORKS)

    @property
    def name(self) -> str:
        return f"{self.kind}, {self.scheme}"


_PLUG_IN = (2.0, 2.5, 4.0, 2.0)
_OWN = (_BARE,) * len(WORKS)

#: Contestants that take turns.
GROUPS: tuple[tuple[Entry, ...], ...] = (
    (
        Entry("plug-in", "rabbit"),
        Entry("plug-in", "hbrabbit", 0),
        Entry("plug-in", "hbkombu", 0, _PLUG_IN),
        Entry("plug-in", "hbpika", 0, _PLUG_IN),
    ),
    (
        Entry("bare", "kombu"),
        Entry("own", "hbkombu", 0, _OWN),
        Entry("bare", "pika"),
        Entry("own", "hbpika", 2, _OWN),
    ),
)


def run(broker_url: str, *, quick: bool) -> list[dict[str, Any]]:
    """Measure every contestant; a row for each, in each concurrency model, at each work.

    Raises:
        MissingExtraError: a library that is compared is not installed.
        HbshimError: a contestant failed, or messages did not arrive.
    """
    require(LIBRARIES)
    return [
        row
        for model in MODELS
        for group in GROUPS
        for row in _compete(broker_url, group, model, quick=quick)
    ]


def _compete(
    url: str, group: tuple[Entry, ...], model: str, *, quick: bool
) -> Iterator[dict[str, Any]]:
    with _present(url, group, model) as contestants:
        for number, work in enumerate(WORKS):
            figures = take_turns(contestants, work, quick=quick)
            for entry, own in zip(group, figures, strict=True):
                against = None if entry.against is None else figures[entry.against]
                yield _row(entry, model, work.name, own, against, entry.aims[number])


@contextlib.contextmanager
def _present(url: str, group: tuple[Entry, ...], model: str) -> Iterator[list[Contestant]]:
    run_id = uuid.uuid4().hex[:8]
    topics = [f"{PREFIX}-{run_id}-{index}" for index in range(len(group))]
    with contextlib.ExitStack() as stack:
        stack.callback(tidy, url, topics)
        contestants = [
            stack.enter_context(Contestant(entry.kind, entry.scheme, topic, model, url))
            for entry, topic in zip(group, topics, strict=True)
        ]
        for contestant in contestants:
            contestant.await_ready()
        yield contestants


def _row(
    entry: Entry, model: str, name: str, own: Figures, against: Figures | None, aim: float | None
) -> dict[str, Any]:
    ratio = None if against is None else ratio_of(own.rates, against.rates)
    return {
        "model": model,
        "contestant": entry.name,
        "work": name,
        "operations": len(own.taken),
        "per_second": statistics.median(own.rates),
        "p50_ms": own.percentile(50),
        "p99_ms": own.percentile(99),
        "arrived_per_second": statistics.median(own.arrived),
        "client_us": own.microseconds(own.client_cpu),
        "server_us": own.microseconds(own.server_cpu),
        "ratio": ratio,
        "aim": aim,
        "reached": None if aim is None or ratio is None else ratio >= aim,
    }
