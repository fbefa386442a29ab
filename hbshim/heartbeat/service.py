"""The heartbeats of this process: its engines, and which link is with which.

Started lazily, by the first link; afresh in a forked child.
"""

from __future__ import annotations

import weakref

from hbshim.heartbeat.engine import Engine
from hbshim.heartbeat.link import Link
from hbshim.heartbeat.watchdog import LATE_SHARE, Watchdog
from hbshim.heartbeat.workers import WORKERS
from hbshim.metrics import Metrics
from hbshim.options import WorkerName
from hbshim.runtime.fork import ProcessLocal

#: A hub whose ticks are later than this share of T gets no new links; at twice
#: this share, the watchdog moves those it has.
NOTABLY_LATE = LATE_SHARE / 2
LATEST_TICKS = 16


class HeartbeatService:
    """Watches links, each from the worker that was chosen for it.

    Attributes:
        metrics: counters and events of all links of this process.
        moved: links were moved off a late hub; later ones go to pthread at once.
    """

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.moved = False
        self._engines: dict[tuple[WorkerName, bool], Engine] = {}
        self._watchdogs: dict[Engine, Watchdog] = {}
        self._links: dict[int, tuple[weakref.ref[Link], Engine]] = {}

    def engine(self, worker: WorkerName, forced: bool = False) -> Engine:
        """The engine of `worker`; links whose worker the user forced have one of their own,
        because they are not moved when its ticks come late."""
        key = (worker, forced and worker != "pthread")
        engine = self._engines.get(key)
        if engine is None:
            # setdefault: two threads that meet here agree on one engine.
            engine = self._engines.setdefault(key, Engine(WORKERS[worker](), self.metrics))
        return engine

    def engines(self) -> list[Engine]:
        """Every engine started so far; for reports."""
        return list(self._engines.values())

    def links(self) -> list[Link]:
        """Every link alive; for reports."""
        return [link for link, _ in self.placements()]

    def placements(self) -> list[tuple[Link, Engine]]:
        """Every link alive, with the engine that beats for it; for reports."""
        found = ((reference(), engine) for reference, engine in list(self._links.values()))
        return [(link, engine) for link, engine in found if link is not None]

    def ticks_late(self) -> bool:
        """Whether a hub's latest ticks came late, by more than :data:`NOTABLY_LATE` of T."""
        for (worker, _), engine in list(self._engines.items()):
            if worker == "pthread" or not engine.lateness:
                continue
            timeout = min((item.timeout for item in engine.items()), default=None)
            latest = list(engine.lateness)[-LATEST_TICKS:]
            if timeout is not None and max(latest) > timeout * NOTABLY_LATE:
                return True
        return False

    def watch(self, link: Link, worker: WorkerName, *, forced: bool = False) -> None:
        """Keep `link` alive from `worker`; from any thread.

        Parameters:
            forced: the user named the worker: late ticks are recorded, but the
                link stays where the user put it.

        Raises:
            WorkerError: the worker cannot run in this process.
        """
        engine = self.engine(worker, forced)
        self._place(link, engine)
        link.on_closed = self._forget
        if worker != "pthread":
            self._set_watchdog(engine, link.timeout, forced)

    def _place(self, link: Link, engine: Engine) -> None:
        key = id(link)
        # dict.pop is atomic: safe wherever the garbage collector may run.
        gone = weakref.ref(link, lambda _: self._links.pop(key, None))
        self._links[key] = (gone, engine)
        engine.watch(link)

    def _forget(self, link: Link) -> None:
        _, engine = self._links.pop(id(link), (None, None))
        if engine is not None:
            engine.forget(link)

    def _set_watchdog(self, engine: Engine, timeout: float, forced: bool) -> None:
        watchdog = self._watchdogs.get(engine)
        if watchdog is None:

            def on_late(seconds: float) -> bool:
                return False if forced else self._move(engine, seconds)

            watchdog = Watchdog(engine, timeout, self.metrics, on_late)
            watchdog = self._watchdogs.setdefault(engine, watchdog)
        watchdog.timeout = min(watchdog.timeout, timeout)
        # Anew for each link: its watch is over when the engine ran out of links.
        self.engine("pthread").watch(watchdog)

    def _move(self, engine: Engine, seconds: float) -> bool:
        released = engine.release_all()
        if released is None:
            return False
        self.moved = True
        native = self.engine("pthread")
        for item in released:
            if isinstance(item, Link):
                self._place(item, native)
        self.metrics.record(
            "worker-moved",
            "",
            f"{len(released)} links moved from {engine.worker.name} to pthread: "
            f"its tick was {seconds:.2f} s late",
        )
        return True

    def orphan_links(self) -> None:
        """In a forked child: let go of everything the parent watched."""
        for link in self.links():
            link.orphan()


_SERVICE = ProcessLocal(HeartbeatService, HeartbeatService.orphan_links)


def current() -> HeartbeatService:
    """The heartbeat service of this process."""
    return _SERVICE.get()


def existing() -> HeartbeatService | None:
    """The heartbeat service of this process if there is one: looking must not make it.

    eventlet's ``monkey_patch()`` makes the reentrant locks green that it finds, and what
    only looks may come before it.
    """
    return _SERVICE.peek()
