"""Watches the heartbeat thread, from a second native thread, and has it replaced.

An idle program makes no call in which hbshim could notice that its heartbeat thread is
dead or stuck. The second thread sleeps until the first one is overdue, which it hardly
ever is: it wakes about once in each period of grace while connections are open.

What stops the first thread does not stop the second as well. A finalizer that waits, run
by the garbage collector, keeps every other automatic collection of the process from
starting. And each of the two, if an exception ends it, has a successor started.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from hbshim.errors import WorkerError
from hbshim.heartbeat.engine import Engine
from hbshim.runtime.exclusive import TrySection
from hbshim.runtime.unpatched import allocate_lock, start_native_thread

#: A thread is stuck that makes no progress for so many seconds, or this share of T if that
#: is more, and is overdue all the while.
GRACE_AT_LEAST = 0.5
GRACE_SHARE = 1 / 8

#: Told of an engine whose thread is dead or stuck, and why it is taken to be.
OnBroken = Callable[[Engine, str], None]


class Supervisor:
    """Calls `on_broken` when the thread of `engine` is dead or stuck.

    Parameters:
        engine: that of the native worker.
        on_broken: replaces the thread; raises nothing.
        elsewhere: whether the thread executes code that is not hbshim's, such as a finalizer.
            One that does not is more likely to wait for its share of the machine, and gets
            T to go on.
        clock: in seconds.

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
        # Of the latest check: what had been done by then, and when the next one was due.
        self._progress = -1
        self._check_due = float("inf")

    def ensure(self) -> None:
        """Start the thread unless it runs; wake it if it waits for work. Never blocks.

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
                # Set from outside, by a debugger or a timeout library.
                with contextlib.suppress(WorkerError):  # the next connection tries again
                    self.ensure()

    def _sleep(self, pause: float | None) -> None:
        if pause is not None:
            self._wakeup.acquire(True, pause)
            return
        self._parked = True
        # Once more: work may have come before that was to be seen.
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
        # A thread that was late itself knows nothing: the whole process may have been
        # stopped, or a call of C may have kept the GIL.
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
