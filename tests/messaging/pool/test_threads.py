"""A pool with concurrent callers, in threads of the concurrency model under test."""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import pytest

from hbshim.errors import ConnectError, PoolError, PoolTimeoutError
from hbshim.messaging.pool import Pool
from tests.messaging.pool.things import Shop, Thing
from tests.waiting import wait_until

LONG = 60.0


@pytest.fixture
def shop() -> Shop:
    return Shop()


class Caller:
    """A thread that acquires a connection and records the result."""

    def __init__(
        self,
        pool: Pool[Thing],
        outcomes: list[Any],
        name: str,
        timeout: float = LONG,
    ) -> None:
        self.outcomes = outcomes
        self.name = name
        self.thread = threading.Thread(target=self.ask, args=(pool, timeout), daemon=True)
        before = pool.statistics().waiting
        self.thread.start()
        if timeout == LONG:
            wait_until(lambda: pool.statistics().waiting > before)

    def ask(self, pool: Pool[Thing], timeout: float) -> None:
        try:
            came: object = pool.acquire(timeout)
        except (PoolError, PoolTimeoutError, ConnectError) as error:
            came = type(error)
        self.outcomes.append((self.name, came))


def full(shop: Shop, **settings: Any) -> tuple[Pool[Thing], list[Thing]]:
    """Return a pool of two with both connections checked out. It uses the real clock."""
    pool = shop.pool(max_size=2, max_overflow=0, clock=time.monotonic, **settings)
    return pool, [pool.acquire(), pool.acquire()]


def join(*callers: Caller) -> None:
    for caller in callers:
        caller.thread.join(LONG)
        assert not caller.thread.is_alive()


def test_waiters_are_served_in_order(shop: Shop) -> None:
    pool, (first, second) = full(shop)
    outcomes: list[Any] = []
    callers = [Caller(pool, outcomes, name) for name in "abc"]
    pool.release(first)
    wait_until(lambda: len(outcomes) == 1)
    pool.release(second)
    wait_until(lambda: len(outcomes) == 2)
    pool.release(first)
    join(*callers)
    assert outcomes == [("a", first), ("b", second), ("c", first)]
    assert pool.statistics().longest_wait > 0


def test_a_waiter_that_timed_out_is_skipped(shop: Shop) -> None:
    pool, (first, _second) = full(shop)
    outcomes: list[Any] = []
    hasty = Caller(pool, outcomes, "hasty", timeout=0.01)
    join(hasty)
    patient = Caller(pool, outcomes, "patient")
    pool.release(first)
    join(patient)
    assert outcomes == [("hasty", PoolTimeoutError), ("patient", first)]
    assert pool.statistics().checked_out == 2


def test_a_dead_connection_frees_its_slot_for_the_next_waiter(shop: Shop) -> None:
    pool, (first, _second) = full(shop)
    outcomes: list[Any] = []
    caller = Caller(pool, outcomes, "a")
    first.dead = True
    pool.release(first)
    join(caller)
    assert outcomes == [("a", shop.made[2])]
    assert first.closed


def test_a_connection_that_breaks_during_the_handover_is_replaced(shop: Shop) -> None:
    pool, (first, _second) = full(shop)
    outcomes: list[Any] = []
    caller = Caller(pool, outcomes, "a")
    looks = iter([False])
    ordinary = pool._is_dead
    pool._is_dead = lambda thing: next(looks, True) if thing is first else ordinary(thing)
    pool.release(first)
    join(caller)
    assert outcomes == [("a", shop.made[2])]


def test_an_error_of_create_gives_the_slot_to_the_next_waiter(shop: Shop) -> None:
    pool, (first, _second) = full(shop)
    outcomes: list[Any] = []
    callers = [Caller(pool, outcomes, name) for name in "ab"]
    makers = iter([shop.create])

    def fail_once(timeout: float) -> Thing:
        if next(makers, None):
            raise ConnectError("no listener")
        return shop.create(timeout)

    pool._create = fail_once
    pool.release(first, broken=True)
    join(*callers)
    assert outcomes == [("a", ConnectError), ("b", shop.made[2])]


def test_close_wakes_up_all_waiters(shop: Shop) -> None:
    pool, checked_out = full(shop)
    outcomes: list[Any] = []
    callers = [Caller(pool, outcomes, name) for name in "ab"]
    pool.close()
    join(*callers)
    assert sorted(outcomes) == [("a", PoolError), ("b", PoolError)]
    for thing in checked_out:
        pool.release(thing)
    assert pool.statistics().size == 0
    assert shop.open == []


def test_a_slow_create_blocks_no_other_caller(shop: Shop) -> None:
    pool = shop.pool(max_size=2, max_overflow=0, clock=time.monotonic)
    idle = pool.acquire()
    going_on = threading.Event()
    ordinary = pool._create
    pool._create = lambda timeout: (going_on.wait(LONG), ordinary(timeout))[1]
    outcomes: list[Any] = []
    slow = Caller(pool, outcomes, "slow", timeout=LONG - 1)
    wait_until(lambda: pool.statistics().size == 2)
    pool.release(idle)
    assert pool.acquire(timeout=5) is idle
    assert outcomes == []
    going_on.set()
    join(slow)
    assert outcomes == [("slow", shop.made[1])]


class Careful:
    """A thing that notices when two have it at once."""

    def __init__(self) -> None:
        self.user = None
        self.dead = False
        self.closed = False


def test_many_threads_share_and_lose_no_connection() -> None:
    alive = []
    failures = []
    in_use = {}
    dice = random.Random(20)

    def create(_timeout: object) -> Careful:
        if dice.random() < 0.1:
            raise ConnectError("no listener")
        alive.append(Careful())
        return alive[-1]

    def close(thing: Careful) -> None:
        thing.closed = True
        alive.remove(thing)

    pool = Pool(create, close, lambda thing: thing.dead, max_size=3, max_overflow=2)
    stop = time.monotonic() + 1.5

    def hurry(name: int) -> None:
        served = given_up = 0
        while time.monotonic() < stop or not (served and given_up):
            assert time.monotonic() < stop + LONG
            try:
                thing = pool.acquire(timeout=dice.choice([0, 0.0005, 0.002, 5]))
            except PoolTimeoutError:
                given_up += 1
                continue
            except ConnectError:
                continue
            served += 1
            assert thing.user is None
            assert not thing.closed
            thing.user = name  # type: ignore[assignment]
            in_use[name] = thing
            assert len(in_use) <= 5
            time.sleep(dice.choice([0, 0, 0.001]))
            del in_use[name]
            thing.user = None
            thing.dead = dice.random() < 0.05
            pool.release(thing, broken=dice.random() < 0.05)

    def watched(name: int) -> None:
        try:
            hurry(name)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=watched, args=(n,), daemon=True) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * LONG)
    assert failures == []
    seen = pool.statistics()
    assert seen.checked_out == seen.waiting == 0
    assert seen.size == seen.idle == len(alive)
    assert seen.timeouts
    assert seen.dead
