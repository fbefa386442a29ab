"""Prometheus metrics of this process's heartbeats; needs the extra ``prometheus``.

Nothing is collected until Prometheus scrapes, and no thread is started.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from hbshim.errors import MissingExtraError
from hbshim.observe.measures import COUNTERS, GAUGES, LATENESS
from hbshim.observe.snapshot import snapshot

try:
    from prometheus_client import REGISTRY, CollectorRegistry
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        Metric,
    )
    from prometheus_client.registry import Collector
except ImportError:
    raise MissingExtraError("prometheus_client", "prometheus") from None

__all__ = [
    "HeartbeatCollector",
    "register",
]

PREFIX = "hbshim_"


class HeartbeatCollector(Collector):
    """Collects one snapshot per scrape."""

    def collect(self) -> Iterator[Metric]:
        """Yield one family for each of :mod:`hbshim.observe.measures`."""
        now = snapshot()
        for kind, measures in ((CounterMetricFamily, COUNTERS), (GaugeMetricFamily, GAUGES)):
            for measure in measures:
                family = kind(PREFIX + measure.name, measure.help, labels=measure.labels)
                for labels, value in measure.read(now):
                    family.add_metric(labels, value)
                yield family
        lateness = HistogramMetricFamily(
            PREFIX + LATENESS.name, LATENESS.help, labels=LATENESS.labels
        )
        for labels, buckets in LATENESS.read(now):
            bounds = [("+Inf" if le == math.inf else str(le), n) for le, n in buckets.counts]
            lateness.add_metric(labels, bounds, buckets.total)
        yield lateness


def register(registry: CollectorRegistry = REGISTRY) -> HeartbeatCollector:
    """Export this process's heartbeat metrics.

    Parameters:
        registry: a ``prometheus_client.CollectorRegistry``; by default the global one.

    Raises:
        MissingExtraError: on import of this module, when prometheus_client is missing.
    """
    collector = HeartbeatCollector()
    registry.register(collector)
    return collector
