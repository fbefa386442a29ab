"""The engine checks each item on time, forgets without a trace, and holds nothing alive."""

from __future__ import annotations

import gc
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, NoReturn, cast

import pytest

from hbshim.heartbeat.engine import Engine
from hbshim.heartbeat.schedule import SLOT
from hbshim.heartbeat.watchdog import LATE_SHARE, Watchdog
from hbshim.heartbeat.workers import PthreadWorker, Worker
from hbshim.metrics import Metrics
from tests.concurrency import MODEL, needs_os_threads
from tests.interrupts import interrupt_everywhere
from tests.waiting import wait_until


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class IdleWorker:
    """A worker whose turns the test takes itself, as a hub that is parked would not."""

    name = "greenthread"

    def __init__(self) -> None:
        self.running = False
        self.woken = 0

    def start(self, turn: Callable[..., Any]) -> None:
        self.running = True

    def wake(self) -> None:
        self.woken += 1

    def stop(self) -> None:
        self.running = False


class Item:
    timeout = 8.0

    def __init__(self, every: float | None = 4.0) -> None:
        self.every = every
        self.checks: list[Any] = []

    def check(self, now: float) -> float | None:
        self.checks.append(now)
        return None if self.every is None else now + self.every


def make_engine(worker: Any = None) -> tuple[Engine, Clock, Metrics]:
    clock, metrics = Clock(), Metrics()
    return Engine(cast(Worker, worker or IdleWorker()), metrics, clock), clock, metrics


def test_an_item_is_checked_at_once_and_then_when_it_asked_for() -> None:
    engine, clock, _ = make_engine()
    item = Item()
    engine.watch(item)
    clock.now += SLOT
    engine.run_once()
    assert item.checks == [clock.now]
    first = clock.now
    clock.now += 3.9
    engine.run_once()
    assert item.checks == [first]
    clock.now += 0.2
    engine.run_once()
    assert len(item.checks) == 2


def test_an_item_that_wants_no_further_check_gets_none() -> None:
    engine, clock, _ = make_engine()
    item = Item(every=None)
    engine.watch(item)
    clock.now += SLOT
    assert engine.run_once() is None
    assert list(engine.items()) == []


def test_a_forgotten_item_leaves_no_deadline() -> None:
    engine, clock, _ = make_engine()
    item = Item()
    engine.watch(item)
    clock.now += SLOT
    engine.run_once()
    engine.forget(item)
    assert engine.run_once() is None


def test_the_engine_keeps_nothing_alive() -> None:
    engine, clock, _ = make_engine()
    item = Item()
    gone = weakref.ref(item)
    engine.watch(item)
    clock.now += SLOT
    engine.run_once()
    del item
    gc.collect()
    assert gone() is None
    clock.now += 10
    assert engine.run_once() is None


def test_an_item_whose_watch_is_over_may_be_forgotten_and_vanish_at_once() -> None:
    """A lost link, closed by its application and collected before the engine's next turn."""
    engine, clock, _ = make_engine()
    item, other = Item(every=None), Item()
    engine.watch(item)
    engine.watch(other)
    clock.now += SLOT
    engine.run_once()
    engine.forget(item)
    del item
    gc.collect()
    clock.now += 5.0
    engine.run_once()
    assert len(other.checks) == 2


def test_a_broken_item_does_not_end_the_heartbeats_of_the_others() -> None:
    engine, clock, metrics = make_engine()

    class Broken(Item):
        def check(self, now: float) -> NoReturn:
            raise RuntimeError("broken")

    broken, sound = Broken(), Item()
    engine.watch(broken)
    engine.watch(sound)
    clock.now += SLOT
    engine.run_once()
    assert len(sound.checks) == 1
    assert [event.kind for event in metrics.take_events()] == ["check-failed"]


def test_lateness_is_measured_against_the_deadline() -> None:
    engine, clock, _ = make_engine()
    item = Item()
    engine.watch(item)
    clock.now += SLOT
    engine.run_once()
    clock.now += 4.0 + 0.5
    engine.run_once()
    assert abs(engine.lateness[-1] - 0.5) < 1e-6


def test_a_real_thread_checks_on_its_own_and_sleeps_when_nothing_is_left() -> None:
    engine = Engine(PthreadWorker(), Metrics())
    item = Item(every=0.02)
    engine.watch(item)
    wait_until(lambda: len(item.checks) > 5)
    engine.forget(item)
    wait_until(lambda: engine.next_due is None)
    seen, wakeups = len(item.checks), engine.wakeups
    other = Item(every=None)
    engine.watch(other)
    wait_until(lambda: other.checks)
    assert len(item.checks) == seen
    # One iteration for the other item's arrival, one for its check: none for the forgotten one.
    assert engine.wakeups - wakeups <= 3
    engine.worker.stop()
    wait_until(lambda: not engine.worker.running)


