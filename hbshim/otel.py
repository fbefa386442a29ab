"""OpenTelemetry metrics of this process's heartbeats; needs the extra ``otel``.

Only OpenTelemetry's API is used: which SDK collects, and where it sends what it
collects, is the application's business. Nothing is computed until it collects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from hbshim.errors import MissingExtraError
from hbshim.observe.measures import COUNTERS, GAUGES, LATENESS, Measure
from hbshim.observe.snapshot import status

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

PREFIX = "hbshim."
_SECONDS = "_seconds"


def register(provider: MeterProvider | None = None) -> Meter:
    """Export this process's heartbeat metrics. Call it once; a forked child inherits it.

    The API has no histogram that can be observed. How late looks came is a counter of
    looks, ``hbshim.lateness.looks``, cumulative over its attribute ``le``, in seconds.

    Parameters:
        provider: the application's; the global one unless given.

    Raises:
        MissingExtraError: on import of this module, when opentelemetry-api is missing.
    """
    meter = get_meter("hbshim", meter_provider=provider)
    for measure in COUNTERS:
        meter.create_observable_counter(
            PREFIX + measure.name, [_observer(measure)], description=measure.help
        )
    for measure in GAUGES:
        meter.create_observable_gauge(
            PREFIX + measure.name.removesuffix(_SECONDS),
            [_observer(measure)],
            unit="s" if measure.name.endswith(_SECONDS) else "",
            description=measure.help,
        )
    meter.create_observable_counter(
        f"{PREFIX}lateness.looks", [_observe_lateness], description=LATENESS.help
    )
    return meter


def _observer(measure: Measure[float]) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_options: CallbackOptions) -> Iterable[Observation]:
        for values, value in measure.read(status()):
            yield Observation(value, dict(zip(measure.labels, values, strict=True)))

    return observe


def _observe_lateness(_options: CallbackOptions) -> Iterable[Observation]:
    for values, buckets in LATENESS.read(status()):
        labels = dict(zip(LATENESS.labels, values, strict=True))
        for bound, count in buckets.counts:
            yield Observation(count, {**labels, "le": f"{bound:g}"})
