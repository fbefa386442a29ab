"""Three ways to call the engine's turn on time, behind one protocol.

``pthread`` needs nothing but the operating system. ``greenthread`` runs in the
program's own hub, ``tpool`` is submitted from there to the pool of native threads that
eventlet or gevent keeps: both stop when the hub stops.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import Protocol

from hbshim.errors import WorkerError
from hbshim.options import WorkerName
from hbshim.runtime.unpatched import allocate_lock, get_native_id, start_native_thread

#: A turn does what is due and returns the time of the next one, or None.
Turn = Callable[[], float | None]

#: Green workers sleep at most this long (seconds), because a native thread that
#: watches a new link cannot wake a hub that is not its own.
GREEN_SLICE = 0.25


class Worker(Protocol):
    """Calls a turn when its time has come, from :meth:`start` until :meth:`stop`."""

    name: WorkerName

    @property
    def running(self) -> bool: ...
    def start(self, turn: Turn) -> None: ...
    def wake(self) -> None: ...
    def stop(self) -> None: ...


class PthreadWorker:
    """One native thread. It sleeps on a native lock: no descriptor, no polling."""

    name: WorkerName = "pthread"

    def __init__(self) -> None:
        self._bell = allocate_lock()
        self._bell.acquire()
        self._stopped = False
        self.running = False
        #: The operating system's id of the thread, for measuring it.
        self.native_id: int | None = None

    def start(self, turn: Turn) -> None:
        """Start the thread.

        Raises:
            WorkerError: no thread can be started here.
        """
        self._stopped = False
        self.running = True
        try:
            start_native_thread(lambda: self._run(turn), self.stop)
        except WorkerError:
            self.running = False
            raise

    def _run(self, turn: Turn) -> None:
        self.native_id = get_native_id()
        while not self._stopped:
            deadline = turn()
            if deadline is None:
                self._bell.acquire()
            else:
                self._bell.acquire(True, max(0.0, deadline - time.monotonic()))
        self.running = False

    def wake(self) -> None:
        """Have the turn called soon; from any thread, never blocks."""
        try:
            self._bell.release()
        except RuntimeError:
            return  # it rings already

    def stop(self) -> None:
        """Have the thread end soon."""
        self._stopped = True
        self.wake()


class GreenthreadWorker:
    """A green thread of the library that patched this program. Ends when nothing is due."""

    name: WorkerName = "greenthread"

    def __init__(self) -> None:
        self.running = False
        self._stopped = False

    def start(self, turn: Turn) -> None:
        """Spawn the green thread in the calling thread's hub.

        Raises:
            WorkerError: neither eventlet nor gevent is loaded.
        """
        spawn, sleep = _green_primitives(self.name)
        self._stopped = False
        self.running = True
        spawn(self._run, turn, sleep)

    def _run(self, turn: Turn, sleep: Callable[[float], object]) -> None:
        try:
            while not self._stopped:
                deadline = self._call(turn)
                if deadline is None:
                    return
                sleep(min(max(0.0, deadline - time.monotonic()), GREEN_SLICE))
        finally:
            self.running = False

    def _call(self, turn: Turn) -> float | None:
        return turn()

    def wake(self) -> None:
        """Nothing to do: the next slice is near."""

    def stop(self) -> None:
        """Have the green thread end at its next slice."""
        self._stopped = True


class TpoolWorker(GreenthreadWorker):
    """A green thread that has each turn executed in its library's pool of native threads.

    With eventlet that is ``eventlet.tpool``, with gevent the hub's own thread pool,
    which resolves names there, too.
    """

    name: WorkerName = "tpool"

    def _call(self, turn: Turn) -> float | None:
        deadline: float | None
        if _eventlet_if_it_rules() is not None:
            from eventlet import tpool

            deadline = tpool.execute(turn)
        else:
            # The pool of this thread's hub: gevent lets nobody else submit to it.
            deadline = sys.modules["gevent"].get_hub().threadpool.apply(turn)
        return deadline


def _eventlet_if_it_rules() -> ModuleType | None:
    """eventlet, unless gevent is the only one loaded, or the only one that has patched."""
    eventlet, patcher = sys.modules.get("eventlet"), sys.modules.get("eventlet.patcher")
    if sys.modules.get("gevent") is None or (patcher and patcher.already_patched):
        return eventlet
    return None


def _green_primitives(worker: str) -> tuple[Callable[..., object], Callable[[float], object]]:
    if (eventlet := _eventlet_if_it_rules()) is not None:
        return eventlet.spawn_n, eventlet.sleep
    if (gevent := sys.modules.get("gevent")) is not None:
        # ref=False: gevent.wait() and hub.join() return although this timer is pending.
        return gevent.spawn, functools.partial(gevent.sleep, ref=False)
    raise WorkerError(
        f"worker={worker} needs eventlet or gevent, and this program has loaded neither; "
        "use worker=pthread or heartbeat_in_pthread=auto"
    )


WORKERS: dict[WorkerName, Callable[[], Worker]] = {
    "pthread": PthreadWorker,
    "greenthread": GreenthreadWorker,
    "tpool": TpoolWorker,
}
