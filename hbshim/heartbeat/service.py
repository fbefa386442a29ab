"""The heartbeat service of this process: its engines, and the engine of each link.

It starts with the first link, and again in a forked child.
"""

from __future__ import annotations

import time
import weakref

from hbshim.errors import WorkerError
from hbshim.heartbeat.engine import Engine, Watched
from hbshim.heartbeat.link import Link
from hbshim.heartbeat.supervisor import Supervisor
from hbshim.heartbeat.watchdog import LATE_SHARE, Watchdog
from hbshim.heartbeat.workers import WORKERS, PthreadWorker
from hbshim.metrics import Metrics
from hbshim.options import WorkerName
from hbshim.runtime.fork import ProcessLocal

#: A hub that is late by more than this share of T gets no new links; above twice this share, the
#: watchdog moves the links it has.
NOTABLY_LATE = LATE_SHARE / 2
LATEST_CHECKS = 16

#: Seconds after which a thread no longer waits for another one that replaces the worker, and that a
#: finalizer may have stopped in the middle of it.
REPLACING_LIMIT = 1.0


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
        self._items: dict[int, weakref.ref[Watched]] = {}
        self._supervisor: Supervisor | None = None
        self._replacing_until = 0.0

    def engine(self, worker: WorkerName, forced: bool = False) -> Engine:
        """Return the engine of `worker`.

        Links whose worker the user forced have a separate engine, because they are not moved when
        the worker is late.
        """
        key = (worker, forced and worker != "pthread")
        engine = self._engines.get(key)
        if engine is None:
            fresh = Engine(WORKERS[worker](), self.metrics, on_death=self._worker_died)
            # setdefault: two concurrent threads get the same engine.
            engine = self._engines.setdefault(key, fresh)
        return engine

    def engines(self) -> list[Engine]:
        """Return every engine started so far; for reports."""
        return list(self._engines.values())

    def links(self) -> list[Link]:
        """Return every existing link; for reports."""
        return [link for link, _ in self.placements()]

    def placements(self) -> list[tuple[Link, Engine]]:
        """Return every existing link with its engine; for reports."""
        found = ((reference(), engine) for reference, engine in list(self._links.values()))
        return [(link, engine) for link, engine in found if link is not None]

    def worker_late(self) -> bool:
        """Whether the latest checks of a hub were late by more than :data:`NOTABLY_LATE` of T."""
        for engine in self.engines():
            if engine.worker.name == "pthread" or not engine.lateness:
                continue
            timeout = min((item.timeout for item in engine.items()), default=None)
            latest = list(engine.lateness)[-LATEST_CHECKS:]
            if timeout is not None and max(latest) > timeout * NOTABLY_LATE:
                return True
        return False

    def watch(self, link: Link, worker: WorkerName, *, forced: bool = False) -> None:
        """Keep `link` alive with `worker`; callable from any thread.

        Parameters:
            link: the link.
            worker: the heartbeat worker.
            forced: the user chose the worker: lateness is recorded, but the link is not moved.

        Raises:
            WorkerError: the worker cannot run in this process.
        """
        engine = self.engine(worker, forced)
        self.check_threads()
        engine.start()
        link.on_closed = self._forget
        link.on_use = self.check_threads
        self._place(link, engine)
        if link.guard.closed:  # by another thread, perhaps before it was placed
            self._forget(link)
        if worker != "pthread":
            self._set_watchdog(engine, link.timeout, forced)

    def watch_item(self, item: Watched) -> None:
        """Have the native thread check an item that is no link; it is held weakly.

        Its check must neither wait nor do I/O: other links' heartbeats would be late for it.

        Raises:
            WorkerError: no native thread can be started in this process.
        """
        key = id(item)
        self._items[key] = weakref.ref(item, lambda _: self._items.pop(key, None))
        self._watch(item, self.engine("pthread"))

    def recheck(self, link: Link) -> None:
        """Check `link` now, because its options have changed."""
        _, engine = self._links.get(id(link), (None, None))
        if engine is not None:
            engine.watch(link)

    def _place(self, link: Link, engine: Engine) -> None:
        key = id(link)
        # dict.pop is atomic: safe wherever the garbage collector may run.
        gone = weakref.ref(link, lambda _: self._links.pop(key, None))
        self._links[key] = (gone, engine)
        self._watch(link, engine)
        # Each of them: another thread may have placed it at the same time.
        for former in self.engines():
            if former is not engine:
                former.forget(link)
        _, latest = self._links.get(key, (None, None))
        if latest is not None and latest is not engine:
            engine.forget(link)

    def _watch(self, item: Watched, engine: Engine) -> None:
        engine.watch(item)
        if engine.worker.name == "pthread":
            self._supervise(engine, item.timeout)

    def _forget(self, link: Link) -> None:
        _, engine = self._links.pop(id(link), (None, None))
        if engine is not None:
            engine.forget(link)
        self.check_threads()

    # -- workers that end, are stuck or late ----------------------------------

    def _supervise(self, engine: Engine, timeout: float) -> None:
        supervisor = self._supervisor
        if supervisor is None:
            # Two concurrent threads may start one supervisor too many, which sleeps.
            worker = engine.worker
            assert isinstance(worker, PthreadWorker)
            supervisor = Supervisor(engine, self._replace_thread, worker.elsewhere)
            self._supervisor = supervisor
        supervisor.timeout = min(supervisor.timeout, timeout)
        try:
            supervisor.ensure()
        except WorkerError as error:
            self.metrics.record_once("unsupervised", "", str(error))

    def check_threads(self) -> None:
        """Replace a native thread that has ended; cheap, for a client that uses its link."""
        supervisor = self._supervisor
        if supervisor is None:
            return
        engine = self.engine("pthread")
        if not engine.worker.running and engine.next_due is not None:
            self._replace_thread(engine, "it ended")
        if not supervisor.running:
            self._supervise(engine, supervisor.timeout)

    def _worker_died(self, engine: Engine, reason: str) -> None:
        """Replace a worker that has ended; runs in the worker's own thread."""
        if engine.worker.name == "pthread":
            self._replace_thread(engine, f"it ended by {reason}")
        else:
            self._move(engine, f"its green thread ended by {reason}")

    def _replace_thread(self, engine: Engine, reason: str) -> None:
        now = time.monotonic()
        # Several places notice that it has ended. No call between these two lines.
        if now < self._replacing_until:
            return
        self._replacing_until = now + REPLACING_LIMIT
        try:
            self._replace(engine, reason)
        finally:
            self._replacing_until = 0.0

    def _replace(self, engine: Engine, reason: str) -> None:
        worker = engine.worker
        where = worker.where() if isinstance(worker, PthreadWorker) and worker.running else ""
        links: list[Link] = []

        def watched() -> list[Watched]:
            links.extend(link for link, placed_on in self.placements() if placed_on is engine)
            items = (reference() for reference in list(self._items.values()))
            return [*links, *self._watchdogs.values(), *(item for item in items if item)]

        try:
            engine.restart(watched)
        except WorkerError as error:
            self.metrics.record_once("unsupervised", "", f"{reason}, and {error}")
            return
        self.metrics.record(
            "worker-replaced",
            "",
            f"another heartbeat thread took over {len(links)} connections: {reason}"
            + (f", in {where}" if where else ""),
        )

    def _set_watchdog(self, engine: Engine, timeout: float, forced: bool) -> None:
        watchdog = self._watchdogs.get(engine)
        if watchdog is None:

            def on_late(seconds: float) -> bool:
                if forced and engine.worker.running:
                    return False
                return self._move(engine, f"it was {seconds:.2f} s late")

            watchdog = Watchdog(engine, timeout, self.metrics, on_late)
            watchdog = self._watchdogs.setdefault(engine, watchdog)
        watchdog.timeout = min(watchdog.timeout, timeout)
        # A new one for each link: a watchdog ends when its engine has no links.
        self._watch(watchdog, self.engine("pthread"))

    def _move(self, engine: Engine, reason: str) -> bool:
        # First: a link that is added to it meanwhile is among those that are moved.
        engine.retire()
        self.moved = True
        native = self.engine("pthread")
        moved = [link for link, placed_on in self.placements() if placed_on is engine]
        try:
            for link in moved:
                self._place(link, native)
        except WorkerError as error:
            self.metrics.record_once("unsupervised", "", f"{reason}, and {error}")
            return False
        self.metrics.record(
            "worker-moved",
            "",
            f"{len(moved)} links moved from {engine.worker.name} to pthread: {reason}",
        )
        return True

    def orphan_links(self) -> None:
        """In a forked child: drop everything that the parent watched."""
        for link in self.links():
            try:
                link.orphan()
            except Exception as error:
                # An error with one link must not keep the others from being dropped.
                current().metrics.record("check-failed", link.name, repr(error))


_SERVICE = ProcessLocal(HeartbeatService, HeartbeatService.orphan_links)


def current() -> HeartbeatService:
    """Return the heartbeat service of this process."""
    return _SERVICE.get()


def existing() -> HeartbeatService | None:
    """Return the heartbeat service of this process, or None; never creates it.

    eventlet's ``monkey_patch()`` makes existing reentrant locks green, and a caller that only
    inspects may run before it.
    """
    return _SERVICE.peek()
