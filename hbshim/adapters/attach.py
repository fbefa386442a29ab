"""What every adapter does to put a connection under watch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import TypeAlias

from hbshim.event_log import log_problems
from hbshim.heartbeat import service
from hbshim.heartbeat.link import Link
from hbshim.options import Options
from hbshim.runtime.detect import detect

#: Answers the options of a connection being opened, given those in its URL; None
#: while hbshim is not installed.
OptionsFor: TypeAlias = Callable[[Mapping[str, object]], Options | None]


class HeartbeatWarning(UserWarning):
    """The worker that the user chose is known to fail in this process."""


def watch(link: Link, options: Options) -> None:
    """Choose the worker for `link` and start its heartbeats.

    Raises:
        WorkerError: the worker cannot run in this process.
    """
    heartbeats = service.current()
    forced = options.forced_worker is not None or options.heartbeat_in_pthread is False
    # The user's choice wins; hbshim's own gives way to what was measured here.
    in_pthread = True if heartbeats.moved and not forced else options.heartbeat_in_pthread
    choice = detect(in_pthread, options.forced_worker, heartbeats.ticks_late()).choice
    if choice.warning:
        heartbeats.metrics.record("choice-warning", link.name, choice.warning)
        warnings.warn(choice.warning, HeartbeatWarning, stacklevel=2)
    link.liveness_timeout = options.liveness_timeout
    heartbeats.watch(link, choice.worker, forced=forced)
    heartbeats.metrics.count("links_watched")
    log_problems(heartbeats.metrics)


def not_negotiated(name: str) -> None:
    """Record that a connection has no heartbeat to keep: neither side asked for one."""
    metrics = service.current().metrics
    metrics.record(
        "not-negotiated",
        name,
        "the connection negotiated no heartbeat, so none is sent; ask for one with heartbeat=60, "
        "or with the option heartbeat (HBSHIM_HEARTBEAT=60) for py-amqp and kombu",
    )
    log_problems(metrics)
