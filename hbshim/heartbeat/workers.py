"""Three ways to run the engine on time, behind one protocol.

``pthread`` needs only the operating system. ``greenthread`` runs in the program's own hub.
``tpool`` is submitted from the hub to the pool of native threads of eventlet or gevent. The last
two stop when the hub stops.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Protocol

from hbshim.errors import WorkerError
from hbshim.options import WorkerName
from hbshim.runtime.stacks import Call, escaped, stacks
from hbshim.runtime.unpatched import (
    allocate_lock,
    get_ident,
    get_native_id,
    start_native_thread,
)

#: Does what is due and returns the time of the next call, or None.
RunOnce = Callable[[], float | None]

#: The longest sleep of a green worker, in seconds, because a native thread that watches a new link
#: cannot wake up a hub that is not its own.
GREEN_SLICE = 0.25


#: Called with the reason for which a worker ended without being stopped.
OnDeath = Callable[[str], None]


def _ignore(_reason: str) -> None:
    return None


_PACKAGE = escaped(os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep)

#: How many calls of a stuck thread are shown.
CALLS_SHOWN = 5


class Worker(Protocol):
    """Calls a function at the times that it returns, from :meth:`start` until :meth:`stop`.

    Attributes:
        running: it was started, and can still call the function.
        on_death: called with the reason, by the worker's own thread, when it ends without being
            stopped.
    """

    name: WorkerName
    on_death: OnDeath

    @property
    def running(self) -> bool: ...
    def start(self, run_once: RunOnce) -> None: ...
    def wake(self) -> None: ...
    def stop(self) -> None: ...


class _NativeThread:
    """An operating-system thread that sleeps on a native lock: no descriptor, no polling."""

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
    """A native thread. A second start abandons the old thread and uses a new one."""

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
        """The operating system's id of the thread, for measurements."""
        return None if self._thread is None else self._thread.native_id

    def start(self, run_once: RunOnce) -> None:
        """Start a thread; a running one is stopped, and ends when it notices.

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
        """Run soon; callable from any thread, never blocks."""
        if self._thread is not None:
            self._thread.wake()

    def stop(self) -> None:
        """Have the thread end soon."""
        if self._thread is not None:
            self._thread.stop()

    def elsewhere(self) -> bool:
        """Whether the thread executes code that is not hbshim's."""
        calls = self._calls()
        return bool(calls) and not calls[0].file.startswith(_PACKAGE)

    def where(self) -> str:
        """Return the latest calls of the thread, the innermost first; empty if it does not run."""
        return " from ".join(
            f"{call.function} ({os.path.basename(call.file)}:{call.line})"
            for call in self._calls()[:CALLS_SHOWN]
        )

    def _calls(self) -> Sequence[Call]:
        thread = self._thread
        return () if thread is None else stacks().get(thread.ident or 0, ())


def _thread_exists(native_id: int | None) -> bool:
    """Return whether a thread of this process exists; True if the platform does not report it.

    Python's own list is not used: a thread of the host, such as Apache's, is not in it between
    requests.
    """
    tasks = "/proc/self/task"
    return os.path.exists(f"{tasks}/{native_id}") or not os.path.isdir(tasks)


class GreenthreadWorker:
    """A green thread of the library that patched this program. Ends when nothing is due."""

    name: WorkerName = "greenthread"

    def __init__(self) -> None:
        self.on_death: OnDeath = _ignore
        # Identifies the green thread that is to continue; None if none is.
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
                    # Once more: a link that was added meanwhile has found this one running.
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
        """Do nothing: the next iteration follows soon."""

    def stop(self) -> None:
        """Have the green thread end at its next iteration."""
        self._token = None


class TpoolWorker(GreenthreadWorker):
    """A green thread that runs each iteration in its library's pool of native threads.

    With eventlet that is ``eventlet.tpool``, with gevent the hub's own thread pool, which also
    resolves names.
    """

    name: WorkerName = "tpool"

    def _call(self, run_once: RunOnce) -> float | None:
        deadline: float | None
        if _eventlet_if_it_rules() is not None:
            from eventlet import tpool

            deadline = tpool.execute(run_once)
        else:
            # The pool of this thread's hub: gevent lets no other thread submit to it.
            deadline = sys.modules["gevent"].get_hub().threadpool.apply(run_once)
        return deadline


def _eventlet_if_it_rules() -> ModuleType | None:
    """Return eventlet, unless only gevent is loaded, or only gevent has patched."""
    eventlet, patcher = sys.modules.get("eventlet"), sys.modules.get("eventlet.patcher")
    if sys.modules.get("gevent") is None or (patcher and patcher.already_patched):
        return eventlet
    return None


def require_library(worker: WorkerName) -> None:
    """Check that the library that `worker` needs is loaded.

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
