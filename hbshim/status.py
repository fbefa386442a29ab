"""What the heartbeats of this process are doing, for operators."""

from __future__ import annotations

import time
from typing import Any

from hbshim.heartbeat.link import Link
from hbshim.heartbeat.service import current
from hbshim.metrics import Event


def status() -> dict[str, Any]:
    """A snapshot of this process's heartbeats, as plain values.

    Returns:
        ``links``: for each connection its name (as RabbitMQ's management shows it),
        state, T, beats so far, how beats reach the wire, and seconds since the
        *application* last wrote and read, which beats do not hide.
        ``engines``: for each worker its number of links, wake-ups and latest
        lateness in seconds.
        ``counters``: see docs/observing.md.
    """
    service, now = current(), time.monotonic()
    links = []
    for link in service.links():
        wrote, read = link.traffic_age(now)
        links.append(
            {
                "name": link.name,
                "state": link.state.value,
                "heartbeat_timeout": link.timeout,
                "beats": link.beats,
                "route": link.wire.route,
                "last_write_ago": wrote,
                "last_read_ago": read,
            }
        )
    engines = [
        {
            "worker": engine.worker.name,
            "links": sum(isinstance(item, Link) for item in engine.items()),
            "wakeups": engine.wakeups,
            "latest_lateness": engine.lateness[-1] if engine.lateness else 0.0,
        }
        for engine in service.engines()
    ]
    return {"links": links, "engines": engines, "counters": service.metrics.snapshot()}


def take_events() -> list[Event]:
    """Remove and return the events recorded so far, oldest first.

    The heartbeat thread does not log, because the lock of `logging` is green under
    eventlet; log these from a thread of your own. The latest 1000 are kept.
    """
    return current().metrics.take_events()
