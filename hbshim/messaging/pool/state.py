"""The state of a pool in one process, and its changes, each made by one thread at a time."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections import deque
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from hbshim.errors import PoolError
from hbshim.runtime.exclusive import ExclusiveSection

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


class Returned(Generic[T]):
    """What was returned and is not processed yet.

    Attributes:
        entry: the connection; None for a free slot.
        dead: it no longer works.
    """

    __slots__ = ("dead", "entry")

    def __init__(self, entry: Entry[T] | None, dead: bool) -> None:
        self.entry = entry
        self.dead = dead


#: The key of how a wait has ended.
_ENDED_BY = "ended by"


class Waiter(Generic[T]):
    """A caller that waits on the lock `wakeup` until it is served.

    Parameters:
        claim: of the caller.
    """

    __slots__ = ("_outcome", "claim", "entry", "wakeup")

    def __init__(self, claim: Claim[T]) -> None:
        self._outcome: dict[str, object] = {}
        self.claim = claim
        self.wakeup = threading.Lock()
        self.wakeup.acquire()
        # None, once the wait has ended, means a free slot: the caller may create a connection.
        self.entry: Entry[T] | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether the caller still waits: neither served nor timed out."""
        return not self._outcome

    def give_up(self) -> bool:
        """End the wait without a connection; return False if it is served."""
        return self._end_by(self)

    def serve(self, returned: Returned[T]) -> bool:
        """End the wait with what was returned; return False if it has ended in another way."""
        return self._end_by(returned)

    def was_served(self, returned: Returned[T]) -> bool:
        """Return whether the wait has ended with this, before an interrupt perhaps."""
        return self._outcome.get(_ENDED_BY) is returned

    def _end_by(self, what: object) -> bool:
        # Atomic, without a lock: the first call decides. Repeated, it returns the same.
        return self._outcome.setdefault(_ENDED_BY, what) is what

    def wake(self) -> None:
        """Wake the caller up; called again after an interrupt it does no harm."""
        # No call of another function before it: that could be interrupted.
        try:  # noqa: SIM105
            self.wakeup.release()
        except RuntimeError:
            pass


class Claim(Generic[T]):
    """What one call of :meth:`Pool.acquire` has taken from the pool so far.

    It is written along with the state of the pool, without a call in between: an exception of a
    signal handler, which may come behind any call, finds both or neither.

    Attributes:
        state: of the pool, in the process of the call; None before it has begun.
        waiter: the caller waits, or was served and has not noticed yet.
        taken: the caller has `entry`, or a free slot if that is None.
        entry: the connection.
        opened: a connection that the caller has created and not added yet.
        lease: of this call; it gives up the claim when the lease is deleted while this is set.
    """

    __slots__ = ("entry", "lease", "opened", "state", "taken", "waiter")

    def __init__(self) -> None:
        self.state: State[T] | None = None
        self.waiter: Waiter[T] | None = None
        self.taken = False
        self.entry: Entry[T] | None = None
        self.opened: T | None = None
        self.lease: weakref.ref[Any] | None = None


