"""The state of a pool in one process, and its changes, each made with the lock held."""

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
    """The size of a pool, and its counters since it was first used in this process.

    Attributes:
        size: connections that are open or being opened.
        idle: connections in the pool, ready for use.
        checked_out: connections in use.
        waiting: callers that wait for a connection.
        created: connections created.
        closed: connections closed, for any reason.
        recycled: connections closed because they were older than `recycle`.
        stale: connections closed because they were idle for longer than `stale`.
        dead: connections closed because they did not work, or because their user was interrupted.
        timeouts: callers that timed out.
        longest_wait: the longest time that a caller waited, in seconds.
    """

    size: int
    idle: int
    checked_out: int
    waiting: int
    created: int
    closed: int
    recycled: int
    stale: int
    dead: int
    timeouts: int
    longest_wait: float


class Entry(Generic[T]):
    """One connection, with the time of its creation and of its last release."""

    __slots__ = ("created", "item", "released")

    def __init__(self, item: T, now: float) -> None:
        self.item = item
        self.created = self.released = now


#: The key of how a wait has ended.
_SERVED = "served"


class Waiter(Generic[T]):
    """A caller that waits on the lock `wakeup` until it is served."""

    __slots__ = ("_outcome", "entry", "wakeup")

    def __init__(self) -> None:
        self._outcome: dict[str, bool] = {}
        self.wakeup = threading.Lock()
        self.wakeup.acquire()
        # None, once the wait has ended, means a free slot: the caller may create a connection.
        self.entry: Entry[T] | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether the caller still waits: neither served nor timed out."""
        return not self._outcome

    def end(self, *, served: bool) -> bool:
        """End the wait; return whether it has ended in this way. The first call decides.

        Atomic, without a lock; called again after an interrupt it returns the same.
        """
        return self._outcome.setdefault(_SERVED, served) is served

    def serve(self, entry: Entry[T] | None) -> bool:
        """Hand over a connection, or a free slot; return False if the waiter has timed out."""
        # First: a waiter that finds the wait ended by another thread takes what is here.
        self.entry = entry
        if not self.end(served=True):
            return False
        self.wakeup.release()
        return True


class Claim(Generic[T]):
    """What one call of :meth:`Pool.acquire` has taken from the pool so far.

    It is written along with the state of the pool, without a call in between: an exception of a
    signal handler, which may come behind any call, finds both or neither.

    Attributes:
        waiter: the caller waits, or was served and has not noticed yet.
        taken: the caller has `entry`, or a free slot if that is None.
        entry: the connection.
    """

    __slots__ = ("entry", "taken", "waiter")

    def __init__(self) -> None:
        self.waiter: Waiter[T] | None = None
        self.taken = False
        self.entry: Entry[T] | None = None


class State(Generic[T]):
    """The connections and waiters of a pool in one process. Call its methods with `lock` held.

    Parameters:
        pid: id of the process.
        max_size: the most connections to keep idle.
        capacity: the most connections at one time.
        stale: seconds after its release at which an idle connection is closed.
    """

    def __init__(self, pid: int, max_size: int, capacity: int, stale: float) -> None:
        self.pid = pid
        self.max_size = max_size
        self.capacity = capacity
        self.stale_after = stale
        self.lock = threading.Lock()
        self.is_closed = False
        self.size = 0
        # In order of their release: the leftmost has been idle for the longest time.
        self.idle: deque[Entry[T]] = deque()
        self.checked_out: dict[int, Entry[T]] = {}
        self.waiters: deque[Waiter[T]] = deque()
        # Any thread appends and pops, also without the lock. `returned`: a connection (None for
        # a free slot), and whether it is dead. `to_close`: connections to close.
        self.returned: deque[tuple[Entry[T] | None, bool]] = deque()
        self.to_close: deque[Entry[T]] = deque()
        self.created = self.closed = self.timeouts = 0
        self.reasons: dict[Reason, int] = {"recycled": 0, "stale": 0, "dead": 0}
        self.longest_wait = 0.0
        # The error of the last `create`, and its time; None if it succeeded.
        self.create_error: tuple[Exception, float] | None = None
        # Connections that were checked out in the parent process at the fork, and by process id
        # the states of children: the first two threads of a child agree here on one state.
        self.inherited: dict[int, Entry[T]] = {}
        self.child_states: dict[int, State[T]] = {}

    def take(self, now: float, claim: Claim[T]) -> None:
        """Have `claim` take an idle connection, else a free slot, else wait."""
        if self.returned:
            self.process_returned()
        idle = self.idle
        while idle and now - idle[0].released >= self.stale_after:
            self.size -= 1
            self.discard(idle.popleft(), "stale")
        if idle:
            entry = idle[-1]
            key = id(entry.item)
            del idle[-1]
            self.checked_out[key] = claim.entry = entry
            claim.taken = True
            return
        # A closed pool gives a slot at once; the caller then notices, and returns the slot.
        if self.size < self.capacity or self.is_closed:
            self.size += 1
            claim.taken = True
            return
        claim.waiter = Waiter[T]()
        self.waiters.append(claim.waiter)

    def replace(self, claim: Claim[T], reason: Reason) -> None:
        """Discard the connection of `claim`; give it an idle one instead, or leave it the slot."""
        old = claim.entry
        assert old is not None, "a slot has nothing to replace"
        key = id(old.item)
        del self.checked_out[key]
        claim.entry = None
        self.discard(old, reason)
        if not self.idle:
            return
        entry = self.idle[-1]
        key = id(entry.item)
        del self.idle[-1]
        self.size -= 1
        self.checked_out[key] = claim.entry = entry

    def add_created(self, entry: Entry[T]) -> None:
        """Add a connection that the caller has created in its slot, as checked out."""
        self.created += 1
        self.checked_out[id(entry.item)] = entry

    def process_returned(self) -> None:
        """Hand each returned connection to a waiter, or keep it idle, or discard it."""
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
                self.checked_out[id(entry.item)] = entry
            if waiter.serve(entry):
                return True
            if entry is not None:
                del self.checked_out[id(entry.item)]
        return False

    def close_all(self) -> None:
        """Mark the pool closed, discard idle connections, and wake up all waiters."""
        self.is_closed = True
        self.returned.extend((entry, False) for entry in self.idle)
        self.idle.clear()
        self.process_returned()
        while self._serve(None):
            # The waiter gets a slot beyond the capacity, and returns it.
            self.size += 1

    def discard(self, entry: Entry[T], reason: Reason | None = None) -> None:
        """Schedule a connection for closing. The caller frees or reuses its slot."""
        self.closed += 1
        if reason is not None:
            self.reasons[reason] += 1
        self.to_close.append(entry)

    def statistics(self) -> PoolStatistics:
        """Return the current statistics."""
        # One atomic copy: a waiter that times out removes itself without the lock.
        waiters = tuple(self.waiters)
        return PoolStatistics(
            size=self.size,
            idle=len(self.idle),
            checked_out=len(self.checked_out),
            waiting=sum(waiter.is_waiting for waiter in waiters),
            created=self.created,
            closed=self.closed,
            timeouts=self.timeouts,
            longest_wait=self.longest_wait,
            **self.reasons,
        )


def pool_closed_error() -> PoolError:
    """Return the error for the use of a closed pool."""
    return PoolError("the pool is closed; create another one")


def not_checked_out_error() -> PoolError:
    """Return the error for the release of a connection that is not checked out."""
    return PoolError(
        "the connection is not checked out of this pool; release each connection once, and to "
        "the pool that it comes from"
    )
