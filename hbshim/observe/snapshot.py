"""The state of this process's heartbeats, for operators."""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from hbshim.event_log import log_problems
from hbshim.heartbeat.engine import LATENESS_BOUNDS, Engine
from hbshim.heartbeat.link import Link
from hbshim.heartbeat.service import existing
from hbshim.heartbeat.wire import AMQP_0_9_1, Wire
from hbshim.metrics import Event
from hbshim.observe.drivers import ZmqStatus, zmq_drivers
from hbshim.observe.loops import LoopStatus, loops

#: How many checks of a worker the maximum lateness covers.
RECENT_CHECKS = 100


@dataclass(frozen=True)
class LinkStatus:
    """One connection that is kept alive. Times are in seconds.

    Attributes:
        name: as RabbitMQ's management shows it.
        peer: the broker's address and port.
        state: see the states in docs/architecture.md.
        heartbeat_timeout: T: the peer wants to receive a byte within that time. In AMQP 0-9-1 both
            sides have negotiated it, in AMQP 1.0 the peer has advertised it.
        heartbeats_sent: number sent so far.
        worker: the worker that sends them.
        route: how they are sent, "plain" or "tls".
        sent_ago, received_ago: since the kernel sent and received a byte; None if it does not
            report that, or the connection is closed.
        last_write_ago, last_read_ago: since the application wrote and read; heartbeats do not
            count.
        protocol: "AMQP 0-9-1" or "AMQP 1.0".
        peer_timeout: this side wants to receive a byte within that time, and takes the peer for
            dead after twice as long: in AMQP 0-9-1 T, for aiormq 1.5 (T + 1), in AMQP 1.0 what this
            side has advertised. None if it wants nothing.
    """

    name: str
    peer: str
    state: str
    heartbeat_timeout: float
    heartbeats_sent: int
    worker: str
    route: str
    sent_ago: float | None
    received_ago: float | None
    last_write_ago: float
    last_read_ago: float
    # With defaults for `hbshim watch`: a process with an earlier version does not report them.
    protocol: str = AMQP_0_9_1.protocol
    peer_timeout: float | None = None


@dataclass(frozen=True)
class Lateness:
    """How many checks of a worker had which lateness.

    Attributes:
        bounds: upper bounds, in seconds.
        counts: checks up to each bound and above the one before, and those beyond the last.
        total: the sum of lateness, in seconds.
    """

    bounds: list[float]
    counts: list[int]
    total: float


@dataclass(frozen=True)
class EngineStatus:
    """One heartbeat worker with its connections. Times are in seconds; below 0 is early.

    Attributes:
        worker: its name.
        links: the number of its connections.
        latest_lateness: of its latest check.
        worst_lateness: of its latest 100 checks.
    """

    worker: str
    links: int
    wakeups: int
    latest_lateness: float
    worst_lateness: float
    lateness: Lateness


@dataclass(frozen=True)
class Status:
    """The heartbeats of this process at one moment.

    Attributes:
        links: every connection that is kept alive.
        engines: every worker that was started.
        counters: by name, see docs/observing.md.
        zmq: every driver over ZeroMQ that this process uses.
        loops: every event loop of asyncio that has connections in `links`.
    """

    links: list[LinkStatus]
    engines: list[EngineStatus]
    counters: dict[str, int]
    zmq: list[ZmqStatus]
    loops: list[LoopStatus]

    def __getitem__(self, name: str) -> Any:
        """Return a part of it by its name, as in :meth:`as_dict`."""
        return self.as_dict()[name]

    def as_dict(self) -> dict[str, Any]:
        """Return the same as plain values, for instance for JSON."""
        return asdict(self)


def status() -> Status:
    """Return a snapshot of this process's heartbeats.

    Call it from a thread of the application: it also logs the warnings and errors that were
    recorded since the last call and are still in the queue.
    """
    service = existing()
    if service is not None:
        log_problems(service.metrics)
    return snapshot()


def snapshot() -> Status:
    """Return what :func:`status` returns, from any thread: it logs nothing."""
    service, now = existing(), time.monotonic()
    if service is None:
        return Status([], [], {}, zmq_drivers(), [])
    placements = service.placements()
    links_of = Counter(engine for _, engine in placements)
    return Status(
        [_link(link, engine, now) for link, engine in placements],
        [_engine(engine, links_of[engine]) for engine in service.engines()],
        service.metrics.snapshot(),
        zmq_drivers(),
        loops(),
    )


def _link(link: Link, engine: Engine, now: float) -> LinkStatus:
    wrote, read = link.traffic_age(now)
    sent, received = _wire_age(link.wire)
    return LinkStatus(
        name=link.name,
        peer=link.name.rpartition(" -> ")[2],
        state=link.state.value,
        heartbeat_timeout=link.timeout,
        heartbeats_sent=link.heartbeats_sent,
        worker=engine.worker.name,
        route=link.wire.route,
        sent_ago=sent,
        received_ago=received,
        last_write_ago=wrote,
        last_read_ago=read,
        protocol=link.wire.heartbeat.protocol,
        peer_timeout=None if math.isinf(link.silence) else link.silence / 2,
    )


def _wire_age(wire: Wire) -> tuple[float | None, float | None]:
    if not wire.has_tcp_info or wire.closed:
        return None, None
    try:
        view = wire.kernel_view()
    except OSError:
        return None, None  # closed at this moment
    return view.sent_ago, view.received_ago


def _engine(engine: Engine, links: int) -> EngineStatus:
    lateness = _latest(engine)
    return EngineStatus(
        worker=engine.worker.name,
        links=links,
        wakeups=engine.wakeups,
        latest_lateness=lateness[-1] if lateness else 0.0,
        worst_lateness=max(lateness, default=0.0),
        lateness=Lateness(list(LATENESS_BOUNDS), list(engine.checks_by_lateness), engine.late_for),
    )


def _latest(engine: Engine) -> list[float]:
    while True:
        try:
            return list(engine.lateness)[-RECENT_CHECKS:]
        except RuntimeError:
            continue  # a check was added during the copy


def take_events() -> list[Event]:
    """Remove and return the events recorded so far, oldest first.

    The heartbeat thread does not log, because the lock of `logging` is green under eventlet.
    Warnings and errors that stay in the queue are logged when the program next connects or calls
    :func:`status`. The latest 1000 are kept.
    """
    service = existing()
    return [] if service is None else service.metrics.take_events()
