"""Three ways to call the engine's turn on time, behind one protocol.

``pthread`` needs nothing but the operating system. ``greenthread`` runs in the
program's own hub, ``tpool`` is submitted from there to the pool of native threads that
eventlet or gevent keeps: both stop when the hub stops.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import Protocol

from hbshim.errors import WorkerError
from hbshim.options import WorkerName
from hbshim.runtime.unpatched import (
    allocate_lock,
    get_ident,
    get_native_id,
    start_native_thread,
)

#: A turn does what is due and returns the time of the next one, or None.
RunOnce = Callable[[], float | None]

#: Green workers sleep at most this long (seconds), because a native thread that
#: watches a new link cannot wake a hub that is not its own.
GREEN_SLICE = 0.25


#: Told why a worker ended without being stopped.
OnDeath = Callable[[str], None]


def _ignore(_reason: str) -> None:
    return None


_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep

#: Calls of a thread that is stuck that are shown.
CALLS_SHOWN = 5


class Worker(Protocol):
    """Calls a turn when its time has come, from :meth:`start` until :meth:`stop`.

    Attributes:
        running: it was started, and can still take turns.
        on_death: called with the reason, by the worker's own thread, when it ends without
            being stopped.
    """

    name: WorkerName
    on_death: OnDeath

    @property
    def running(self) -> bool: ...
    def start(self, run_once: RunOnce) -> None: ...
    def wake(self) -> None: ...
    def stop(self) -> None: ...


class _NativeThread:
    """One thread of the operating system. It sleeps on a native lock: no descriptor, no polling."""

    def __init__(self, run_once: RunOnce, on_death: OnDeath) -> None:
        self._run_once = run_once
        self._on_death = on_death
        self._wakeup = allocate_lock()
        self._wakeup.acquire()
        self._stopped = False
        self.ended = False
        self.native_id: int | None = None
        self.ident: int | None = None

    def start(self) -> None:
        start_native_thread(self._run, self.stop)

    def _run(self) -> None:
        reason = "no error"
        try:
            self.native_id, self.ident = get_native_id(), get_ident()
            while not self._stopped:
                deadline = self._run_once()
                if deadline is None:
                    self._wakeup.acquire()
                else:
                    self._wakeup.acquire(True, max(0.0, deadline - time.monotonic()))
        except BaseException as error:
            reason = type(error).__name__
        finally:
            self.ended = True
            if not self._stopped:
                self._on_death(reason)

    def wake(self) -> None:
        try:
            self._wakeup.release()
        except RuntimeError:
            return  # it is awake, or about to be

    def stop(self) -> None:
        self._stopped = True
        self.wake()


class PthreadWorker:
    """A native thread; started again, it leaves the old thread to itself and uses a new one."""

    name: WorkerName = "pthread"

    def __init__(self) -> None:
        self._thread: _NativeThread | None = None
        self.on_death: OnDeath = _ignore

    @property
    def running(self) -> bool:
        thread = self._thread
        return thread is not None and not thread.ended

    @property
    def native_id(self) -> int | None:
        """The operating system's id of the thread, for measuring it."""
        return None if self._thread is None else self._thread.native_id

    def start(self, run_once: RunOnce) -> None:
        """Start a thread; one that runs already is stopped, and ends when it notices.

        Raises:
            WorkerError: no thread can be started here.
        """
        thread = _NativeThread(run_once, self.on_death)
        before = self._thread
        try:
            self._thread = thread
            if before is not None:
                before.stop()
            thread.start()
        except BaseException:
            # Also where it was interrupted: the next link starts another one.
            thread.ended = True
            raise

    def wake(self) -> None:
        """Have the turn called soon; from any thread, never blocks."""
        if self._thread is not None:
            self._thread.wake()

    def stop(self) -> None:
        """Have the thread end soon."""
        if self._thread is not None:
            self._thread.stop()

    def elsewhere(self) -> bool:
        """Whether the thread executes code that is not hbshim's."""
        thread = self._thread
        frame = None if thread is None else sys._current_frames().get(thread.ident or 0)
        return frame is not None and not frame.f_code.co_filename.startswith(_PACKAGE)

    def where(self) -> str:
        """The latest calls of the thread, the innermost first; empty when it does not run."""
        thread = self._thread
        frame = None if thread is None else sys._current_frames().get(thread.ident or 0)
        calls: list[str] = []
        while frame is not None and len(calls) < CALLS_SHOWN:
            code = frame.f_code
            calls.append(f"{code.co_name} ({os.path.basename(code.co_filename)}:{frame.f_lineno})")
            frame = frame.f_back
        return " from ".join(calls)


