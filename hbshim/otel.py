"""OpenTelemetry metrics of this process's heartbeats; needs the extra ``otel``.

Only OpenTelemetry's API is used: the application chooses the SDK and its destination. Nothing is
computed until a collection.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from hbshim.errors import MissingExtraError
from hbshim.observe.measures import COUNTERS, GAUGES, LATENESS, Measure
from hbshim.observe.snapshot import Status, snapshot

try:
    from opentelemetry.metrics import (
        CallbackOptions,
        Meter,
        MeterProvider,
        Observation,
        get_meter,
    )
except ImportError:
    raise MissingExtraError("opentelemetry-api", "otel") from None

__all__ = [
    "register",
]

PREFIX = "hbshim."
_SECONDS = "_seconds"

#: Seconds after which a snapshot is no longer shared. A collection that ended early, with an error
#: of another callback, leaves one behind.
SHARED_FOR = 5.0


def register(provider: MeterProvider | None = None) -> Meter:
    """Export this process's heartbeat metrics. Call it once; a forked child inherits it.

    The API has no histogram that can be observed. Lateness is a counter of checks,
    ``hbshim.lateness.checks``, cumulative over its attribute ``le``, in seconds.

    Parameters:
        provider: the application's; the global one unless given.

    Raises:
        MissingExtraError: on import of this module, when opentelemetry-api is missing.
    """
    meter = get_meter("hbshim", meter_provider=provider)
    shared = _SharedSnapshot()
    for measure in COUNTERS:
        meter.create_observable_counter(
            PREFIX + measure.name, [_observer(measure, shared)], description=measure.help
        )
    for measure in GAUGES:
        meter.create_observable_gauge(
            PREFIX + measure.name.removesuffix(_SECONDS),
            [_observer(measure, shared)],
            unit="s" if measure.name.endswith(_SECONDS) else "",
            description=measure.help,
        )
    meter.create_observable_counter(
        f"{PREFIX}lateness.checks", [_lateness_observer(shared)], description=LATENESS.help
    )
    return meter


class _Round(NamedTuple):
    """One collection: its snapshot, and the callbacks that have read it."""

    snapshot: Status
    readers: set[str]
    taken_at: float
    pid: int


class _SharedSnapshot:
    """Gives the callbacks of one collection the same snapshot.

    OpenTelemetry calls each instrument's callback separately, without naming the collection. A
    callback that reads a second time starts a new one. Safe from several threads: the worst result
    is one more snapshot.
    """

    def __init__(self) -> None:
        self._round: _Round | None = None

    def read(self, reader: str) -> Status:
        """Return the snapshot, taken once for each collection.

        Parameters:
            reader: name of the instrument whose callback reads.
        """
        current, now = self._round, time.monotonic()
        if (
            current is None
            or reader in current.readers
            or now - current.taken_at > SHARED_FOR
            or current.pid != os.getpid()
        ):
            current = self._round = _Round(snapshot(), set(), now, os.getpid())
        current.readers.add(reader)
        return current.snapshot


def _observer(
    measure: Measure[float], shared: _SharedSnapshot
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_options: CallbackOptions) -> Iterable[Observation]:
        for values, value in measure.read(shared.read(measure.name)):
            yield Observation(value, dict(zip(measure.labels, values, strict=True)))

    return observe


def _lateness_observer(
    shared: _SharedSnapshot,
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_options: CallbackOptions) -> Iterable[Observation]:
        for values, buckets in LATENESS.read(shared.read(LATENESS.name)):
            labels = dict(zip(LATENESS.labels, values, strict=True))
            for bound, count in buckets.counts:
                yield Observation(count, {**labels, "le": f"{bound:g}"})

    return observe
