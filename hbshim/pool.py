"""Lends things that are dear to make, connections for instance, and takes them back.

Knows no library. All decisions are made under one lock, which is held for microseconds and
never while something is made, looked at or closed; so a green thread never waits for it
while another is switched away inside. Who waits is served in order, and served *by* whoever
gives back: what a waiter is handed is his, or, if he has given up, the next one's.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, TypeVar

from hbshim.errors import PoolError, PoolTimeoutError

T = TypeVar("T")


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
        dead: because they no longer worked.
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


class _Entry(Generic[T]):
    __slots__ = ("created", "item", "released")

    def __init__(self, item: T, now: float) -> None:
        self.item = item
        self.created = self.released = now


class _Waiter(Generic[T]):
    """A caller in line; behind `gate` until somebody serves him."""

    __slots__ = ("entry", "gate", "served")

    def __init__(self) -> None:
        self.gate = threading.Lock()
        self.gate.acquire()
        self.served = False
        # None, when served, is a place: the right to make one.
        self.entry: _Entry[T] | None = None

    def serve(self, entry: _Entry[T] | None) -> None:
        """Hand him one, or a place; what he does not take is his to give back."""
        self.served = True
        self.entry = entry
        self.gate.release()

    def leaves(self, line: deque[_Waiter[T]]) -> bool:
        """He waits no longer; says whether he was served."""
        if not self.served:
            with contextlib.suppress(ValueError):
                line.remove(self)
        return self.served


class _State(Generic[T]):
    """What belongs to one process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.lock = threading.Lock()
        # In order of their return: those at the left were used longest ago.
        self.idle: deque[_Entry[T]] = deque()
        self.lent: dict[int, _Entry[T]] = {}
        self.inherited: dict[int, _Entry[T]] = {}
        self.waiters: deque[_Waiter[T]] = deque()
        self.size = 0
        self.created = self.closed = self.timeouts = 0
        self.reasons = {"recycled": 0, "stale": 0, "dead": 0}
        self.longest_wait = 0.0
        # By process id: a child's first two threads agree here on one state.
        self.heirs: dict[int, _State[T]] = {}

    # Of the following, each is called with the lock held.

    def forget(self, entries: Sequence[_Entry[T]], reason: str | None = None) -> None:
        """Count `entries` out, which are going to be closed; their places are still taken."""
        self.closed += len(entries)
        if reason is not None:
            self.reasons[reason] += len(entries)

    def free_place(self) -> None:
        """Give the right to make one to the next in line."""
        if self.waiters:
            self.waiters.popleft().serve(None)
        else:
            self.size -= 1

    def statistics(self) -> PoolStatistics:
        return PoolStatistics(
            size=self.size,
            idle=len(self.idle),
            lent=len(self.lent),
            waiting=len(self.waiters),
            created=self.created,
            closed=self.closed,
            timeouts=self.timeouts,
            longest_wait=self.longest_wait,
            **self.reasons,
        )


