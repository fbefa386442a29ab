"""The heartbeat engine: one worker that checks many links, each at its time.

The application's threads never touch the schedule. They append a command and wake the worker up.
No thread waits for another one here.

A worker may end, or get stuck: a finalizer of the application that waits may run in any thread
that allocates. Then another worker starts with a schedule of its own, called a *run*. The old
worker, if it continues, finds that its run is over and ends.
"""

from __future__ import annotations

import time
import weakref
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from hbshim.heartbeat.schedule import SLOT, Schedule
from hbshim.heartbeat.workers import Worker
from hbshim.metrics import Metrics
from hbshim.runtime.exclusive import OCCUPIED, TrySection
from hbshim.runtime.unpatched import allocate_lock, original

#: How many samples of lateness are kept for reports.
LATENESS_KEPT = 8192

#: How often, and for how many seconds each time, a thread waits for another one that is starting
#: the worker.
_WAITS, _WAIT = 100, 0.001

#: Upper bounds, in seconds, of the buckets in which checks are counted; 0 is for early checks,
#: which are the majority. T/8, above which lateness matters, is among the others.
LATENESS_BOUNDS = (0.0, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Watched(Protocol):
    """What an engine checks: a link, or the watchdog of another engine."""

    timeout: float

    def check(self, now: float) -> float | None: ...


class _Run:
    """The state of one worker, from its start until another worker replaces it."""

    __slots__ = ("busy", "schedule")

    def __init__(self) -> None:
        self.schedule: Schedule[weakref.ref[Watched]] = Schedule()
        # Never waited for.
        self.busy = allocate_lock()


class Engine:
    """Checks each item on time, from one worker.

    Links are held weakly: heartbeats do not keep a connection object alive that the application
    has released.

    Parameters:
        worker: calls :meth:`run_once`.
        on_death: called with this engine and the reason when its worker ended without being
            stopped; by default another worker starts.

    Attributes:
        wakeups: how often :meth:`run_once` ran.
        checks: how many checks of items ran.
        lateness: seconds between the due time of a check and the check, latest last.
        checks_by_lateness: how many checks were in each bucket of :data:`LATENESS_BOUNDS`, and
            how many beyond.
        late_for: the sum of all lateness, in seconds.
        next_due: time of the next iteration; None when there is nothing to check.
    """

    def __init__(
        self,
        worker: Worker,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        on_death: Callable[[Engine, str], None] | None = None,
    ) -> None:
        self.worker = worker
        self.wakeups = 0
        self.checks = 0
        self.lateness: deque[float] = deque(maxlen=LATENESS_KEPT)
        self.checks_by_lateness = [0] * (len(LATENESS_BOUNDS) + 1)
        self.late_for = 0.0
        self.next_due: float | None = None
        self._clock = clock
        self._metrics = metrics
        self._run = _Run()
        self._commands: deque[tuple[weakref.ref[Watched], bool]] = deque()
        self._starting = TrySection()
        myself = weakref.ref(self)

        def died(reason: str) -> None:
            engine = myself()
            if engine is None:
                return
            if on_death is not None:
                on_death(engine, reason)
            else:
                left = list(engine.items())
                engine.restart(lambda: left)

        worker.on_death = died

    def watch(self, item: Watched) -> None:
        """Check `item` from now on; callable from any thread.

        Raises:
            WorkerError: the worker cannot run in this process.
        """
        self._commands.append((_key(item), True))
        if self.next_due is None:
            # A worker that never reaches its first iteration is late, too.
            self.next_due = self._clock()
        if self.worker.running:
            self.worker.wake()
        else:
            self.start()

    def start(self) -> None:
        """Start the worker if it does not run.

        Raises:
            WorkerError: the worker cannot run in this process.
        """
        # Waited for, because the start of another thread may fail; but not for long: this
        # thread itself may be inside, above a finalizer. A command is in the queue already.
        for _ in range(_WAITS):
            if self._starting.run(self._start_unless_running) is not OCCUPIED:
                return
            original("time", "sleep")(_WAIT)

    def _start_unless_running(self) -> None:
        if not self.worker.running:
            self._start()

    def _start(self) -> None:
        run: _Run | None = None

        def run_once() -> float | None:
            nonlocal run
            # Not before the worker's first iteration: another thread may have replaced the run for
            # which this worker was started.
            if run is None:
                run = self._run
            return self._run_once(run)

        self.worker.start(run_once)

    def restart(self, items: Callable[[], Iterable[Watched]]) -> None:
        """Continue with another worker; an old one that is stuck finds itself replaced.

        Parameters:
            items: returns everything to check, because the old schedule may be in the middle of a
                change. Called when the old worker takes no further command, so that none is lost.

        Raises:
            WorkerError: no other worker can start.
        """
        self._run = _Run()
        self.next_due = self._clock()
        for item in items():
            self._commands.append((_key(item), True))
        self._start()

    def forget(self, item: Watched) -> None:
        """Stop checking `item`; callable from any thread, never blocks."""
        self._commands.append((_key(item), False))
        self.worker.wake()

    def items(self) -> Iterator[Watched]:
        """Return what is checked now; for reports."""
        for reference in self._run.schedule:
            item = reference()
            if item is not None:
                yield item

    def run_once(self) -> float | None:
        """Do what is due; return the time of the next call, or None to wait for a wake-up."""
        return self._run_once(self._run)

    def _run_once(self, run: _Run) -> float | None:
        if run is not self._run:
            return None
        if not run.busy.acquire(False):
            return self._clock() + SLOT
        try:
            self.wakeups += 1
            self._take_commands(run)
            for reference, deadline in run.schedule.pop_due(self._clock()):
                self._check(run, reference, deadline)
                if run is not self._run:
                    return None
            self.next_due = due = run.schedule.next_deadline()
            return due
        finally:
            run.busy.release()

    def _take_commands(self, run: _Run) -> None:
        while run is self._run:
            try:
                command = self._commands.popleft()
            except IndexError:
                return
            if run is not self._run:  # replaced at this moment
                self._commands.appendleft(command)
                self.worker.wake()
                return
            reference, wanted = command
            if wanted:
                run.schedule.put(reference, self._clock())
            else:
                run.schedule.discard(reference)

    def _check(self, run: _Run, reference: weakref.ref[Watched], deadline: float) -> None:
        item = reference()
        if item is None:
            return
        now = self._clock()
        late = now - deadline
        self.checks += 1
        self.lateness.append(late)
        # 0.1 microseconds, for a check that takes about 20.
        self.checks_by_lateness[bisect_left(LATENESS_BOUNDS, late)] += 1
        if late > 0:
            self.late_for += late
        try:
            again = item.check(now)
        except BaseException as error:
            # An error of one link must not end the heartbeats of the others, and an interrupted
            # check must not end those of its link.
            run.schedule.put_new(reference, now + max(item.timeout / 2, SLOT))
            if not isinstance(error, Exception):
                raise
            self._metrics.record("check-failed", type(item).__name__, repr(error))
            return
        if again is not None:
            # Never in the slot that is being emptied.
            run.schedule.put_new(reference, max(again, now + SLOT))

    def retire(self) -> None:
        """Forget all items, and have the worker end; does not wait for it."""
        self._run = _Run()
        self._commands.clear()
        self.next_due = None
        self.worker.stop()


def _key(item: Watched) -> weakref.ref[Watched]:
    # The hash must not need the item, which may be collected when the command is processed: a
    # reference remembers it. The item that watched a lost link is collected by then.
    reference = weakref.ref(item)
    hash(reference)
    return reference
