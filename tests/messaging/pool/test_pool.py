"""Checkout, reuse, closing and errors of a pool, with one caller at a time."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest

from hbshim.errors import ConnectError, PoolError, PoolTimeoutError
from hbshim.messaging.pool import Pool, PoolStatistics
from hbshim.messaging.pool.state import Claim
from tests.concurrency import MODEL
from tests.interrupts import interrupt, interrupt_everywhere
from tests.messaging.pool.things import Shop, Thing

NOTHING = PoolStatistics(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0)


@pytest.fixture
def shop() -> Shop:
    return Shop()


def take(pool: Pool[Thing], count: int) -> list[Thing]:
    return [pool.acquire() for _ in range(count)]


def give(pool: Pool[Thing], things: list[Thing]) -> None:
    for thing in things:
        pool.release(thing)


def test_connections_are_created_on_demand(shop: Shop) -> None:
    assert shop.pool().statistics() == NOTHING
    assert shop.made == []


def test_a_released_connection_is_reused(shop: Shop) -> None:
    pool = shop.pool()
    first = pool.acquire()
    pool.release(first)
    assert pool.acquire() is first
    assert len(shop.made) == 1


def test_the_connection_released_last_is_used_first(shop: Shop) -> None:
    pool = shop.pool()
    first, second, third = take(pool, 3)
    give(pool, [second, third, first])
    assert take(pool, 3) == [first, third, second]


def test_a_connection_above_max_size_is_closed_at_its_release(shop: Shop) -> None:
    pool = shop.pool(max_size=2, max_overflow=1)
    things = take(pool, 3)
    give(pool, things)
    assert [thing.closed for thing in things] == [False, False, True]
    assert pool.statistics().size == pool.statistics().idle == 2


def test_max_size_plus_overflow_limits_checkouts(shop: Shop) -> None:
    pool = shop.pool(max_size=1, max_overflow=1)
    take(pool, 2)
    with pytest.raises(
        PoolTimeoutError, match=r"of at most 2, 2 are in use, 0 idle .*pool_max_size"
    ):
        pool.acquire(timeout=0.01)
    assert len(shop.made) == 2
    assert pool.statistics().timeouts == 1


def test_create_gets_the_remaining_time(shop: Shop) -> None:
    pool = shop.pool(timeout=30)
    take(pool, 1)
    pool.acquire(timeout=7)
    assert shop.given == [30, 7]


def test_with_timeout_zero_only_an_idle_connection_is_used(shop: Shop) -> None:
    pool = shop.pool()
    with pytest.raises(PoolTimeoutError):
        pool.acquire(timeout=0)
    assert shop.made == []
    give(pool, take(pool, 1))
    assert pool.acquire(timeout=0) is shop.made[0]


def test_a_dead_connection_is_not_checked_out(shop: Shop) -> None:
    pool = shop.pool()
    things = take(pool, 3)
    give(pool, things)
    things[2].dead = things[1].dead = True
    assert pool.acquire() is things[0]
    assert things[1].closed
    assert things[2].closed
    assert pool.statistics().dead == 2


def test_a_connection_is_created_when_all_idle_ones_are_dead(shop: Shop) -> None:
    pool = shop.pool(max_size=2, max_overflow=0)
    things = take(pool, 2)
    give(pool, things)
    for thing in things:
        thing.dead = True
    assert pool.acquire() is shop.made[2]
    assert pool.statistics().size == 1


def test_a_connection_dead_at_its_release_is_closed(shop: Shop) -> None:
    pool = shop.pool()
    thing = pool.acquire()
    thing.dead = True
    pool.release(thing)
    assert thing.closed
    assert pool.statistics().size == 0


def test_a_connection_whose_check_raises_is_dead() -> None:
    shop = Shop()
    shop.is_dead = lambda thing: 1 / 0  # type: ignore[assignment, return-value]
    pool = shop.pool()
    thing = pool.acquire()
    pool.release(thing)
    assert thing.closed


def test_a_connection_released_as_broken_is_closed(shop: Shop) -> None:
    pool = shop.pool()
    thing = pool.acquire()
    pool.release(thing, broken=True)
    assert thing.closed


def test_a_connection_older_than_recycle_is_closed(shop: Shop) -> None:
    pool = shop.pool(recycle=60)
    thing = pool.acquire()
    shop.now += 59
    pool.release(thing)
    assert pool.acquire() is thing
    pool.release(thing)
    shop.now += 1
    assert pool.acquire() is not thing
    assert thing.closed
    assert pool.statistics().recycled == 1


def test_stale_connections_are_closed_at_the_next_checkout(shop: Shop) -> None:
    pool = shop.pool(stale=60)
    things = take(pool, 3)
    give(pool, things[:2])
    shop.now += 59
    pool.release(things[2])
    shop.now += 1
    assert pool.acquire() is things[2]
    assert [thing.closed for thing in things] == [True, True, False]
    assert pool.statistics().stale == 2
    assert pool.statistics().size == 1


def test_a_used_connection_does_not_become_stale(shop: Shop) -> None:
    pool = shop.pool(stale=60)
    for _ in range(5):
        with pool.lease():
            shop.now += 59
    assert len(shop.made) == 1


def test_an_error_of_close_is_ignored(shop: Shop) -> None:
    shop.close = lambda thing: 1 / 0  # type: ignore[assignment]
    pool = shop.pool()
    pool.release(pool.acquire(), broken=True)
    assert pool.statistics().closed == 1


def test_an_error_of_create_is_raised_and_frees_its_slot(shop: Shop) -> None:
    pool = shop.pool(max_size=1, max_overflow=0)
    shop.shut = True
    for _ in range(3):
        with pytest.raises(ConnectError):
            pool.acquire()
    shop.shut = False
    assert pool.acquire() is shop.made[0]


def test_an_error_in_the_block_does_not_close_the_connection(shop: Shop) -> None:
    pool = shop.pool()
    with pytest.raises(ZeroDivisionError), pool.lease():
        _ = 1 / 0
    assert len(shop.open) == 1
    assert pool.statistics().idle == 1


def test_an_interrupted_block_closes_its_connection(shop: Shop) -> None:
    pool = shop.pool()
    with pytest.raises(KeyboardInterrupt), pool.lease():
        raise KeyboardInterrupt
    assert shop.open == []
    assert pool.statistics().size == 0


@pytest.mark.parametrize("where", ["is_dead", "close"])
def test_an_interrupt_during_the_check_frees_the_slot(shop: Shop, where: str) -> None:
    def interrupted(thing: Thing) -> NoReturn:
        raise KeyboardInterrupt

    pool = shop.pool(max_size=1, max_overflow=0)
    pool.release(pool.acquire())
    shop.made[0].dead = True
    ordinary = getattr(pool, f"_{where}")
    setattr(pool, f"_{where}", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pool.acquire()
    setattr(pool, f"_{where}", ordinary)
    assert pool.acquire(timeout=1) is shop.made[1]


@pytest.mark.parametrize("case", ["twice", "foreign"])
def test_releasing_what_is_not_checked_out_raises(shop: Shop, case: str) -> None:
    pool = shop.pool()
    thing = pool.acquire()
    pool.release(thing)
    with pytest.raises(PoolError, match="release each connection once"):
        pool.release(thing if case == "twice" else Thing(99))
    assert pool.statistics().idle == 1


def test_a_closed_pool_closes_idle_and_released_connections(shop: Shop) -> None:
    pool = shop.pool()
    checked_out, idle = take(pool, 2)
    pool.release(idle)
    pool.close()
    assert idle.closed
    assert not checked_out.closed
    pool.release(checked_out)
    assert checked_out.closed
    assert pool.statistics().size == 0
    pool.close()


def test_a_closed_pool_raises_at_checkout(shop: Shop) -> None:
    pool = shop.pool(max_size=1, max_overflow=0)
    pool.close()
    for _ in range(2):
        with pytest.raises(PoolError, match="closed"):
            pool.acquire()
    assert shop.made == []
    assert pool.statistics().size == 0


def test_a_connection_created_during_close_is_closed(shop: Shop) -> None:
    pool = shop.pool()
    make = shop.create
    pool._create = lambda timeout: (pool.close(), make(timeout))[1]
    with pytest.raises(PoolError, match="closed"):
        pool.acquire()
    assert shop.made[0].closed
    assert pool.statistics().size == 0


def test_a_collected_generator_releases_while_the_lock_is_held(shop: Shop) -> None:
    """The collector runs where it likes: also in the thread that is deciding just now."""

    def holder(pool: Pool[Thing]) -> Iterator[None]:
        with pool.lease():
            yield

    def abandon_one() -> None:
        generator = holder(pool)
        next(generator)
        cycle: list[object] = [generator]
        cycle.append(cycle)

    pool = shop.pool(max_size=1, max_overflow=0)
    gc.disable()
    try:
        abandon_one()
        done = threading.Event()

        def collect_while_deciding() -> None:
            pool._state.section.run(gc.collect)
            done.set()

        thread = threading.Thread(target=collect_while_deciding, daemon=True)
        thread.start()
        thread.join(30)
    finally:
        gc.enable()
    assert done.is_set(), "the holder of the lock waited for it"
    # GeneratorExit ended the block from outside.
    assert shop.made[0].closed is False
    assert pool.acquire(timeout=5) is shop.made[1]
    assert shop.made[0].closed


def test_statistics(shop: Shop) -> None:
    pool = shop.pool(max_size=2, max_overflow=1)
    things = take(pool, 3)
    give(pool, things[:1])
    with contextlib.suppress(PoolTimeoutError):
        take(pool, 1)
        pool.acquire(timeout=0.001)
    seen = pool.statistics()
    assert (seen.size, seen.idle, seen.checked_out, seen.waiting) == (3, 0, 3, 0)
    assert (seen.created, seen.closed, seen.timeouts) == (3, 0, 1)


def test_a_timeout_names_the_latest_error_of_create(shop: Shop) -> None:
    """The timeout reports that error instead of advising a larger pool."""
    pool = shop.pool(max_size=1, max_overflow=0)
    shop.shut = True
    with pytest.raises(ConnectError):
        pool.acquire()
    with pytest.raises(PoolTimeoutError, match="connection refused") as late:
        pool.acquire(timeout=0)
    assert isinstance(late.value.__cause__, ConnectError)
    assert "pool_max_size" not in str(late.value)
    # After a successful create, the advice is given again.
    shop.shut = False
    thing = pool.acquire()
    with pytest.raises(PoolTimeoutError, match="pool_max_size"):
        pool.acquire(timeout=0)
    pool.release(thing)


def test_a_caller_closes_for_a_limited_time(shop: Shop) -> None:
    """As behind a network that does not answer: each takes its time to be closed."""
    pool = shop.pool(max_size=10, max_overflow=0, stale=5)
    give(pool, take(pool, 10))
    close, shop.close = shop.close, None  # type: ignore[assignment]

    def slowly(thing: Thing) -> None:
        shop.now += 0.4
        close(thing)

    pool._close = slowly
    shop.now += 10
    began = shop.now
    pool.release(pool.acquire())
    assert shop.now - began <= 1.0
    for _ in range(10):
        pool.release(pool.acquire())
    assert all(thing.closed for thing in shop.made[:10])
    give(pool, take(pool, 3))
    pool.close()
    assert not shop.open


@pytest.mark.skipif(MODEL != "native", reason="a signal handler of Python's own")
def test_no_exception_leaves_the_lock_held(shop: Shop) -> None:
    """Every later acquire would wait for it without an end."""
    # What is acquired has no owner that returns it after an interrupt between the two.
    pool, left_taken = shop.pool(max_size=2000), []

    def use() -> None:
        pool.release(pool.acquire(1))

    def look() -> None:
        section: Any = pool._state.section
        left_taken.append(section.occupied or section._lock._is_owned())

    assert interrupt(use, look, times=1000) == 1000
    assert not any(left_taken)


@pytest.mark.skipif(MODEL != "native", reason="a signal handler of Python's own")
@pytest.mark.parametrize("idle", [True, False], ids=["one idle", "none yet"])
def test_no_exception_at_any_instant_of_an_acquire_costs_a_slot(shop: Shop, idle: bool) -> None:
    pool = shop.pool(max_size=1, max_overflow=0)
    if idle:
        pool.release(pool.acquire())
    acquired: list[Thing] = []

    def after() -> None:
        # The only slot is free again at once.
        thing = pool.acquire(timeout=0.001)
        statistics = pool.statistics()
        assert (statistics.size, statistics.checked_out) == (1, 1)
        pool.release(thing, broken=not idle)

    assert interrupt_everywhere(lambda: acquired.append(pool.acquire(1)), after) > 5
    assert len(acquired) == 1


@pytest.mark.skipif(MODEL != "native", reason="a signal handler of Python's own")
def test_no_exception_as_old_connections_are_replaced_costs_a_slot(shop: Shop) -> None:
    pool = shop.pool(max_size=3, max_overflow=0, recycle=60)

    def fill() -> None:
        for thing in take(pool, 3):
            pool.release(thing)

    def replace() -> None:
        shop.now += 60
        with pool.lease(1):
            pass

    def after() -> None:
        gc.collect()
        # All slots are free again at once.
        assert pool.statistics().checked_out == 0
        fill()

    fill()
    assert interrupt_everywhere(replace, after) > 5
    assert pool.statistics().recycled > 15


@pytest.mark.skipif(MODEL != "native", reason="a signal handler of Python's own")
def test_no_exception_at_any_instant_of_a_wait_costs_a_slot(shop: Shop) -> None:
    pool = shop.pool(max_size=1, max_overflow=0)
    thing = pool.acquire()

    def wait() -> None:
        with contextlib.suppress(PoolTimeoutError):
            pool.acquire(0.001)

    def after() -> None:
        statistics = pool.statistics()
        assert (statistics.size, statistics.checked_out, statistics.waiting) == (1, 1, 0)

    assert interrupt_everywhere(wait, after) > 5
    pool.release(thing)
    assert pool.acquire(timeout=0) is thing


def in_line(pool: Pool[Thing]) -> Claim[Thing]:
    """Have a caller wait; the calling thread does not."""
    claim, state = Claim[Thing](), pool._process_state()
    claim.state = state
    state.section.run(lambda: state.take(0.0, claim), None)
    assert claim.waiter is not None
    return claim


#: What becomes of a connection that is released.
RELEASES = ["kept", "waited for", "dead", "dead and waited for", "above max_size", "closed"]


@pytest.mark.skipif(MODEL != "native", reason="a signal handler of Python's own")
@pytest.mark.parametrize("case", RELEASES)
def test_no_exception_at_any_instant_of_a_release_loses_anything(shop: Shop, case: str) -> None:
    """It is returned once, a waiter is served and woken up, and nothing stays open beside it."""
    pools: list[Pool[Thing]] = []
    claims: list[Claim[Thing]] = []
    things: list[Thing] = []
    owners: list[Claim[Thing]] = []

    def begin() -> None:
        kept = 0 if case == "above max_size" else 1
        pools.append(shop.pool(max_size=kept, max_overflow=1 - kept))
        things.append(pools[-1].acquire())
        owners.append(pools[-1]._state.checked_out[id(things[-1])])
        if case == "closed":
            pools[-1].close()
        if "waited for" in case:
            claims.append(in_line(pools[-1]))
        things[-1].dead = "dead" in case

    def check() -> None:
        pool, thing = pools[-1], things[-1]
        state = pool._state
        if state.checked_out.get(id(thing)) is owners[-1]:
            pool.release(thing)  # the interrupt came before everything else
        assert not state.returned
        if "waited for" in case:
            waiter = claims[-1].waiter
            assert waiter is not None
            assert waiter.wakeup.acquire(False), "served, and not woken up"
            assert waiter.entry is None or waiter.entry.item is thing
            pool.give_up(claims[-1])
        seen = pool.statistics()
        assert (seen.checked_out, seen.waiting) == (0, 0)
        # One whose check was interrupted is not kept.
        assert seen.size == seen.idle <= (case in ("kept", "waited for"))
        pool.close()
        assert shop.open == []
        assert pool.statistics().size == 0
        begin()

    begin()
    assert interrupt_everywhere(lambda: pools[-1].release(things[-1]), check) > 5
    check()


@pytest.mark.skipif(MODEL != "native", reason="a signal handler of Python's own")
@pytest.mark.parametrize("case", ["new", "idle", "stale", "dead", "wait"])
def test_no_exception_at_any_instant_of_a_lease_loses_anything(shop: Shop, case: str) -> None:
    """Not even before the first line of its block, or after the last one."""
    pool = shop.pool(max_size=1, max_overflow=0, stale=100.0)
    held: list[Thing] = []

    def begin() -> None:
        if case != "new":
            pool.release(pool.acquire(1))
        if case == "stale":
            shop.now += 1000
        shop.made[-1:][0].dead = case == "dead" if shop.made else False
        held[:] = [pool.acquire(1)] if case == "wait" else []

    def use() -> None:
        with contextlib.suppress(PoolTimeoutError), pool.lease(0.0001 if held else 1):
            pass

    def check() -> None:
        for thing in held:
            pool.release(thing)
        seen = pool.statistics()
        assert (seen.checked_out, seen.waiting) == (0, 0)
        assert seen.size == seen.idle
        # Nothing is open that the pool does not know, once it has closed what it discarded.
        pool.release(pool.acquire(timeout=1), broken=case == "new")
        assert len(shop.open) == pool.statistics().size
        begin()

    if case == "new":
        pool.acquire(1)
        pool.release(shop.made[0], broken=True)
    begin()
    assert interrupt_everywhere(use, check) > 5
    check()


@pytest.mark.skipif(MODEL != "native", reason="a signal handler of Python's own")
def test_no_exception_at_any_instant_of_a_close_leaves_anything_open(shop: Shop) -> None:
    pools: list[Pool[Thing]] = []
    claims: list[Claim[Thing]] = []

    def begin() -> None:
        pools.append(shop.pool(max_size=2, max_overflow=0))
        things = take(pools[-1], 2)
        claims[:] = [in_line(pools[-1]), in_line(pools[-1])]
        pools[-1].release(things[0])
        pools[-1].release(things[1])
        # Both are served; a third caller returns what it got.
        for claim in claims:
            pools[-1].give_up(claim)
        take(pools[-1], 2)
        claims[:] = [in_line(pools[-1]), in_line(pools[-1])]
        pools[-1].release(shop.open[0], broken=True)
        pools[-1].give_up(claims.pop(0))

    def check() -> None:
        pool = pools[-1]
        pool.close()
        for claim in claims:
            assert claim.waiter is not None
            assert claim.waiter.wakeup.acquire(False)
            pool.give_up(claim)
        for thing in shop.open:
            pool.release(thing)
        assert shop.open == []
        assert pool.statistics().size == 0
        begin()

    begin()
    assert interrupt_everywhere(lambda: pools[-1].close(), check) > 5
    check()


def test_a_signal_handler_that_interrupts_the_pool_gets_an_error_from_it(shop: Shop) -> None:
    """It would wait for its own thread."""
    pool = shop.pool()
    pool.release(pool.acquire())

    def handle() -> None:
        with pytest.raises(PoolError, match="interrupted a call of the same pool"):
            pool.acquire(1)

    pool._state.section.run(handle)
    pool.release(pool.acquire(1))