class Pool(Generic[T]):
    """Keeps up to `max_size` things for the next caller, the one used last first.

    Parameters:
        create: makes one, within so many seconds.
        close: ends one; what it raises is ignored.
        is_dead: whether one no longer works; asked before it is lent and when it returns.
            One that it raises for is dead.
        max_size: how many are kept when nobody uses them.
        max_overflow: how many there may be beyond these while they are in use.
        timeout: seconds that a caller waits, unless he says how long.
        recycle: seconds since it was made after which one is closed instead of lent.
        stale: seconds since its return after which one is closed instead of lent.
        clock: the time, in seconds.
        disown: called in a forked child with each that its parent had. The stream belongs
            to the parent: it must be dropped without a word on the wire.
    """

    def __init__(
        self,
        create: Callable[[float], T],
        close: Callable[[T], None],
        is_dead: Callable[[T], bool],
        max_size: int = 10,
        max_overflow: int = 10,
        timeout: float = 30.0,
        recycle: float | None = None,
        stale: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        disown: Callable[[T], None] | None = None,
    ) -> None:
        self._create = create
        self._close = close
        self._is_dead = is_dead
        self._max_size = max_size
        self._capacity = max_size + max_overflow
        self._timeout = timeout
        self._recycle = float("inf") if recycle is None else recycle
        self._stale = float("inf") if stale is None else stale
        self._clock = clock
        self._disown = disown
        self._closed = False
        # Of no process: the lock is made when it is first needed, in a program that may
        # have been patched by then.
        self._state: _State[T] = _State(-1)

    def lend(self, timeout: float | None = None) -> Loan[T]:
        """One for the length of a `with` block.

        Where the block raises, `is_dead` says whether it goes on: an error of the
        application's own costs no connection. A block that is interrupted from outside
        (`KeyboardInterrupt`, the end of a green thread) may have left it half-way through
        something, so it is closed.

        Raises:
            PoolTimeoutError: none became free within `timeout` seconds.
            PoolError: the pool is closed.
        """
        return Loan(self, timeout)

    def acquire(self, timeout: float | None = None) -> T:
        """Take one, to be given back by :meth:`release`.

        Parameters:
            timeout: seconds for waiting and making; 0 takes one that is idle or none.

        Raises:
            PoolTimeoutError: none became free within `timeout` seconds.
            PoolError: the pool is closed.
            Exception: what `create` raised.
        """
        state = self._state
        if state.pid != os.getpid():
            state = self._start_afresh(state)
        now = self._clock()
        waiter = entry = None
        stale: list[_Entry[T]] = []
        with state.lock:
            if self._closed:
                raise _closed()
            idle = state.idle
            while idle and now - idle[0].released >= self._stale:
                stale.append(idle.popleft())
            if stale:
                state.forget(stale, "stale")
                state.size -= len(stale)
            if idle:
                entry = idle.pop()
                state.lent[id(entry.item)] = entry
            elif state.size < self._capacity:
                state.size += 1
            else:
                waiter = _Waiter[T]()
                state.waiters.append(waiter)
        deadline = now + (self._timeout if timeout is None else timeout)
        if waiter is not None:
            entry = self._wait(state, waiter, now, deadline)
            now = self._clock()
        try:
            for worn in stale:
                self._end(worn)
            while entry is not None:
                reason = self._reason_to_close(entry, now)
                if reason is None:
                    return entry.item
                worn, entry = entry, self._replace(state, entry, reason)
                self._end(worn)
            left = deadline - self._clock()
            if left <= 0:
                raise self._too_late(state)
            item = self._create(left)
        except BaseException:
            self._abandon(state, entry)
            raise
        return self._enlist(state, item)

    def release(self, item: T, broken: bool = False) -> None:
        """Give back what :meth:`acquire` lent.

        Parameters:
            broken: it no longer works, whatever `is_dead` thinks of it.

        Raises:
            PoolError: it is not lent, by this pool or no longer.
        """
        state = self._state
        if state.pid != os.getpid():
            state = self._start_afresh(state)
        entry = state.lent.get(id(item))
        if entry is None:
            # A forked child gives back what its parent had lent: it is disowned already.
            if state.inherited.pop(id(item), None) is None:
                raise _not_lent()
            return
        try:
            dead = broken or self._looks_dead(item)
        except BaseException:
            self._abandon(state, entry)
            raise
        self._take_back(state, entry, dead)

    def close(self) -> None:
        """Close those that are idle now, and each other when it is given back."""
        self._closed = True
        state = self._state
        if state.pid != os.getpid():
            state = self._start_afresh(state)
        with state.lock:
            leaving = list(state.idle)
            state.idle.clear()
            state.forget(leaving)
            state.size -= len(leaving)
            waiters = list(state.waiters)
            state.waiters.clear()
        for waiter in waiters:
            waiter.gate.release()
        for entry in leaving:
            self._end(entry)

    def statistics(self) -> PoolStatistics:
        """What the pool holds now, and what it has done in this process."""
        state = self._state
        if state.pid != os.getpid():
            state = self._start_afresh(state)
        with state.lock:
            return state.statistics()

    def _start_afresh(self, old: _State[T]) -> _State[T]:
        mine = _State[T](os.getpid())
        # Atomic: whoever comes second takes the state of who came first.
        state = old.heirs.setdefault(mine.pid, mine)
        self._state = state
        if state is mine:
            mine.inherited.update(old.lent)
            for entry in (*old.idle, *old.lent.values()):
                if self._disown is not None:
                    with contextlib.suppress(Exception):
                        self._disown(entry.item)
        return state

    def _wait(
        self, state: _State[T], waiter: _Waiter[T], began: float, deadline: float
    ) -> _Entry[T] | None:
        try:
            waiter.gate.acquire(timeout=min(max(0.0, deadline - began), threading.TIMEOUT_MAX))
        except BaseException:
            with state.lock:
                served = waiter.leaves(state.waiters)
            if served and waiter.entry is not None:
                self._take_back(state, waiter.entry, dead=False)
            elif served:
                self._abandon(state, None)
            raise
        waited = self._clock() - began
        with state.lock:
            state.longest_wait = max(state.longest_wait, waited)
            if waiter.leaves(state.waiters):
                return waiter.entry
        if self._closed:
            raise _closed()
        raise self._too_late(state)

    def _reason_to_close(self, entry: _Entry[T], now: float) -> str | None:
        if self._looks_dead(entry.item):
            return "dead"
        return "recycled" if now - entry.created >= self._recycle else None

    def _looks_dead(self, item: T) -> bool:
        try:
            return self._is_dead(item)
        except Exception:
            return True

    def _replace(self, state: _State[T], entry: _Entry[T], reason: str) -> _Entry[T] | None:
        """Another that is idle for a worn one, or its place: the right to make one."""
        with state.lock:
            del state.lent[id(entry.item)]
            state.forget([entry], reason)
            if not state.idle:
                return None
            state.size -= 1
            following = state.idle.pop()
            state.lent[id(following.item)] = following
            return following

    def _enlist(self, state: _State[T], item: T) -> T:
        entry = _Entry(item, self._clock())
        with state.lock:
            state.created += 1
            state.lent[id(item)] = entry
        if self._closed:
            self._take_back(state, entry, dead=False)
            raise _closed()
        return item

    def _take_back(self, state: _State[T], entry: _Entry[T], dead: bool) -> None:
        entry.released = self._clock()
        with state.lock:
            if state.lent.pop(id(entry.item), None) is None:
                raise _not_lent()
            if not dead and not self._closed:
                if state.waiters:
                    state.lent[id(entry.item)] = entry
                    state.waiters.popleft().serve(entry)
                    return
                if len(state.idle) < self._max_size:
                    state.idle.append(entry)
                    return
            state.forget([entry], "dead" if dead else None)
            state.free_place()
        self._end(entry)

    def _abandon(self, state: _State[T], entry: _Entry[T] | None) -> None:
        """Give up a place, and what is in it."""
        with state.lock:
            if entry is not None:
                state.lent.pop(id(entry.item), None)
                state.forget([entry])
            state.free_place()
        if entry is not None:
            self._end(entry)

    def _end(self, entry: _Entry[T]) -> None:
        with contextlib.suppress(Exception):
            self._close(entry.item)

    def _too_late(self, state: _State[T]) -> PoolTimeoutError:
        with state.lock:
            state.timeouts += 1
            seen = state.statistics()
        return PoolTimeoutError(
            f"no connection became free in time: {seen.lent} are lent, {seen.size - seen.lent} "
            f"are idle or being opened, {seen.waiting} more callers wait, and the pool has "
            f"{self._max_size} and {self._capacity - self._max_size} beyond; raise pool_max_size, "
            "pool_max_overflow or pool_timeout, or give connections back sooner"
        )


class Loan(Generic[T]):
    """What :meth:`Pool.lend` gives: a context manager."""

    __slots__ = ("_item", "_pool", "_timeout")

    def __init__(self, pool: Pool[T], timeout: float | None) -> None:
        self._pool = pool
        self._timeout = timeout

    def __enter__(self) -> T:
        self._item = self._pool.acquire(self._timeout)
        return self._item

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.release(self._item, kind is not None and not issubclass(kind, Exception))


def _closed() -> PoolError:
    return PoolError("the pool is closed; make another")


def _not_lent() -> PoolError:
    return PoolError("what was given back is not lent; give each back once, to the pool it is of")