def _thread_exists(native_id: int | None) -> bool:
    """Return whether a thread of this process is there; True where the platform does not tell.

    Not by Python's own list: a host's thread, such as Apache's, is not in it between requests.
    """
    tasks = "/proc/self/task"
    return os.path.exists(f"{tasks}/{native_id}") or not os.path.isdir(tasks)


class GreenthreadWorker:
    """A green thread of the library that patched this program. Ends when nothing is due."""

    name: WorkerName = "greenthread"

    def __init__(self) -> None:
        self.on_death: OnDeath = _ignore
        # Of the green thread that is to go on; None when none is.
        self._token: object = None
        self._hub_thread: int | None = None

    @property
    def running(self) -> bool:
        """False also when the thread whose hub it was started in has ended."""
        return self._token is not None and _thread_exists(self._hub_thread)

    def start(self, run_once: RunOnce) -> None:
        """Spawn the green thread in the calling thread's hub.

        Raises:
            WorkerError: neither eventlet nor gevent is loaded.
        """
        spawn, sleep = _green_primitives(self.name)
        token, self._hub_thread = object(), get_native_id()
        try:
            self._token = token
            spawn(self._run, run_once, sleep, token)
        except BaseException:
            # Also where it was interrupted: the next link spawns another one.
            self._token = None
            raise

    def _run(self, run_once: RunOnce, sleep: Callable[[float], object], token: object) -> None:
        try:
            while self._token is token:
                deadline = self._call(run_once)
                if deadline is None:
                    self._token = None
                    # Once more: a link that came meanwhile has found this one running.
                    deadline = self._call(run_once)
                    if deadline is None or self._token is not None:
                        return
                    self._token = token
                sleep(min(max(0.0, deadline - time.monotonic()), GREEN_SLICE))
        except BaseException as error:
            # It may be killed, or dropped together with its hub.
            if self._token is token and not sys.is_finalizing():
                self._token = None
                self.on_death(type(error).__name__)
            raise

    def _call(self, run_once: RunOnce) -> float | None:
        return run_once()

    def wake(self) -> None:
        """Nothing to do: the next slice is near."""

    def stop(self) -> None:
        """Have the green thread end at its next slice."""
        self._token = None


class TpoolWorker(GreenthreadWorker):
    """A green thread that has each turn executed in its library's pool of native threads.

    With eventlet that is ``eventlet.tpool``, with gevent the hub's own thread pool,
    which resolves names there, too.
    """

    name: WorkerName = "tpool"

    def _call(self, run_once: RunOnce) -> float | None:
        deadline: float | None
        if _eventlet_if_it_rules() is not None:
            from eventlet import tpool

            deadline = tpool.execute(run_once)
        else:
            # The pool of this thread's hub: gevent lets nobody else submit to it.
            deadline = sys.modules["gevent"].get_hub().threadpool.apply(run_once)
        return deadline


def _eventlet_if_it_rules() -> ModuleType | None:
    """eventlet, unless gevent is the only one loaded, or the only one that has patched."""
    eventlet, patcher = sys.modules.get("eventlet"), sys.modules.get("eventlet.patcher")
    if sys.modules.get("gevent") is None or (patcher and patcher.already_patched):
        return eventlet
    return None


def require_library(worker: WorkerName) -> None:
    """Check that the library is loaded that `worker` needs.

    Raises:
        WorkerError: neither eventlet nor gevent is.
    """
    if worker != "pthread":
        _green_primitives(worker)


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
