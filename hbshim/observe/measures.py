"""The metrics, defined once for every exporter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from operator import attrgetter
from typing import Generic, TypeAlias, TypeVar

from hbshim.heartbeat.state import WATCHED
from hbshim.heartbeat.wire import AMQP_0_9_1, AMQP_1_0
from hbshim.observe.drivers import ZmqStatus
from hbshim.observe.snapshot import Lateness, Status

Value = TypeVar("Value")

#: From :func:`hbshim.status` to values, each with those of its labels.
Read: TypeAlias = Callable[[Status], Iterable[tuple[tuple[str, ...], Value]]]

_EVENT = "event:"
#: States of a connection whose peer is not known to be gone.
_KEPT = tuple(state.value for state in WATCHED)
_PROTOCOLS = ((AMQP_0_9_1.protocol,), (AMQP_1_0.protocol,))


@dataclass(frozen=True)
class Measure(Generic[Value]):
    """One metric.

    Attributes:
        name: without the prefix; in Prometheus' form, but without ``_total``.
        labels: names of the labels for which :attr:`read` returns values.
    """

    name: str
    help: str
    read: Read[Value]
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Buckets:
    """Checks by their lateness.

    Attributes:
        counts: checks that were at most so many seconds late; ``inf`` is the last bound.
        total: the sum of lateness, in seconds.
    """

    counts: tuple[tuple[float, int], ...]
    total: float


def _counter(name: str) -> Read[float]:
    return lambda status: [((), status.counters.get(name, 0))]


def _events(status: Status) -> Iterable[tuple[tuple[str, ...], float]]:
    for name, count in status.counters.items():
        if name.startswith(_EVENT):
            yield (name.removeprefix(_EVENT),), count


def _deaths(status: Status) -> Iterable[tuple[tuple[str, ...], float]]:
    for cause in ("link-silent", "peer-closed"):
        yield (cause,), status.counters.get(_EVENT + cause, 0)


def _links(status: Status) -> Iterable[tuple[tuple[str, ...], float]]:
    # Zeros too, so that a gauge falls when the last link is closed.
    counts = Counter({(engine.worker, "alive"): 0 for engine in status.engines})
    counts.update((link.worker, link.state) for link in status.links)
    return counts.items()


def _links_by_protocol(status: Status) -> Iterable[tuple[tuple[str, ...], float]]:
    counts = Counter(dict.fromkeys(_PROTOCOLS, 0))
    counts.update((link.protocol,) for link in status.links)
    return counts.items()


def _silence(status: Status) -> Iterable[tuple[tuple[str, ...], float]]:
    worst = dict.fromkeys(_PROTOCOLS, 0.0)
    for link in status.links:
        if link.received_ago is not None and link.peer_timeout and link.state in _KEPT:
            share = link.received_ago / (2 * link.peer_timeout)
            worst[link.protocol,] = max(worst[link.protocol,], share)
    return worst.items()


def _latest_lateness(status: Status) -> Iterable[tuple[tuple[str, ...], float]]:
    # A second engine of the same worker may exist, for forced links.
    worst: dict[tuple[str, ...], float] = {}
    for engine in status.engines:
        key = (engine.worker,)
        worst[key] = max(worst.get(key, float("-inf")), engine.latest_lateness)
    return worst.items()


def _lateness(status: Status) -> Iterable[tuple[tuple[str, ...], Buckets]]:
    by_worker: dict[str, list[Lateness]] = {}
    for engine in status.engines:
        by_worker.setdefault(engine.worker, []).append(engine.lateness)
    for worker, found in by_worker.items():
        bounds = [*found[0].bounds, float("inf")]
        counts = accumulate(map(sum, zip(*(one.counts for one in found), strict=True)))
        total = sum(one.total for one in found)
        yield (worker,), Buckets(tuple(zip(bounds, counts, strict=True)), total)


def _oldest(direction: str) -> Read[float]:
    age = attrgetter(f"last_{direction}_ago")
    return lambda status: [((), max(map(age, status.links), default=0.0))]


def _of_drivers(values: Callable[[ZmqStatus], Mapping[str, float]]) -> Read[float]:
    """Return what reads figures of each driver over ZeroMQ; those of one name are added up.

    Parameters:
        values: figures of one driver, by the label beside its name; "" for none.
    """

    def read(status: Status) -> Iterable[tuple[tuple[str, ...], float]]:
        sums: dict[tuple[str, ...], float] = {}
        for driver in status.zmq:
            for label, value in values(driver).items():
                key = (driver.name, label) if label else (driver.name,)
                sums[key] = sums.get(key, 0) + value
        return sums.items()

    return read


def _figure(name: str) -> Read[float]:
    return _of_drivers(lambda driver: {"": getattr(driver, name)})


def _lost(driver: ZmqStatus) -> Mapping[str, float]:
    return {"dropped": driver.dropped, "expired": driver.expired, "gap": driver.gaps}


def _io_idle(status: Status) -> Iterable[tuple[tuple[str, ...], float]]:
    # One thread serves all drivers of a process.
    return [((), max(driver.io_idle for driver in status.zmq))] if status.zmq else []


def _loops(name: str) -> Read[float]:
    """Return what reads a figure of each event loop, the worst of one kind in one thread."""
    value = attrgetter(name)

    def read(status: Status) -> Iterable[tuple[tuple[str, ...], float]]:
        worst: dict[tuple[str, ...], float] = {}
        for loop in status.loops:
            key = (loop.kind, loop.thread)
            worst[key] = max(worst.get(key, 0.0), value(loop))
        return worst.items()

    return read


COUNTERS: tuple[Measure[float], ...] = (
    Measure("heartbeats_sent", "Heartbeats sent.", _counter("heartbeats_sent")),
    Measure(
        "heartbeats_drained",
        "Heartbeats of brokers taken off the receive queue for idle clients.",
        _counter("heartbeats_drained"),
    ),
    Measure("links_watched", "Connections attached.", _counter("links_watched")),
    Measure("deaths", "Connections lost, by cause.", _deaths, ("cause",)),
    Measure(
        "stale_writes_prevented",
        "Writes that failed at once instead of being lost on a dead connection.",
        _counter("stale_writes_prevented"),
    ),
    Measure(
        "worker_changes",
        "Times that connections were moved off a late worker.",
        _counter(f"{_EVENT}worker-moved"),
    ),
    Measure("events", "Events recorded, by kind.", _events, ("kind",)),
    Measure(
        "events_dropped",
        "Events that were dropped because they were not taken out in time.",
        _counter("events_dropped"),
    ),
    Measure(
        "zmq_messages_sent",
        "Messages over ZeroMQ that were handed to a connection.",
        _of_drivers(attrgetter("sent")),
        ("driver", "pattern"),
    ),
    Measure(
        "zmq_messages_received",
        "Messages over ZeroMQ that arrived at listeners of this process.",
        _of_drivers(attrgetter("received")),
        ("driver", "pattern"),
    ),
    Measure(
        "zmq_messages_lost",
        "Messages over ZeroMQ that this process dropped, got too late, or missed.",
        _of_drivers(_lost),
        ("driver", "reason"),
    ),
)

GAUGES: tuple[Measure[float], ...] = (
    Measure("links", "Connections that are kept alive.", _links, ("worker", "state")),
    Measure(
        "links_by_protocol",
        "Connections that are kept alive, by the version of AMQP.",
        _links_by_protocol,
        ("protocol",),
    ),
    Measure(
        "peer_silence_ratio",
        "Time since a byte arrived, as a share of the time after which the peer is taken for dead, "
        "on the connection where it is largest.",
        _silence,
        ("protocol",),
    ),
    Measure(
        "latest_lateness_seconds",
        "Lateness of the latest check; below 0 is early.",
        _latest_lateness,
        ("worker",),
    ),
    Measure(
        "loop_latest_lateness_seconds",
        "Lateness of the latest timer of an event loop of asyncio; it grows while it is blocked.",
        _loops("latest_lateness"),
        ("loop", "thread"),
    ),
    Measure(
        "loop_worst_lateness_seconds",
        "Maximum lateness of the latest 100 timers of an event loop of asyncio.",
        _loops("worst_lateness"),
        ("loop", "thread"),
    ),
    # A heartbeat must not hide a hung application: these are the ages of its own traffic.
    *(
        Measure(
            f"oldest_application_{direction}_seconds",
            f"Longest time since an application's last {direction} on a connection.",
            _oldest(direction),
        )
        for direction in ("write", "read")
    ),
    Measure(
        "zmq_hosts",
        "Hosts that are connected.",
        _of_drivers(attrgetter("hosts")),
        ("driver", "pattern"),
    ),
    *(
        Measure(f"zmq_{name}", help_, _figure(name), ("driver",))
        for name, help_ in (
            ("calls_waiting", "Calls over ZeroMQ that wait for their replies."),
            ("listeners", "Listeners of servers over ZeroMQ."),
            ("outbox_bytes", "Bytes of casts and replies that wait to be sent."),
            ("inbox_bytes", "Bytes of publications that wait to be handled."),
        )
    ),
    Measure(
        "zmq_io_idle_seconds",
        "Time since the thread ran that owns the ZeroMQ sockets; it runs each second.",
        _io_idle,
    ),
)

LATENESS: Measure[Buckets] = Measure(
    "lateness_seconds", "Lateness of the checks of connections.", _lateness, ("worker",)
)
