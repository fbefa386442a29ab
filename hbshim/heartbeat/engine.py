"""One worker, many links: looks at each link when its time has come.

The application's threads never touch the schedule; they append a command and
ring the bell. So neither a greenlet nor a finaliser that runs in the middle of a
turn can meet a lock here.
"""

from __future__ import annotations

import time
import weakref
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol

from hbshim.heartbeat.schedule import TICK, Schedule
from hbshim.heartbeat.workers import Worker
from hbshim.metrics import Metrics
from hbshim.runtime.unpatched import allocate_lock

#: Lateness samples kept for reports.
LATENESS_KEPT = 8192

#: Upper bounds, in seconds, of the buckets in which every look is counted; 0 is for those
#: that come early, as most do. T/8, where lateness begins to matter, lies among the others.
LATENESS_BOUNDS = (0.0, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Watched(Protocol):
    """What an engine looks at: a link, or the watchdog of another engine."""

    timeout: float

    def turn(self, now: float) -> float | None: ...


class Engine:
    """Calls each watched item's turn on time, from one worker.

    Links are held weakly: a connection that the application lets go of is not
    kept alive by its heartbeat.

    Attributes:
        wakeups: turns taken so far.
        lateness: seconds between the time a look was due and the look, latest last.
        looks_by_lateness: how many looks fell into each of :data:`LATENESS_BOUNDS`, and
            how many beyond.
        late_for: all seconds of lateness together.
    """

    def __init__(
        self,
        worker: Worker,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.worker = worker
        self.wakeups = 0
        self.lateness: deque[float] = deque(maxlen=LATENESS_KEPT)
        self.looks_by_lateness = [0] * (len(LATENESS_BOUNDS) + 1)
        self.late_for = 0.0
        self.next_due: float | None = None
        self._clock = clock
        self._metrics = metrics
        self._schedule: Schedule[weakref.ref[Watched]] = Schedule()
        self._commands: deque[tuple[weakref.ref[Watched], bool]] = deque()
        # Held during a turn, so that a watchdog which takes this engine's links
        # over never meets a turn half done.
        self._in_turn = allocate_lock()
        self._starting = allocate_lock()

    def watch(self, item: Watched) -> None:
        """Look at `item` from now on; from any thread.

        Raises:
            WorkerError: the worker cannot run in this process.
        """
        self._commands.append((_key(item), True))
        if self.next_due is None:
            # A worker that never gets to its first turn is late, too.
            self.next_due = self._clock()
        with self._starting:
            if not self.worker.running:
                self.worker.start(self.turn)
                return
        self.worker.wake()

    def forget(self, item: Watched) -> None:
        """Look at `item` no more; from any thread, never blocks."""
        self._commands.append((_key(item), False))
        self.worker.wake()

    def items(self) -> Iterator[Watched]:
        """What is being watched just now; for reports."""
        for reference in self._schedule:
            item = reference()
            if item is not None:
                yield item

    def turn(self) -> float | None:
        """Do what is due; return when to be called again, or None for not until woken."""
        if not self._in_turn.acquire(False):
            return self.next_due
        try:
            self.wakeups += 1
            self._take_commands()
            for reference, deadline in self._schedule.pop_due(self._clock()):
                self._look(reference, deadline)
            self.next_due = self._schedule.next_deadline()
            return self.next_due
        finally:
            self._in_turn.release()

    def _take_commands(self) -> None:
        while True:
            try:
                reference, wanted = self._commands.popleft()
            except IndexError:
                return
            if wanted:
                self._schedule.put(reference, self._clock())
            else:
                self._schedule.discard(reference)

    def _look(self, reference: weakref.ref[Watched], deadline: float) -> None:
        item = reference()
        if item is None:
            return
        now = self._clock()
        late = now - deadline
        self.lateness.append(late)
        # 0.1 microseconds, for a look that takes about 20.
        self.looks_by_lateness[bisect_left(LATENESS_BOUNDS, late)] += 1
        if late > 0:
            self.late_for += late
        try:
            again = item.turn(now)
        except Exception as error:
            # One broken link must not end the heartbeats of all the others.
            self._metrics.record("look-failed", type(item).__name__, repr(error))
            again = now + item.timeout / 2
        if again is not None:
            # Never in the tick that is being emptied.
            self._schedule.put_new(reference, max(again, now + TICK))

    def release_all(self) -> list[Watched] | None:
        """Hand over everything watched, to another engine; None while a turn is under way."""
        if not self._in_turn.acquire(False):
            return None
        try:
            self._take_commands()
            released = list(self.items())
            self._schedule = Schedule()
            self.next_due = None
            self.worker.stop()
            return released
        finally:
            self._in_turn.release()


def _key(item: Watched) -> weakref.ref[Watched]:
    # The hash must not need the item, which may be gone when the command is taken: a
    # reference remembers it. The one that a lost link was watched by is gone by then.
    reference = weakref.ref(item)
    hash(reference)
    return reference
