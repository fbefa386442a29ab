"""What a pool holds, who has it and who waits; and the decisions, each under one lock."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import Generic, Literal, TypeAlias, TypeVar

from hbshim.errors import PoolError

T = TypeVar("T")

Reason: TypeAlias = Literal["recycled", "stale", "dead"]


@dataclass(frozen=True)
class PoolStatistics:
    """What a pool holds, and what it has done in this process.

    Attributes:
        size: things that are there or being made.
        idle: of these, waiting to be lent.
        lent: of these, in use.
        waiting: callers in line.
        created: made so far.
        closed: closed so far; of these
        recycled: because they were too old,
        stale: because nobody had used them for too long,
        dead: because they no longer worked, or may not: their user was interrupted.
        timeouts: callers who waited in vain.
        longest_wait: seconds that a caller stood in line at most.
    """

    size: int
    idle: int
    lent: int
    waiting: int
    created: int
    closed: int
    recycled: int
    stale: int
    dead: int
    timeouts: int
    longest_wait: float


class Entry(Generic[T]):
    """One thing, and when it was made and last given back."""

    __slots__ = ("created", "item", "released")

    def __init__(self, item: T, now: float) -> None:
        self.item = item
        self.created = self.released = now


class Waiter(Generic[T]):
    """A caller in line, behind his gate until somebody serves him."""

    __slots__ = ("_token", "entry", "gate")

    def __init__(self) -> None:
        self._token = [True]
        self.gate = threading.Lock()
        self.gate.acquire()
        # None, once served, is a place: the right to make one.
        self.entry: Entry[T] | None = None

    @property
    def waits(self) -> bool:
        """Nobody has served him, nor has he given up."""
        return bool(self._token)

    def decide(self) -> bool:
        """Whether the caller of this is the one who ends the wait; atomic, without a lock."""
        try:
            return self._token.pop()
        except IndexError:
            return False

    def serve(self, entry: Entry[T] | None) -> bool:
        """Hand him one, or a place, unless he has given up."""
        if not self.decide():
            return False
        self.entry = entry
        self.gate.release()
        return True


class State(Generic[T]):
    """What a pool holds in one process; its methods are called with the lock held.

    Parameters:
        capacity: how many there may be; `max_size` of them idle.
        stale: seconds since its return after which one is closed.
    """

    def __init__(self, pid: int, max_size: int, capacity: int, stale: float) -> None:
        self.pid = pid
        self.max_size = max_size
        self.capacity = capacity
        self.stale_after = stale
        self.lock = threading.Lock()
        self.is_closed = False
        self.size = 0
        # In order of their return: at the left what nobody has used for the longest time.
        self.idle: deque[Entry[T]] = deque()
        self.lent: dict[int, Entry[T]] = {}
        self.waiters: deque[Waiter[T]] = deque()
        # Both are filled and emptied by anybody: what is given back, with whether it is
        # dead, a place being None; and what is to be closed.
        self.returned: deque[tuple[Entry[T] | None, bool]] = deque()
        self.leaving: deque[Entry[T]] = deque()
        self.created = self.closed = self.timeouts = 0
        self.reasons: dict[Reason, int] = {"recycled": 0, "stale": 0, "dead": 0}
        self.longest_wait = 0.0
        # The error of the last `create`, and when; None where it succeeded.
        self.refused: tuple[Exception, float] | None = None
        # What was lent in the parent, and by process id what is held in children: the
        # first two threads of a child agree here on one state.
        self.inherited: dict[int, Entry[T]] = {}
        self.heirs: dict[int, State[T]] = {}

    def take(self, now: float) -> Entry[T] | Waiter[T] | None:
        """One that is idle, or else a place, or else one in the line."""
        if self.returned:
            self.sort_returned()
        idle = self.idle
        while idle and now - idle[0].released >= self.stale_after:
            self.size -= 1
            self.discard(idle.popleft(), "stale")
        if idle:
            entry = idle.pop()
            self.lent[id(entry.item)] = entry
            return entry
        # Of a closed pool a place is had at once, and given back on seeing that.
        if self.size < self.capacity or self.is_closed:
            self.size += 1
            return None
        waiter = Waiter[T]()
        self.waiters.append(waiter)
        return waiter

    def replace(self, worn: Entry[T], reason: Reason) -> Entry[T] | None:
        """One that is idle for one that is worn, or else its place."""
        del self.lent[id(worn.item)]
        self.discard(worn, reason)
        if not self.idle:
            return None
        self.size -= 1
        entry = self.idle.pop()
        self.lent[id(entry.item)] = entry
        return entry

    def enlist(self, entry: Entry[T]) -> None:
        """Count one that was made in the place of who has it now."""
        self.created += 1
        self.lent[id(entry.item)] = entry

    def sort_returned(self) -> None:
        """Give what was given back to those who wait, or keep it, or have it closed."""
        while self.returned:
            entry, dead = self.returned.popleft()
            if entry is not None and not dead and not self.is_closed:
                if self._serve(entry):
                    continue
                if len(self.idle) < self.max_size:
                    self.idle.append(entry)
                    continue
            if entry is not None:
                self.discard(entry, "dead" if dead else None)
            if not self._serve(None):
                self.size -= 1

    def _serve(self, entry: Entry[T] | None) -> bool:
        while self.waiters:
            waiter = self.waiters.popleft()
            if entry is not None:
                self.lent[id(entry.item)] = entry
            if waiter.serve(entry):
                return True
            if entry is not None:
                del self.lent[id(entry.item)]
        return False

    def refuse_all(self) -> None:
        """Close: what is idle leaves, and whoever waits is let through to see that."""
        self.is_closed = True
        self.returned.extend((entry, False) for entry in self.idle)
        self.idle.clear()
        self.sort_returned()
        while self._serve(None):
            # A place of his own, which he gives back.
            self.size += 1

    def discard(self, entry: Entry[T], reason: Reason | None = None) -> None:
        """Have one closed; its place is the business of who calls."""
        self.closed += 1
        if reason is not None:
            self.reasons[reason] += 1
        self.leaving.append(entry)

    def statistics(self) -> PoolStatistics:
        """As it is now."""
        # Copied in one go: who gives up leaves the line without the lock.
        line = tuple(self.waiters)
        return PoolStatistics(
            size=self.size,
            idle=len(self.idle),
            lent=len(self.lent),
            waiting=sum(waiter.waits for waiter in line),
            created=self.created,
            closed=self.closed,
            timeouts=self.timeouts,
            longest_wait=self.longest_wait,
            **self.reasons,
        )


def closed() -> PoolError:
    """For those who ask a closed pool."""
    return PoolError("the pool is closed; make another")


def not_lent() -> PoolError:
    """For those who give back what they do not have."""
    return PoolError("what was given back is not lent; give each back once, to the pool it is of")
