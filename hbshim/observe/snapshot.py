"""What the heartbeats of this process are doing, for operators."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from hbshim.event_log import log_problems
from hbshim.heartbeat.engine import LATENESS_BOUNDS, Engine
from hbshim.heartbeat.link import Link
from hbshim.heartbeat.service import existing
from hbshim.heartbeat.wire import Wire
from hbshim.metrics import Event

#: Looks of a worker of which the worst lateness is told.
RECENT_LOOKS = 100


def status() -> dict[str, Any]:
    """Return a snapshot of this process's heartbeats, as plain values. Times are in seconds.

    Call it from a thread of the application: it also logs the warnings and errors among
    the events that were recorded since the last call and that nothing has taken.

    Returns:
        ``links``: for each connection its name (as RabbitMQ's management shows it) and
        peer, state, T, beats so far, the worker that sends them and how they reach the
        wire; seconds since the kernel last sent and received a byte (None where it
        does not tell, or no more), and since the *application* last wrote and read,
        which beats do not hide.
        ``engines``: for each worker its number of links, wake-ups, latest lateness and
        the worst of its latest 100 looks, where below 0 is early; and how many looks
        came how late: one count for each upper bound, and one for what is beyond.
        ``counters``: see docs/observing.md.
    """
    service = existing()
    if service is not None:
        log_problems(service.metrics)
    return snapshot()


def snapshot() -> dict[str, Any]:
    """Return what :func:`status` returns, from any thread: it logs nothing."""
    service, now = existing(), time.monotonic()
    if service is None:
        return {"links": [], "engines": [], "counters": {}}
    placements = service.placements()
    links_of = Counter(engine for _, engine in placements)
    return {
        "links": [_link(link, engine, now) for link, engine in placements],
        "engines": [_engine(engine, links_of[engine]) for engine in service.engines()],
        "counters": service.metrics.snapshot(),
    }


def _link(link: Link, engine: Engine, now: float) -> dict[str, Any]:
    wrote, read = link.traffic_age(now)
    sent, received = _wire_age(link.wire)
    return {
        "name": link.name,
        "peer": link.name.rpartition(" -> ")[2],
        "state": link.state.value,
        "heartbeat_timeout": link.timeout,
        "beats": link.beats,
        "worker": engine.worker.name,
        "route": link.wire.route,
        "sent_ago": sent,
        "received_ago": received,
        "last_write_ago": wrote,
        "last_read_ago": read,
    }


def _wire_age(wire: Wire) -> tuple[float | None, float | None]:
    if not wire.has_tcp_info or wire.closed:
        return None, None
    try:
        view = wire.kernel_view()
    except OSError:
        return None, None  # closed in this moment
    return view.sent_ago, view.received_ago


def _engine(engine: Engine, links: int) -> dict[str, Any]:
    lateness = _latest(engine)
    return {
        "worker": engine.worker.name,
        "links": links,
        "wakeups": engine.wakeups,
        "latest_lateness": lateness[-1] if lateness else 0.0,
        "worst_lateness": max(lateness, default=0.0),
        "lateness": {
            "bounds": list(LATENESS_BOUNDS),
            "counts": list(engine.looks_by_lateness),
            "total": engine.late_for,
        },
    }


def _latest(engine: Engine) -> list[float]:
    while True:
        try:
            return list(engine.lateness)[-RECENT_LOOKS:]
        except RuntimeError:
            continue  # a look was added while we copied


def take_events() -> list[Event]:
    """Remove and return the events recorded so far, oldest first.

    The heartbeat thread does not log, because the lock of `logging` is green under
    eventlet. Warnings and errors that stay here are logged when the program next
    connects or calls :func:`status`. The latest 1000 are kept.
    """
    service = existing()
    return [] if service is None else service.metrics.take_events()
