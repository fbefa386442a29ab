"""Random sequences of acquire, wait, time out and release, checked against a model."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hbshim.errors import ConnectError, PoolError, PoolTimeoutError
from hbshim.messaging.pool.state import Claim, Entry, Returned, State
from tests.messaging.pool.things import Shop, Thing

MAX_SIZE, OVERFLOW, STALE, RECYCLE = 2, 2, 10.0, 25.0
CAPACITY = MAX_SIZE + OVERFLOW


class OneCaller(RuleBasedStateMachine):
    """A pool with a single caller."""

    def __init__(self) -> None:
        super().__init__()
        self.shop = Shop()
        self.pool = self.shop.pool(
            max_size=MAX_SIZE, max_overflow=OVERFLOW, stale=STALE, recycle=RECYCLE
        )
        self.checked_out: list[Any] = []
        self.idle: list[Any] = []  # in order of return
        self.born: dict[Thing, float] = {}
        self.returned: dict[str, Any] = {}
        self.is_closed = False

    def is_usable(self, thing: Thing) -> bool:
        return not thing.dead and self.shop.now - self.born[thing] < RECYCLE

    @precondition(lambda self: len(self.checked_out) < CAPACITY and not self.is_closed)
    @rule(shut=st.booleans())
    def acquire(self, shut: bool) -> None:
        fresh = [t for t in self.idle if self.shop.now - self.returned[t] < STALE]
        worn = []
        while fresh and not self.is_usable(fresh[-1]):
            worn.append(fresh.pop())
        self.shop.shut = shut
        before = len(self.shop.made)
        try:
            thing = self.pool.acquire(timeout=5)
        except ConnectError:
            assert shut
            assert not fresh
        else:
            if fresh:
                assert thing is fresh.pop()
            else:
                assert thing is self.shop.made[before]
                self.born[thing] = self.shop.now
            assert not thing.dead
            assert thing not in self.checked_out
            self.checked_out.append(thing)
        self.idle = fresh
        assert all(thing.closed for thing in worn)

    @precondition(lambda self: len(self.checked_out) == CAPACITY and not self.is_closed)
    @rule()
    def acquire_beyond_capacity(self) -> None:
        try:
            self.pool.acquire(timeout=0.0001)
        except PoolTimeoutError:
            return
        raise AssertionError("checked out more than the capacity")

    @precondition(lambda self: self.is_closed)
    @rule()
    def acquire_of_a_closed_pool(self) -> None:
        try:
            self.pool.acquire(timeout=5)
        except PoolError:
            return
        raise AssertionError("acquired from a closed pool")

    @precondition(lambda self: self.checked_out)
    @rule(which=st.integers(0, CAPACITY), broken=st.booleans())
    def release(self, which: int, broken: bool) -> None:
        thing = self.checked_out.pop(which % len(self.checked_out))
        self.pool.release(thing, broken)
        kept = not (broken or thing.dead or self.is_closed or len(self.idle) == MAX_SIZE)
        assert thing.closed is not kept
        if kept:
            self.returned[thing] = self.shop.now
            self.idle.append(thing)

    @precondition(lambda self: self.shop.open)
    @rule(which=st.integers(0, CAPACITY))
    def die(self, which: int) -> None:
        self.shop.open[which % len(self.shop.open)].dead = True

    @rule(seconds=st.floats(0, 30))
    def pass_time(self, seconds: float) -> None:
        self.shop.now += seconds

    @precondition(lambda self: self.checked_out)
    @rule()
    def close(self) -> None:
        self.pool.close()
        self.is_closed = True
        self.idle = []

    @invariant()
    def the_figures_agree(self) -> None:
        seen = self.pool.statistics()
        assert (seen.checked_out, seen.idle) == (len(self.checked_out), len(self.idle))
        assert seen.size == seen.checked_out + seen.idle == len(self.shop.open)
        assert (seen.created, seen.closed) == (
            len(self.shop.made),
            len(self.shop.made) - len(self.shop.open),
        )
        assert seen.waiting == 0
        assert seen.recycled + seen.stale + seen.dead <= seen.closed


class ManyCallers(RuleBasedStateMachine):
    """The state with many callers, one step of a caller at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.state: State[Any] = State(0, MAX_SIZE, CAPACITY, float("inf"))
        self.line: list[Any] = []  # waiters in order of arrival
        self.makers = 0
        self.holders: list[Any] = []

    def settle(self, entry: Entry[Any] | None, dead: bool) -> None:
        """Release, and check that the first waiter is served."""
        first = next((waiter for waiter in self.line if waiter.is_waiting), None)
        self.state.returned.append(Returned(entry, dead))
        self.state.process_returned()
        if first is None:
            return
        assert not first.is_waiting, "another waiter was served before the first"
        assert first.entry is (None if dead else entry)
        self.line.remove(first)
        if first.entry is None:
            self.makers += 1
        else:
            self.holders.append(first.entry)

    @rule()
    def take(self) -> None:
        waiting = any(waiter.is_waiting for waiter in self.line)
        claim = Claim[Thing]()
        self.state.take(0.0, claim)
        assert claim.taken is (claim.waiter is None)
        if claim.waiter is not None:
            self.line.append(claim.waiter)
            return
        assert not waiting, "served before the waiters"
        if claim.entry is None:
            self.makers += 1
        else:
            self.holders.append(claim.entry)

    @precondition(lambda self: self.makers)
    @rule(succeeds=st.booleans())
    def make(self, succeeds: bool) -> None:
        self.makers -= 1
        if succeeds:
            claim = Claim[Thing]()
            claim.opened = Thing(self.state.created)
            self.state.add_created(claim, 0.0)
            self.holders.append(claim.entry)
        else:
            self.settle(None, True)

    @precondition(lambda self: self.holders)
    @rule(which=st.integers(0, CAPACITY), dead=st.booleans())
    def give_back(self, which: int, dead: bool) -> None:
        entry = self.holders.pop(which % len(self.holders))
        del self.state.checked_out[id(entry.item)]
        self.settle(entry, dead)

    @precondition(lambda self: self.line)
    @rule(which=st.integers(0, CAPACITY), removes_itself=st.booleans())
    def time_out(self, which: int, removes_itself: bool) -> None:
        waiter = self.line.pop(which % len(self.line))
        assert waiter.give_up()
        if removes_itself:
            self.state.waiters.remove(waiter)

    @invariant()
    def nothing_is_lost(self) -> None:
        seen = self.state.statistics()
        assert seen.size == seen.idle + len(self.holders) + self.makers <= CAPACITY
        assert seen.checked_out == len(self.holders)
        assert seen.idle <= MAX_SIZE
        assert seen.waiting == len(self.line)
        assert not (seen.waiting and (seen.idle or seen.size < CAPACITY)), "waits for nothing"

    @invariant()
    def no_connection_is_shared(self) -> None:
        held = [*self.holders, *self.state.idle.values(), *self.state.to_close]
        assert len({id(entry) for entry in held}) == len(held)


RUNS = settings(max_examples=60, stateful_step_count=50, database=None)


class TestOneCaller(OneCaller.TestCase):  # type: ignore[misc, valid-type]
    settings = RUNS


class TestManyCallers(ManyCallers.TestCase):  # type: ignore[misc, valid-type]
    settings = RUNS
