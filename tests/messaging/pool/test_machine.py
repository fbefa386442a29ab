"""Any order of taking, waiting, giving up and giving back, checked against plain rules."""

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hbshim.errors import ConnectError, PoolError, PoolTimeoutError
from hbshim.messaging.pool.state import Entry, State, Waiter
from tests.messaging.pool.things import Shop, Thing

MAX_SIZE, OVERFLOW, STALE, RECYCLE = 2, 2, 10.0, 25.0
CAPACITY = MAX_SIZE + OVERFLOW


class OneCaller(RuleBasedStateMachine):
    """A pool as one caller sees it."""

    def __init__(self):
        super().__init__()
        self.shop = Shop()
        self.pool = self.shop.pool(
            max_size=MAX_SIZE, max_overflow=OVERFLOW, stale=STALE, recycle=RECYCLE
        )
        self.lent = []
        self.idle = []  # in order of return
        self.born = {}
        self.returned = {}
        self.is_closed = False

    def is_usable(self, thing):
        return not thing.dead and self.shop.now - self.born[thing] < RECYCLE

    @precondition(lambda self: len(self.lent) < CAPACITY and not self.is_closed)
    @rule(shut=st.booleans())
    def acquire(self, shut):
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
            assert thing not in self.lent
            self.lent.append(thing)
        self.idle = fresh
        assert all(thing.closed for thing in worn)

    @precondition(lambda self: len(self.lent) == CAPACITY and not self.is_closed)
    @rule()
    def acquire_in_vain(self):
        try:
            self.pool.acquire(timeout=0.0001)
        except PoolTimeoutError:
            return
        raise AssertionError("lent more than there may be")

    @precondition(lambda self: self.is_closed)
    @rule()
    def acquire_of_a_closed_pool(self):
        try:
            self.pool.acquire(timeout=5)
        except PoolError:
            return
        raise AssertionError("lent of a closed pool")

    @precondition(lambda self: self.lent)
    @rule(which=st.integers(0, CAPACITY), broken=st.booleans())
    def release(self, which, broken):
        thing = self.lent.pop(which % len(self.lent))
        self.pool.release(thing, broken)
        kept = not (broken or thing.dead or self.is_closed or len(self.idle) == MAX_SIZE)
        assert thing.closed is not kept
        if kept:
            self.returned[thing] = self.shop.now
            self.idle.append(thing)

    @precondition(lambda self: self.shop.open)
    @rule(which=st.integers(0, CAPACITY))
    def die(self, which):
        self.shop.open[which % len(self.shop.open)].dead = True

    @rule(seconds=st.floats(0, 30))
    def pass_time(self, seconds):
        self.shop.now += seconds

    @precondition(lambda self: self.lent)
    @rule()
    def close(self):
        self.pool.close()
        self.is_closed = True
        self.idle = []

    @invariant()
    def the_figures_agree(self):
        seen = self.pool.statistics()
        assert (seen.lent, seen.idle) == (len(self.lent), len(self.idle))
        assert seen.size == seen.lent + seen.idle == len(self.shop.open)
        assert (seen.created, seen.closed) == (
            len(self.shop.made),
            len(self.shop.made) - len(self.shop.open),
        )
        assert seen.waiting == 0
        assert seen.recycled + seen.stale + seen.dead <= seen.closed


class ManyCallers(RuleBasedStateMachine):
    """The decisions about those who wait, with every step of theirs on its own."""

    def __init__(self):
        super().__init__()
        self.state = State(0, MAX_SIZE, CAPACITY, float("inf"))
        self.line = []  # those who wait, as they came
        self.makers = 0
        self.holders = []

    def settle(self, entry, dead):
        """Give back, and say who is to be served."""
        first = next((waiter for waiter in self.line if waiter.waits), None)
        self.state.returned.append((entry, dead))
        self.state.sort_returned()
        if first is None:
            return
        assert not first.waits, "somebody else was served before the first in line"
        assert first.entry is (None if dead else entry)
        self.line.remove(first)
        if first.entry is None:
            self.makers += 1
        else:
            self.holders.append(first.entry)

    @rule()
    def take(self):
        waiting = any(waiter.waits for waiter in self.line)
        taken = self.state.take(0.0)
        if isinstance(taken, Waiter):
            self.line.append(taken)
            return
        assert not waiting, "served before those in line"
        if taken is None:
            self.makers += 1
        else:
            self.holders.append(taken)

    @precondition(lambda self: self.makers)
    @rule(succeeds=st.booleans())
    def make(self, succeeds):
        self.makers -= 1
        if succeeds:
            entry = Entry(Thing(self.state.created), 0.0)
            self.state.enlist(entry)
            self.holders.append(entry)
        else:
            self.settle(None, True)

    @precondition(lambda self: self.holders)
    @rule(which=st.integers(0, CAPACITY), dead=st.booleans())
    def give_back(self, which, dead):
        entry = self.holders.pop(which % len(self.holders))
        del self.state.lent[id(entry.item)]
        self.settle(entry, dead)

    @precondition(lambda self: self.line)
    @rule(which=st.integers(0, CAPACITY), tidily=st.booleans())
    def give_up(self, which, tidily):
        waiter = self.line.pop(which % len(self.line))
        assert waiter.decide()
        if tidily:
            self.state.waiters.remove(waiter)

    @invariant()
    def nothing_is_lost(self):
        seen = self.state.statistics()
        assert seen.size == seen.idle + len(self.holders) + self.makers <= CAPACITY
        assert seen.lent == len(self.holders)
        assert seen.idle <= MAX_SIZE
        assert seen.waiting == len(self.line)
        assert not (seen.waiting and (seen.idle or seen.size < CAPACITY)), "waits for nothing"

    @invariant()
    def nobody_shares(self):
        held = [*self.holders, *self.state.idle, *self.state.leaving]
        assert len({id(entry) for entry in held}) == len(held)


LOOKS = settings(max_examples=60, stateful_step_count=50, deadline=None, database=None)


class TestOneCaller(OneCaller.TestCase):
    settings = LOOKS


class TestManyCallers(ManyCallers.TestCase):
    settings = LOOKS
