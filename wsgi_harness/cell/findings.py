"""What every cell reports: versions, errors, and what hbshim recorded."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
from collections.abc import Iterable


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of the installed ones among `packages`."""
    found = {}
    for name in packages:
        # mod_wsgi may be a module of Apache's alone, without its Python package.
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def described(error: BaseException) -> dict[str, str]:
    """Return an error as plain values."""
    return {"type": type(error).__name__, "message": str(error)[:200]}


def recorded_by_hbshim(worker: str | None) -> dict[str, object]:
    """Return what hbshim recorded in this process.

    Parameters:
        worker: the worker that the cell forces, or None.
    """
    from hbshim import detect
    from hbshim.heartbeat import service

    heartbeats = service.current()
    return {
        "detected": detect(worker=worker).as_dict(),  # type: ignore[arg-type]
        "counters": heartbeats.metrics.snapshot(),
        "events": [dataclasses.asdict(event) for event in heartbeats.metrics.take_events()],
        "engines": [
            {
                "worker": engine.worker.name,
                "wakeups": engine.wakeups,
                "latest": max(engine.lateness, default=0.0),
            }
            for engine in heartbeats.engines()
        ],
        "links": [
            {
                "name": link.name,
                "state": link.state.value,
                "route": link.wire.route,
                "heartbeats": link.heartbeats_sent,
            }
            for link in heartbeats.links()
        ],
    }
