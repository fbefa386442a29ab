"""Prometheus metrics of this process's heartbeats; needs the extra ``prometheus``.

Nothing is collected until Prometheus scrapes, and no thread is started.
"""

from __future__ import annotations

from collections.abc import Iterator

from hbshim.errors import MissingExtraError
from hbshim.observe.snapshot import status

try:
    from prometheus_client import REGISTRY, CollectorRegistry
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector
except ImportError:
    raise MissingExtraError("prometheus_client", "prometheus") from None

_EVENT = "event:"


class HeartbeatCollector(Collector):
    """Answers a scrape from :func:`hbshim.status`."""

    def collect(self) -> Iterator[Metric]:
        """One family for each counter, the events by kind, and the state of the links."""
        now = status()
        events = CounterMetricFamily("hbshim_events", "Events recorded.", labels=["kind"])
        for name, value in now["counters"].items():
            if name.startswith(_EVENT):
                events.add_metric([name.removeprefix(_EVENT)], value)
            else:
                yield CounterMetricFamily(f"hbshim_{name}", f"{name} so far.", value=value)
        yield events
        links = GaugeMetricFamily(
            "hbshim_links", "Connections being kept alive.", labels=["worker"]
        )
        late = GaugeMetricFamily(
            "hbshim_lateness_seconds", "Latest lateness of a look.", labels=["worker"]
        )
        for engine in now["engines"]:
            links.add_metric([engine["worker"]], engine["links"])
            late.add_metric([engine["worker"]], engine["latest_lateness"])
        yield links
        yield late
        for direction in ("write", "read"):
            key = f"last_{direction}_ago"
            oldest = max((link[key] for link in now["links"]), default=0.0)
            # A heartbeat must not hide a hung application: this is its own traffic's age.
            yield GaugeMetricFamily(
                f"hbshim_oldest_application_{direction}_seconds",
                f"Longest time since an application's last {direction} on a connection.",
                value=oldest,
            )


def register(registry: CollectorRegistry = REGISTRY) -> HeartbeatCollector:
    """Export this process's heartbeat metrics.

    Parameters:
        registry: a ``prometheus_client.CollectorRegistry``; the default one unless given.

    Raises:
        MissingExtraError: on import of this module, when prometheus_client is missing.
    """
    collector = HeartbeatCollector()
    registry.register(collector)
    return collector