def test_a_watchdog_accepts_runs_in_time() -> None:
    engine, clock, metrics = make_engine()
    item = Item()
    engine.watch(item)
    reported = []
    watchdog = Watchdog(
        engine, item.timeout, metrics, lambda seconds: bool(reported.append(seconds))
    )
    for _ in range(20):
        clock.now += 0.5
        engine.run_once()
        assert watchdog.check(clock.now) > clock.now  # type: ignore[operator]
    assert reported == []


def test_a_watchdog_notices_a_hub_that_never_ran_first() -> None:
    engine, clock, metrics = make_engine()
    item = Item()
    engine.watch(item)
    reported = []
    watchdog = Watchdog(engine, item.timeout, metrics, lambda late: reported.append(late) or True)
    grace = item.timeout * LATE_SHARE
    assert watchdog.check(clock.now + grace * 0.9) is not None
    assert reported == []
    assert watchdog.check(clock.now + grace * 1.1) is None
    assert len(reported) == 1
    assert [event.kind for event in metrics.take_events()] == ["worker-late"]


def test_a_watchdog_that_may_not_move_reports_each_lateness_once() -> None:
    engine, clock, metrics = make_engine()
    item = Item()
    engine.watch(item)
    watchdog = Watchdog(engine, item.timeout, metrics, lambda _: False)
    for _ in range(5):
        clock.now += 2
        assert watchdog.check(clock.now) is not None
    assert [event.kind for event in metrics.take_events()] == ["worker-late"]


def test_a_watchdog_that_was_late_itself_lets_the_hub_catch_up_once() -> None:
    """The whole process was stopped: both are late, and either may go on first."""
    engine, clock, metrics = make_engine()
    item, reported = Item(), []
    engine.watch(item)
    watchdog = Watchdog(engine, item.timeout, metrics, lambda late: reported.append(late) or True)
    grace = item.timeout * LATE_SHARE
    engine.run_once()
    clock.now = watchdog.check(clock.now) + 60  # type: ignore[operator]
    again = watchdog.check(clock.now)
    assert again == clock.now + grace
    engine.run_once()
    planned = watchdog.check(again)
    assert planned > again  # type: ignore[operator]
    clock.now = planned + 60  # type: ignore[operator]
    clock.now = watchdog.check(clock.now)  # type: ignore[assignment]
    assert reported == []
    assert watchdog.check(clock.now) is None
    assert len(reported) == 1


def test_a_watchdog_ends_with_its_engine() -> None:
    engine, clock, metrics = make_engine()
    watchdog = Watchdog(engine, 8.0, metrics, lambda _: True)
    del engine
    gc.collect()
    assert watchdog.check(clock.now) is None


def test_a_retired_engine_watches_nothing_until_the_next_item() -> None:
    engine, clock, _ = make_engine()
    engine.watch(Item())
    clock.now += SLOT
    engine.run_once()
    engine.watch(Item())
    engine.retire()
    assert (engine.next_due, engine.worker.running) == (None, False)
    clock.now += 10
    assert engine.run_once() is None
    later = Item()
    engine.watch(later)
    assert engine.worker.running
    clock.now += SLOT
    engine.run_once()
    assert len(later.checks) == 1


class Interrupted(BaseException):
    """As a green library's timeout, which may hit a check anywhere."""


def test_an_interrupted_run_loses_none_of_the_items_that_are_due() -> None:
    engine, clock, _ = make_engine()

    class Interrupts(Item):
        def check(self, now: float) -> float | None:
            super().check(now)
            if len(self.checks) == 1:
                raise Interrupted
            return now + self.every  # type: ignore[operator]

    items = [Interrupts() for _ in range(5)]
    for item in items:
        engine.watch(item)
    clock.now += SLOT
    for _ in items:
        with pytest.raises(Interrupted):
            engine.run_once()
    assert engine.run_once() > clock.now  # type: ignore[operator]
    assert [len(item.checks) for item in items] == [1] * 5
    clock.now += 4.0
    engine.run_once()
    assert [len(item.checks) for item in items] == [2] * 5


@needs_os_threads
def test_a_worker_that_dies_has_a_successor_that_watches_what_it_watched() -> None:
    engine = Engine(PthreadWorker(), Metrics())

    class Deadly(Item):
        def check(self, now: float) -> float | None:
            super().check(now)
            if len(self.checks) == 1:
                raise SystemExit
            return now + self.every  # type: ignore[operator]

    deadly, other = Deadly(every=0.02), Item(every=0.02)
    engine.watch(other)
    engine.watch(deadly)
    wait_until(lambda: len(deadly.checks) > 3)
    seen = len(other.checks)
    wait_until(lambda: len(other.checks) > seen + 3)
    assert engine.worker.running
    engine.retire()
    wait_until(lambda: not engine.worker.running)


