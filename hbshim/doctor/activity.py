"""What hbshim does and has done in this process, read without changing it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from hbshim.activation import RUN_VARIABLE
from hbshim.adapters.open_connections import Unkept, unkept_connections
from hbshim.event_log import level_of
from hbshim.heartbeat.service import HeartbeatService
from hbshim.metrics import Event
from hbshim.runtime.loaded import peek

_EVENT = "event:"


@dataclass(frozen=True)
class Recorded:
    """The events of one kind.

    Attributes:
        count: since the process started.
        level: of :mod:`logging`.
        detail: of the latest that is still in the queue; "" if all were removed.
    """

    kind: str
    count: int
    level: int
    detail: str


@dataclass(frozen=True)
class Activity:
    """What hbshim does in one process.

    Attributes:
        installed: :func:`hbshim.install` is in force.
        run: the process was started by ``hbshim run``.
        sitecustomize: the file that Python imported under that name; "" for none.
        loaded: client libraries that are loaded and that hbshim keeps alive, such as "amqp".
        links: connections that are kept alive now.
        unkept: open connections that are not kept alive.
        events: the recorded events, by kind.
    """

    installed: bool = False
    run: bool = False
    sitecustomize: str = ""
    loaded: tuple[str, ...] = ()
    links: int = 0
    unkept: tuple[Unkept, ...] = ()
    events: Mapping[str, Recorded] = field(default_factory=dict)

    @property
    def without_heartbeat(self) -> int:
        """How many connections of this process negotiated no heartbeat."""
        found = self.events.get("not-negotiated")
        return 0 if found is None else found.count


def activity_of(
    service: HeartbeatService | None, links: int, *, installed: bool, loaded: tuple[str, ...]
) -> Activity:
    """Return what `service`, the heartbeat service of this process, has done so far."""
    return Activity(
        installed=installed,
        run=bool(os.environ.get(RUN_VARIABLE)),
        sitecustomize=str(peek("sitecustomize", "__file__") or ""),
        loaded=loaded,
        links=links,
        unkept=tuple(unkept_connections()),
        events={} if service is None else _recorded(service),
    )


def _recorded(service: HeartbeatService) -> dict[str, Recorded]:
    latest = {event.kind: event for event in service.metrics.recorded()}
    found = {}
    for name, count in service.metrics.snapshot().items():
        if name.startswith(_EVENT):
            kind = name.removeprefix(_EVENT)
            event = latest.get(kind, Event(kind))
            found[kind] = Recorded(kind, count, level_of(event), event.detail)
    return found
