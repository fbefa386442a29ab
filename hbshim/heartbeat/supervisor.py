"""Watches the heartbeat thread from a second native thread, and has it replaced.

An idle program makes no call in which hbshim could notice that its heartbeat thread has ended or is
stuck. The second thread sleeps until the first one is overdue, which is rare: it wakes up about
once in each grace period while connections are open.

What stops the first thread does not stop the second as well. While a finalizer that waits is run
by the garbage collector, no other automatic collection of the process starts. If an exception
ends one of the two threads, a new one is started.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from hbshim.errors import WorkerError
from hbshim.heartbeat.engine import Engine
from hbshim.runtime.exclusive import TrySection
from hbshim.runtime.unpatched import allocate_lock, start_native_thread

#: A thread is stuck if it makes no progress for so many seconds, or for this share of T if that
#: is more, and is overdue all the time.
GRACE_AT_LEAST = 0.5
GRACE_SHARE = 1 / 8

#: Called with an engine whose thread has ended or is stuck, and the reason.
OnBroken = Callable[[Engine, str], None]


class Supervisor:
    """Calls `on_broken` when the thread of `engine` has ended or is stuck.

    Parameters:
        engine: that of the native worker.
        on_broken: replaces the thread; raises nothing.
        elsewhere: whether the thread executes code that is not hbshim's, such as a finalizer.
            Otherwise it probably waits for CPU time, and gets T to continue.
        clock: returns the time, in seconds.

    Attributes:
        running: its thread runs.
        started: how many threads were started so far.
        timeout: the smallest T among the links of `engine` so far, in seconds.
    """

    def __init__(
        self,
        engine: Engine,
        on_broken: OnBroken,
        elsewhere: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.timeout = float("inf")
        self.running = False
        self.started = 0
        self._engine = engine
        self._on_broken = on_broken
        self._elsewhere = elsewhere
        self._clock = clock
        self._wakeup = allocate_lock()
        self._wakeup.acquire()
        self._parked = False
        self._stopped = False
        self._starting = TrySection()
        # Of the latest check: the progress, and when the next check was due.
        self._progress = -1
        self._check_due = float("inf")

    def ensure(self) -> None:
        """Start the thread if it does not run; wake it up if it waits. Never blocks.

        Raises:
            WorkerError: no thread can be started here.
        """
        if not self.running and not self._stopped:
            self._starting.run(self._start)
        elif self._parked:
            self._wake()

    def _start(self) -> None:
        if self.running:
            return
        try:
            self.running = True
            self.started += 1
            start_native_thread(self._run, self.stop)
        except BaseException:
            # Interrupted, it may have started: two do no harm.
            self.running = False
            raise

    def stop(self) -> None:
        """Have the thread end soon."""
        self._stopped = True
        self._wake()

    def _wake(self) -> None:
        try:
            self._wakeup.release()
        except RuntimeError:
            return  # it is awake, or about to be

    def _run(self) -> None:
        try:
            while not self._stopped:
                self._sleep(self.check())
        finally:
            self.running = self._parked = False
            if not self._stopped:
                # Raised from outside, by a debugger or a timeout library.
                with contextlib.suppress(WorkerError):  # the next connection tries again
                    self.ensure()

    def _sleep(self, pause: float | None) -> None:
        if pause is not None:
            self._wakeup.acquire(True, pause)
            return
        self._parked = True
        # Once more: work may have arrived before that was visible.
        if self._engine.next_due is None:
            self._wakeup.acquire()
        self._parked = False

    def check(self) -> float | None:
        """Check the engine once; return seconds until the next check, or None while it is idle."""
        engine, now = self._engine, self._clock()
        due, progress = engine.next_due, engine.wakeups + engine.checks
        if due is None:
            self._check_due = float("inf")
            return None
        grace = max(GRACE_AT_LEAST, self.timeout * GRACE_SHARE)
        # If this thread was late itself, it cannot know: the whole process may have been stopped,
        # or a C function may have held the GIL.
        on_time = now < self._check_due + grace / 2
        if not engine.worker.running:
            self._on_broken(engine, "it ended")
        elif (
            now >= due + grace
            and on_time
            and progress == self._progress
            and (now >= due + self.timeout or self._elsewhere())
        ):
            self._on_broken(engine, f"it was stuck for {now - due:.1f} s")
        self._progress = progress
        pause = max(due + grace - now, grace)
        self._check_due = now + pause
        return pause