class State(Generic[T]):
    """The connections and waiters of a pool in one process. Change it in its `section`.

    An exception may come behind any call. So each change is made by statements without a call
    between them; a call that makes a change is the last of them. What was returned stays in
    `returned` until it is processed, and is processed again after an interrupt.

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
        self.section = ExclusiveSection(threading.RLock())
        self.is_closed = False
        self.size = 0
        # By the id of the connection, in order of their release: the first has been idle for the
        # longest time.
        self.idle: dict[int, Entry[T]] = {}
        self.checked_out: dict[int, Claim[T]] = {}
        self.waiters: deque[Waiter[T]] = deque()
        # Any thread appends, also outside of the section.
        self.returned: deque[Returned[T]] = deque()
        # Connections to close; any thread appends and removes.
        self.to_close: deque[Entry[T]] = deque()
        self.created = self.closed = self.timeouts = 0
        self.reasons: dict[Reason, int] = {"recycled": 0, "stale": 0, "dead": 0}
        self.longest_wait = 0.0
        # The error of the last `create`, and its time; None if it succeeded.
        self.create_error: tuple[Exception, float] | None = None
        # Connections that were checked out in the parent process at the fork, and by process id
        # the states of children: the first two threads of a child agree here on one state.
        self.inherited: dict[int, Claim[T]] = {}
        self.child_states: dict[int, State[T]] = {}

    def take(self, now: float, claim: Claim[T]) -> None:
        """Have `claim` take an idle connection, else a free slot, else wait."""
        if self.returned:
            self.process_returned()
        idle = self.idle
        while idle:
            key = next(iter(idle))
            entry = idle[key]
            if now - entry.released < self.stale_after:
                break
            del idle[key]
            self.size -= 1
            self.closed += 1
            self.reasons["stale"] += 1
            self.to_close.append(entry)
        if idle:
            key = next(reversed(idle))
            entry = idle[key]
            del idle[key]
            self.checked_out[key] = claim
            claim.entry, claim.taken = entry, True
            return
        # A closed pool gives a slot at once; the caller then notices, and returns the slot.
        if self.size < self.capacity or self.is_closed:
            self.size += 1
            claim.taken = True
            return
        claim.waiter = Waiter(claim)
        self.waiters.append(claim.waiter)

    def replace(self, claim: Claim[T], reason: Reason) -> None:
        """Discard the connection of `claim`; give it an idle one instead, or leave it the slot."""
        old = claim.entry
        assert old is not None, "a slot has nothing to replace"
        key = id(old.item)
        del self.checked_out[key]
        claim.entry = None
        self.closed += 1
        self.reasons[reason] += 1
        self.to_close.append(old)
        if not self.idle:
            return
        key = next(reversed(self.idle))
        entry = self.idle[key]
        del self.idle[key]
        self.size -= 1
        self.checked_out[key] = claim
        claim.entry = entry

    def add_created(self, claim: Claim[T], now: float) -> None:
        """Add a connection that the caller has opened in its slot, as checked out."""
        item = claim.opened
        assert item is not None, "nothing was opened"
        entry, key = Entry(item, now), id(item)
        self.created += 1
        self.checked_out[key] = claim
        claim.entry, claim.opened = entry, None

    def process_returned(self) -> None:
        """Hand each returned connection to a waiter, or keep it idle, or discard it."""
        returned = self.returned
        while returned:
            first = returned[0]
            entry = first.entry
            if entry is not None and (first.dead or self.is_closed):
                self.closed += 1
                if first.dead:
                    self.reasons["dead"] += 1
                # Its slot is left.
                first.entry = None
                self.to_close.append(entry)
            elif not self._serve(first):
                self._keep(first)

    def _serve(self, first: Returned[T]) -> bool:
        """Hand the first that was returned to a waiter, and remove it; False if none waits."""
        waiters, entry = self.waiters, first.entry
        key = 0 if entry is None else id(entry.item)
        while True:
            try:
                waiter = waiters[0]
            except IndexError:  # also one that has timed out, and removed itself
                return False
            # After an interrupt it may have been served, and have released it already.
            if not waiter.was_served(first):
                # First: a waiter that finds the wait ended by another thread takes what is here.
                waiter.entry = entry
                if entry is not None:
                    self.checked_out[key] = waiter.claim
            if waiter.serve(first):
                waiter.wake()
                # It is still the first: a waiter that was served does not remove itself.
                del waiters[0]
                del self.returned[0]
                return True
            self.checked_out.pop(key, None)
            with contextlib.suppress(ValueError):
                waiters.remove(waiter)

    def _keep(self, first: Returned[T]) -> None:
        """Keep the first that was returned idle if there is room, and remove it."""
        entry = first.entry
        if entry is None:
            self.size -= 1
            del self.returned[0]
            return
        key = id(entry.item)
        # An interrupt may have come before a waiter was served.
        self.checked_out.pop(key, None)
        if len(self.idle) < self.max_size:
            self.idle[key] = entry
            del self.returned[0]
            return
        self.closed += 1
        self.size -= 1
        del self.returned[0]
        self.to_close.append(entry)

    def close_all(self) -> None:
        """Mark the pool closed, discard idle connections, and wake up all waiters."""
        self.is_closed = True
        while self.idle:
            key = next(iter(self.idle))
            entry = self.idle[key]
            del self.idle[key]
            self.size -= 1
            self.closed += 1
            self.to_close.append(entry)
        self.process_returned()
        while self.waiters:
            # The waiter gets a slot beyond the capacity, and returns it.
            slot = Returned[T](None, dead=False)
            self.size += 1
            self.returned.append(slot)
            self.process_returned()

    def require_open(self) -> None:
        """Raise PoolError if the pool is closed."""
        if self.is_closed:
            raise PoolError("the pool is closed; create another one")

    def statistics(self) -> PoolStatistics:
        """Return the current statistics."""
        # A waiter that times out removes itself without the lock. copy() is atomic; the garbage
        # collector may interrupt tuple().
        waiters = self.waiters.copy()
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


def not_checked_out_error() -> PoolError:
    """Return the error for the release of a connection that is not checked out."""
    return PoolError(
        "the connection is not checked out of this pool; release each connection once, and to "
        "the pool that it comes from"
    )
