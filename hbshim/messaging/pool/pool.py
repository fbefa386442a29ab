"""Lending, without a lock held while something is made, looked at, closed or waited for."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Generic

from hbshim.errors import PoolTimeoutError
from hbshim.messaging.pool.state import (
    Entry,
    PoolStatistics,
    Reason,
    State,
    T,
    Waiter,
    closed,
    not_lent,
)

#: Seconds that one caller spends on closing what others left; the last one may take longer.
CLOSING_WITHIN = 0.1

#: Seconds after which the error of a `create` no longer explains why there is nothing to lend.
REFUSED_LATELY = 60.0


class Pool(Generic[T]):
    """Keeps up to `max_size` things for the next callers, and lends the one used last first.

    Parameters:
        create: makes one, within so many seconds.
        close: ends one; an error that it raises is ignored.
        is_dead: whether one no longer works; asked before it is lent and when it returns.
            One that it raises an error for is dead.
        max_size: how many idle ones are kept.
        max_overflow: how many there may be beyond these, while they are in use.
        timeout: seconds that a caller waits who does not say how long.
        recycle: seconds since it was made after which one is closed instead of used again.
        stale: seconds since its return after which one is closed when the next is lent.
        clock: the time, in seconds.
        disown: called in a forked child with each that its parent had, whose stream it
            shares: to be dropped without a word on the wire.
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
        self._timeout = timeout
        self._recycle = float("inf") if recycle is None else recycle
        self._limits = (
            max_size,
            max_size + max_overflow,
            float("inf") if stale is None else stale,
        )
        self._clock = clock
        self._disown = disown
        # Of no process: one is made, with its lock, when the pool is first used. The
        # program may have been patched by then, or have forked.
        self._state = State[T](-1, *self._limits)

    def lend(self, timeout: float | None = None) -> Loan[T]:
        """One for the length of a `with` block; takes and raises what :meth:`acquire` does.

        Where the block raises an error, `is_dead` says whether it is kept: an error of the
        application's own costs no connection. A block that is interrupted (by
        `KeyboardInterrupt`, or the end of its green thread) may have left it half-way
        through something, so it is closed.
        """
        return Loan(self, timeout)

    def acquire(self, timeout: float | None = None) -> T:
        """Take one, to be given back by :meth:`release`.

        Parameters:
            timeout: seconds, for waiting and making; with 0, one that is idle or none.

        Raises:
            PoolTimeoutError: none became free within `timeout` seconds.
            PoolError: the pool is closed.
            Exception: what `create` raised.
        """
        state = self._here()
        began = now = self._clock()
        deadline = began + (self._timeout if timeout is None else timeout)
        with state.lock:
            taken = state.take(now)
        if isinstance(taken, Waiter):
            taken = self._wait(state, taken, deadline - began)
            now = self._clock()
            state.longest_wait = max(state.longest_wait, now - began)
        try:
            if state.returned or state.leaving:
                self._tidy(state)
            while taken is not None:
                reason = self._reason_to_close(taken, now)
                if reason is None:
                    return taken.item
                with state.lock:
                    taken = state.replace(taken, reason)
                self._tidy(state)
            if state.is_closed:
                raise closed()
            left = deadline - self._clock()
            if left <= 0:
                raise self._too_late(state)
            try:
                item = self._create(left)
            except Exception as error:
                state.refused = (error, self._clock())
                raise
            state.refused = None
            taken = Entry(item, self._clock())
            with state.lock:
                state.enlist(taken)
            # What is to be closed is left to its release: there is little time now.
            self._tidy(state, closing=False)
            if state.is_closed:
                raise closed()
        except BaseException:
            if taken is not None:
                # Interrupted before it was enlisted, or replaced, it would be refused.
                state.lent.setdefault(id(taken.item), taken)
            self._give_back(state, taken, dead=True)
            raise
        return taken.item

    def release(self, item: T, broken: bool = False) -> None:
        """Give back what :meth:`acquire` lent; never waits but for `is_dead` and `close`.

        Parameters:
            broken: it no longer works, whatever `is_dead` thinks of it.

        Raises:
            PoolError: it is not lent: by this pool, or any more.
        """
        state = self._here()
        entry = state.lent.get(id(item))
        if entry is None:
            # A forked child gives back what its parent had lent: it is disowned already.
            if state.inherited.pop(id(item), None) is None:
                raise not_lent()
            return
        try:
            dead = broken or self._looks_dead(item)
        except BaseException:
            self._give_back(state, entry, dead=True)
            raise
        self._give_back(state, entry, dead)

    def close(self) -> None:
        """Close those that are idle now, and each other when it is given back."""
        state = self._here()
        with state.lock:
            state.refuse_all()
        self._tidy(state, all_of_them=True)

    def statistics(self) -> PoolStatistics:
        """What the pool holds now, and what it has done in this process."""
        state = self._here()
        with state.lock:
            state.sort_returned()
            seen = state.statistics()
        self._tidy(state)
        return seen

    def _here(self) -> State[T]:
        """The state of this process; hosts that fork in C give no sign but another id."""
        state = self._state
        if state.pid == os.getpid():
            return state
        mine = State[T](os.getpid(), *self._limits)
        mine.is_closed = state.is_closed
        mine.inherited.update(state.lent)
        heir = state.heirs.setdefault(mine.pid, mine)
        self._state = heir
        if heir is mine and self._disown is not None:
            for entry in (*state.idle, *state.leaving, *state.lent.values()):
                with contextlib.suppress(Exception):
                    self._disown(entry.item)
        return heir

    def _wait(self, state: State[T], waiter: Waiter[T], timeout: float) -> Entry[T] | None:
        served = False
        try:
            self._tidy(state)
            served = waiter.gate.acquire(timeout=min(max(0.0, timeout), threading.TIMEOUT_MAX))
        except BaseException:
            if not self._leaves_line(state, waiter):
                self._give_back(state, waiter.entry, dead=False)
            raise
        if not served and self._leaves_line(state, waiter):
            raise self._too_late(state)
        return waiter.entry

    def _leaves_line(self, state: State[T], waiter: Waiter[T]) -> bool:
        """Whether he leaves with nothing; else somebody has served him, or is about to."""
        if waiter.decide():
            with contextlib.suppress(ValueError):
                state.waiters.remove(waiter)
            return True
        waiter.gate.acquire()
        return False

    def _give_back(self, state: State[T], entry: Entry[T] | None, dead: bool) -> None:
        if entry is not None:
            # Atomic: of two who give back the same, one is told.
            if state.lent.pop(id(entry.item), None) is None:
                raise not_lent()
            entry.released = self._clock()
        state.returned.append((entry, dead))
        self._tidy(state)

    def _tidy(self, state: State[T], *, closing: bool = True, all_of_them: bool = False) -> None:
        """Do what others could not do while we held the lock, or left to do without it.

        Parameters:
            closing: close what leaves.
            all_of_them: close all that leave, however long it takes; else what takes the caller
                too long is left to the next one.
        """
        # In a `with`: an exception of a signal handler behind acquire() would leave it taken.
        while state.returned and not state.lock.locked():
            with state.lock:
                state.sort_returned()
        if not (closing and state.leaving):
            return
        until = self._clock() + CLOSING_WITHIN
        while state.leaving and (all_of_them or self._clock() < until):
            with contextlib.suppress(Exception):
                self._close(state.leaving.popleft().item)

    def _reason_to_close(self, entry: Entry[T], now: float) -> Reason | None:
        if self._looks_dead(entry.item):
            return "dead"
        return "recycled" if now - entry.created >= self._recycle else None

    def _looks_dead(self, item: T) -> bool:
        try:
            return self._is_dead(item)
        except Exception:
            return True

    def _too_late(self, state: State[T]) -> PoolTimeoutError:
        with state.lock:
            state.timeouts += 1
            seen = state.statistics()
        self._tidy(state)
        refused = state.refused
        if refused is not None and not seen.lent and self._clock() - refused[1] < REFUSED_LATELY:
            # More connections would not help.
            timeout = PoolTimeoutError(f"no connection could be opened in time: {refused[0]}")
            timeout.__cause__ = refused[0]
            return timeout
        return PoolTimeoutError(
            f"no connection became free in time: of at most {state.capacity}, {seen.lent} are "
            f"lent, {seen.idle} idle and {seen.size - seen.lent - seen.idle} being opened or "
            f"closed, and {seen.waiting} callers still wait; raise pool_max_size, "
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
