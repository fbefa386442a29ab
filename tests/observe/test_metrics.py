"""Prometheus and OpenTelemetry export the same figures, of real links on real sockets."""

from __future__ import annotations

import math
import re
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry

import hbshim.otel
import hbshim.prometheus
from hbshim.adapters.sockets import native_socket
from hbshim.errors import MissingExtraError
from hbshim.heartbeat.link import Link
from hbshim.heartbeat.service import current
from hbshim.heartbeat.wire import AMQP_0_9_1, AMQP_1_0, HeartbeatFormat, Wire
from hbshim.observe import snapshot
from hbshim.observe.measures import COUNTERS, GAUGES, LATENESS
from hbshim.observe.snapshot import Status
from hbshim.options import WorkerName
from tests.observe.conftest import CHECKOUT
from tests.waiting import wait_until


class Peer:
    """A link under watch, and the socket at its other end."""

    def __init__(
        self,
        timeout: float,
        worker: WorkerName = "pthread",
        *,
        silence: float | None = None,
        heartbeat: HeartbeatFormat = AMQP_0_9_1,
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.client = socket.create_connection(server.getsockname())
            self.peer, _ = server.accept()
        wire = Wire(native_socket(self.client), heartbeat=heartbeat)
        self.link = Link(wire, timeout, wire.name(), current().metrics, silence=silence)
        current().watch(self.link, worker)

    def close(self) -> None:
        self.link.close()
        self.client.close()
        self.peer.close()


@pytest.fixture
def connect() -> Iterator[Callable[..., Peer]]:
    opened = []

    def open_one(timeout: float, **options: Any) -> Peer:
        opened.append(Peer(timeout, **options))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


@pytest.fixture
def scrape() -> Callable[..., float]:
    registry = CollectorRegistry()
    hbshim.prometheus.register(registry)

    def value(name: str, **labels: str) -> float:
        return registry.get_sample_value(f"hbshim_{name}", labels) or 0.0

    return value


@pytest.fixture
def collect() -> Iterator[Callable[..., int]]:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    hbshim.otel.register(provider)

    def value(name: str, **labels: str) -> Any:
        (resource,) = reader.get_metrics_data().resource_metrics
        found = [
            point.value
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == f"hbshim.{name}"
            for point in metric.data.data_points
            if dict(point.attributes or {}) == labels
        ]
        return found[0] if found else 0.0

    yield value
    provider.shutdown()


def test_links_and_heartbeats(
    connect: Callable[..., Peer], scrape: Callable[..., float], collect: Callable[..., int]
) -> None:
    heartbeats = scrape("heartbeats_sent_total")
    links = scrape("links", worker="pthread", state="alive")
    one, _ = connect(0.5), connect(60)
    assert scrape("links", worker="pthread", state="alive") == links + 2
    assert collect("links", worker="pthread", state="alive") == links + 2
    wait_until(lambda: one.link.heartbeats_sent >= 1)
    assert scrape("heartbeats_sent_total") > heartbeats
    assert collect("heartbeats_sent") > heartbeats


def test_links_by_protocol_and_the_silence_of_their_peers(
    connect: Callable[..., Peer], scrape: Callable[..., float], collect: Callable[..., int]
) -> None:
    protocol = AMQP_1_0.protocol
    links = scrape("links_by_protocol", protocol=protocol)
    # One that wants nothing of its peer, and one that wants a byte within ten seconds.
    connect(600, silence=math.inf, heartbeat=AMQP_1_0)
    quiet = connect(600, silence=20, heartbeat=AMQP_1_0)
    assert scrape("links_by_protocol", protocol=protocol) == links + 2
    assert collect("links_by_protocol", protocol=protocol) == links + 2
    wait_until(lambda: quiet.link.wire.kernel_view().received_ago > 0.5)
    assert scrape("peer_silence_ratio", protocol=protocol) >= 0.5 / 20


def test_lateness_is_a_histogram_of_every_look(
    connect: Callable[..., Peer], scrape: Callable[..., float], collect: Callable[..., int]
) -> None:
    before = scrape("lateness_seconds_count", worker="pthread")
    link = connect(0.5).link
    wait_until(lambda: link.heartbeats_sent >= 1)
    looks = scrape("lateness_seconds_count", worker="pthread")
    assert looks > before
    assert scrape("lateness_seconds_bucket", worker="pthread", le="+Inf") >= looks
    assert scrape("lateness_seconds_bucket", worker="pthread", le="0.0") <= looks
    assert scrape("lateness_seconds_sum", worker="pthread") >= 0
    assert collect("lateness.checks", worker="pthread", le="inf") >= looks


def test_a_late_look_is_in_the_bucket_of_its_lateness() -> None:
    from hbshim.heartbeat.engine import LATENESS_BOUNDS, Engine
    from hbshim.metrics import Metrics

    now = [1000.0]
    worker = type("W", (), {"name": "greenthread", "running": True, "wake": lambda _: None})()
    engine = Engine(worker, Metrics(), lambda: now[0])
    item = type("Item", (), {"timeout": 8.0, "turn": lambda _, now: now + 4})()
    engine.watch(item)
    engine.run_once()
    now[0] += 4.75
    engine.run_once()
    assert engine.checks_by_lateness[LATENESS_BOUNDS.index(0.0)] == 1
    assert engine.checks_by_lateness[LATENESS_BOUNDS.index(1.0)] == 1
    assert sum(engine.checks_by_lateness) == 2
    assert engine.late_for == pytest.approx(0.75)


@pytest.mark.parametrize("cause", ["link-silent", "peer-closed"])
def test_deaths_by_cause(
    connect: Callable[..., Peer],
    scrape: Callable[..., float],
    collect: Callable[..., int],
    cause: str,
) -> None:
    before = scrape("deaths_total", cause=cause)
    one = connect(0.5)
    if cause == "peer-closed":
        one.peer.close()
    wait_until(lambda: scrape("deaths_total", cause=cause) == before + 1)
    assert one.link.state.value == "lost"
    assert collect("deaths", cause=cause) == before + 1
    assert scrape("events_total", kind=cause) >= before + 1


def test_a_write_that_meets_a_dead_peer_is_counted(
    connect: Callable[..., Peer], scrape: Callable[..., float], collect: Callable[..., int]
) -> None:
    before = scrape("stale_writes_prevented_total")
    one = connect(60)
    one.link.before_idle_write()
    assert scrape("stale_writes_prevented_total") == before
    one.peer.close()
    wait_until(lambda: one.link.wire.kernel_view().peer_closed)
    one.link.before_idle_write()
    with pytest.raises(OSError):
        one.client.sendall(b"publish")
    assert scrape("stale_writes_prevented_total") == before + 1
    assert collect("stale_writes_prevented") == before + 1


def test_what_never_happened_is_exported_as_zero(
    scrape: Callable[..., float], collect: Callable[..., int]
) -> None:
    """A rate over a counter that appears with its first event misses that event."""
    registry = CollectorRegistry()
    hbshim.prometheus.register(registry)
    names = {sample.name for family in registry.collect() for sample in family.samples}
    assert {
        "hbshim_heartbeats_sent_total",
        "hbshim_deaths_total",
        "hbshim_stale_writes_prevented_total",
        "hbshim_worker_changes_total",
        "hbshim_oldest_application_write_seconds",
    } <= names
    assert collect("worker_changes") == scrape("worker_changes_total")


@pytest.fixture
def snapshots(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A list that grows with each snapshot that an exporter, or the watch socket, takes."""
    from hbshim.observe import listening

    taken = []

    def counted() -> Status:
        taken.append(snapshot.snapshot())
        return taken[-1]

    for consumer in (hbshim.otel, hbshim.prometheus, listening):
        monkeypatch.setattr(consumer, "snapshot", counted)
    return taken


def test_each_collection_takes_one_snapshot(
    connect: Callable[..., Peer], snapshots: list[Any]
) -> None:
    from hbshim.observe import listening

    connect(60)
    readers = [InMemoryMetricReader(), InMemoryMetricReader()]
    provider = MeterProvider(readers, shutdown_on_exit=False)
    hbshim.otel.register(provider)
    registry = CollectorRegistry()
    hbshim.prometheus.register(registry)
    snapshots.clear()
    for reader in (*readers, readers[0], readers[0]):
        reader.get_metrics_data()
    assert len(snapshots) == 4
    list(registry.collect())
    assert len(snapshots) == 5
    listening.answer()
    assert len(snapshots) == 6
    provider.shutdown()


def test_a_snapshot_is_not_shared_with_a_later_collection(
    connect: Callable[..., Peer], snapshots: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = hbshim.otel._SharedSnapshot()
    first = shared.read("one")
    assert shared.read("two") is first
    assert shared.read("one") is not first
    # The collection above ended before it had asked for the third: another begins with it.
    monkeypatch.setattr(hbshim.otel, "SHARED_FOR", -1.0)
    count = len(snapshots)
    shared.read("three")
    assert len(snapshots) == count + 1


@pytest.mark.parametrize(
    ("library", "module", "extra"),
    [
        ("prometheus_client", "hbshim.prometheus", "prometheus"),
        ("opentelemetry.metrics", "hbshim.otel", "otel"),
    ],
)
def test_a_missing_library_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, library: str, module: str, extra: str
) -> None:
    import importlib

    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, module)
    with pytest.raises(MissingExtraError, match=rf"pip install 'hbshim\[{extra}\]'"):
        importlib.import_module(module)


def test_the_documented_metrics_are_those_that_are_exported() -> None:
    page = (CHECKOUT / "docs" / "observing.md").read_text(encoding="utf-8")
    rows = page.split("| Prometheus | ")[1].split("\n\n")[0].splitlines()[2:]
    documented = {re.match(r"\| `hbshim_(\w+)", row).group(1) for row in rows}
    exported = {f"{each.name}_total" for each in COUNTERS} | {each.name for each in GAUGES}
    # One row for both ages.
    assert documented == exported - {"oldest_application_read_seconds"} | {LATENESS.name}
    for row, measure in ((row, each) for row in rows for each in (*COUNTERS, *GAUGES)):
        if f"`hbshim.{measure.name.removesuffix('_seconds')}`" in row and measure.labels:
            assert f"{{{','.join(measure.labels)}}}" in row