@needs_os_threads
def test_a_thread_that_is_stuck_finds_itself_replaced_and_ends() -> None:
    engine = Engine(PthreadWorker(), Metrics())
    stuck, go_on, ended = threading.Event(), threading.Event(), threading.Event()
    threads = set()

    class Blocking(Item):
        def check(self, now: float) -> float | None:
            threads.add(threading.get_ident())
            if not stuck.is_set():
                stuck.set()
                assert go_on.wait(20)
                ended.set()
            return super().check(now)

    blocking, other = Blocking(every=0.02), Item(every=0.02)
    engine.watch(blocking)
    assert stuck.wait(10)
    engine.watch(other)
    worker: Any = engine.worker
    assert "wait" in worker.where()
    old = worker._thread
    engine.restart(lambda: [blocking, other])
    wait_until(lambda: len(other.checks) > 3 and len(blocking.checks) > 3)
    assert not old.ended
    go_on.set()
    assert ended.wait(10)
    wait_until(lambda: old.ended)
    assert len(threads) == 2
    seen = len(other.checks)
    wait_until(lambda: len(other.checks) > seen + 3)
    engine.retire()
    wait_until(lambda: not engine.worker.running)


def test_a_worker_that_is_replaced_while_it_starts_watches_what_its_successor_would() -> None:
    """Two threads find at the same time that there is no worker."""

    class Overtaken(IdleWorker):
        def start(self, turn: Callable[..., Any]) -> None:
            if not overtaken:
                overtaken.append(True)
                engine.restart(lambda: [item])
            self.turn = turn
            super().start(turn)

    overtaken: list[Any] = []
    engine, clock, _ = make_engine(Overtaken())
    item = Item()
    engine.watch(item)
    clock.now += SLOT
    worker: Any = engine.worker
    worker.turn()
    assert len(item.checks) == 1


def test_a_worker_that_is_replaced_hands_on_what_it_has_just_taken() -> None:
    class Commands(deque[tuple[weakref.ReferenceType[Any], bool]]):
        def popleft(self) -> tuple[weakref.ReferenceType[Any], bool]:
            command = super().popleft()
            if not replaced:
                replaced.append(True)
                engine.restart(list)
            return command

    replaced: list[Any] = []
    engine, clock, _ = make_engine()
    engine._commands = Commands()
    item = Item()
    engine.watch(item)
    worker: Any = engine.worker
    woken = worker.woken
    assert engine.run_once() is None
    assert worker.woken > woken
    clock.now += SLOT
    engine.run_once()
    assert len(item.checks) == 1


def test_a_finalizer_that_watches_while_its_thread_starts_the_worker_does_not_wait() -> None:
    """It runs wherever its thread allocates, and may open a connection."""

    class Finalizing(IdleWorker):
        def start(self, turn: Callable[..., Any]) -> None:
            if not watched:
                watched.append(Item())
                engine.watch(watched[0])
            super().start(turn)

    watched: list[Any] = []
    engine, clock, _ = make_engine(Finalizing())
    item = Item()
    engine.watch(item)
    clock.now += SLOT
    engine.run_once()
    assert [len(each.checks) for each in (item, *watched)] == [1, 1]


@pytest.mark.skipif(MODEL != "native", reason="a signal handler of Python's own")
def test_no_exception_at_any_instant_keeps_the_worker_from_being_started() -> None:
    engines = [make_engine()[0]]

    def started() -> None:
        before = engines[-1]
        engines.append(make_engine()[0])
        thread = threading.Thread(target=before.start)
        thread.start()
        thread.join(30)
        assert before.worker.running

    assert interrupt_everywhere(lambda: engines[-1].start(), started)


@pytest.mark.skipif(MODEL != "native", reason="a signal handler of Python's own")
def test_a_thread_whose_start_was_interrupted_is_started_again() -> None:
    """Else it is taken to run: its links would have no heartbeats until it is overdue by T."""
    workers: list[Any] = [PthreadWorker()]
    turns: list[int] = []

    def run_once() -> None:
        turns.append(threading.get_ident())

    def started() -> None:
        before, called = workers[-1], len(turns)
        workers.append(PthreadWorker())
        if not before.running:
            before.start(run_once)
        wait_until(lambda: len(turns) > called or before._thread.ident in turns)
        before.stop()

    assert interrupt_everywhere(lambda: workers[-1].start(run_once), started)
    workers[-1].stop()
