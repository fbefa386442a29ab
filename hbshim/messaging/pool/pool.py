"""The pool: check out, release, close. No lock is held while it creates, checks or closes."""

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
    Claim,
    Entry,
    PoolStatistics,
    Reason,
    State,
    T,
    Waiter,
    not_checked_out_error,
    pool_closed_error,
)

#: Seconds that one caller spends on closing connections that others released.
CLOSE_BUDGET = 0.1

#: Seconds for which the error of a failed `create` explains a pool timeout.
CREATE_ERROR_VALID_FOR = 60.0


class Pool(Generic[T]):
    """Keeps up to `max_size` idle connections. The connection released last is used first.

    Parameters:
        create: opens a connection within the given number of seconds.
        close: closes a connection; its errors are ignored.
        is_dead: returns whether a connection no longer works. Called before a checkout and at
            the release. If it raises an error, the connection counts as dead.
        max_size: the most connections to keep idle.
        max_overflow: how many more connections may be in use at one time.
        timeout: seconds that :meth:`acquire` waits by default.
        recycle: seconds after its creation at which a connection is closed instead of reused.
        stale: seconds after its release at which an idle connection is closed, at the next
            checkout.
        clock: returns the time, in seconds.
        drop_inherited: called in a forked child with each connection of its parent. It must
            write nothing, because parent and child share the stream.
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
        drop_inherited: Callable[[T], None] | None = None,
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
        self._drop_inherited = drop_inherited
        # Belongs to no process: the state and its lock are created at the first use, because
        # the program may be patched, or fork, before that.
        self._state = State[T](-1, *self._limits)

    def lease(self, timeout: float | None = None) -> Lease[T]:
        """Return a context manager that acquires a connection and releases it.

        If the block raises an error, `is_dead` decides whether the connection is kept. If the
        block is interrupted (by `KeyboardInterrupt`, or because its green thread is killed), the
        connection may be in the middle of an operation and is closed.

        Parameters:
            timeout: as for :meth:`acquire`, whose errors entering the block raises.
        """
        return Lease(self, timeout)

    def acquire(self, timeout: float | None = None) -> T:
        """Check a connection out; :meth:`release` returns it.

        Parameters:
            timeout: seconds for waiting and connecting; with 0, only an idle connection is used.

        Raises:
            PoolTimeoutError: no connection was available within `timeout` seconds.
            PoolError: the pool is closed.
            Exception: an error of `create`.
        """
        state = self._process_state()
        began = now = self._clock()
        deadline = began + (self._timeout if timeout is None else timeout)
        claim = Claim[T]()
        try:
            with state.lock:
                state.take(now, claim)
            if claim.waiter is not None:
                self._wait(state, claim, deadline - began)
                now = self._clock()
                state.longest_wait = max(state.longest_wait, now - began)
            if state.returned or state.to_close:
                self._process_returned(state)
            while claim.entry is not None:
                reason = self._reason_to_close(claim.entry, now)
                if reason is None:
                    return claim.entry.item
                with state.lock:
                    state.replace(claim, reason)
                self._process_returned(state)
            if state.is_closed:
                raise pool_closed_error()
            left = deadline - self._clock()
            if left <= 0:
                raise self._timeout_error(state)
            try:
                item = self._create(left)
            except Exception as error:
                state.create_error = (error, self._clock())
                raise
            state.create_error = None
            claim.entry = Entry(item, self._clock())
            with state.lock:
                state.add_created(claim.entry)
            # Connections to close wait for the next release: little time may be left now.
            self._process_returned(state, closing=False)
            if state.is_closed:
                raise pool_closed_error()
        except BaseException:
            self._give_up(state, claim)
            raise
        return claim.entry.item

    def _give_up(self, state: State[T], claim: Claim[T]) -> None:
        """Return what an acquire() has taken that ends with an error."""
        waiter, entry = claim.waiter, claim.entry
        if waiter is not None:
            if not self._leave_queue(state, waiter):
                self._return(state, waiter.entry, dead=False)
        elif claim.taken:
            if entry is not None:
                # An interrupt may have come before `add_created`.
                state.checked_out.setdefault(id(entry.item), entry)
            self._return(state, entry, dead=True)

    def release(self, item: T, broken: bool = False) -> None:
        """Return a connection to the pool. Waits for nothing but `is_dead` and `close`.

        Parameters:
            item: the connection that :meth:`acquire` returned.
            broken: the connection no longer works; `is_dead` is not called.

        Raises:
            PoolError: the connection is not checked out of this pool.
        """
        state = self._process_state()
        entry = state.checked_out.get(id(item))
        if entry is None:
            # A forked child releases a connection of its parent, which is dropped already.
            if state.inherited.pop(id(item), None) is None:
                raise not_checked_out_error()
            return
        try:
            dead = broken or self._check_dead(item)
        except BaseException:
            self._return(state, entry, dead=True)
            raise
        self._return(state, entry, dead)

    def close(self) -> None:
        """Close the pool: idle connections now, the others at their release."""
        state = self._process_state()
        with state.lock:
            state.close_all()
        self._process_returned(state, all_of_them=True)

    def statistics(self) -> PoolStatistics:
        """Return the size of the pool, and its counters in this process."""
        state = self._process_state()
        with state.lock:
            state.process_returned()
            statistics = state.statistics()
        self._process_returned(state)
        return statistics

    def _process_state(self) -> State[T]:
        """Return the state of this process, found by its id: a fork in C runs no callback."""
        state = self._state
        if state.pid == os.getpid():
            return state
        mine = State[T](os.getpid(), *self._limits)
        mine.is_closed = state.is_closed
        mine.inherited.update(state.checked_out)
        agreed = state.child_states.setdefault(mine.pid, mine)
        self._state = agreed
        if agreed is mine and self._drop_inherited is not None:
            for entry in (*state.idle, *state.to_close, *state.checked_out.values()):
                with contextlib.suppress(Exception):
                    self._drop_inherited(entry.item)
        return agreed

    def _wait(self, state: State[T], claim: Claim[T], timeout: float) -> None:
        waiter = claim.waiter
        assert waiter is not None, "only a claim that waits has one"
        self._process_returned(state)
        served = waiter.wakeup.acquire(timeout=min(max(0.0, timeout), threading.TIMEOUT_MAX))
        if not served and self._leave_queue(state, waiter):
            claim.waiter = None
            raise self._timeout_error(state)
        claim.entry, claim.waiter, claim.taken = waiter.entry, None, True

    def _leave_queue(self, state: State[T], waiter: Waiter[T]) -> bool:
        """Return True if the wait ends without a connection, False if the waiter is served.

        Served, it does not wait for the wake-up: that may have come before an interrupt, and does
        not come from a thread that was interrupted.
        """
        if waiter.end(served=False):
            with contextlib.suppress(ValueError):
                state.waiters.remove(waiter)
            return True
        return False

    def _return(self, state: State[T], entry: Entry[T] | None, dead: bool) -> None:
        if entry is not None:
            entry.released, key = self._clock(), id(entry.item)
            # Atomic: the second of two releases of one connection gets the error. No call between
            # this and the next statement: an exception of a signal handler would lose the slot.
            try:
                del state.checked_out[key]
            except KeyError:
                raise not_checked_out_error() from None
        state.returned.append((entry, dead))
        self._process_returned(state)

    def _process_returned(
        self, state: State[T], *, closing: bool = True, all_of_them: bool = False
    ) -> None:
        """Process what was returned while this thread held the lock, then close connections.

        Parameters:
            closing: whether to close discarded connections.
            all_of_them: close all of them; otherwise stop after `CLOSE_BUDGET` seconds and
                leave the rest to the next caller.
        """
        # `with`, because a signal handler may raise between acquire() and a `try`.
        while state.returned and not state.lock.locked():
            with state.lock:
                state.process_returned()
        if not (closing and state.to_close):
            return
        until = self._clock() + CLOSE_BUDGET
        while state.to_close and (all_of_them or self._clock() < until):
            with contextlib.suppress(Exception):
                self._close(state.to_close.popleft().item)

    def _reason_to_close(self, entry: Entry[T], now: float) -> Reason | None:
        if self._check_dead(entry.item):
            return "dead"
        return "recycled" if now - entry.created >= self._recycle else None

    def _check_dead(self, item: T) -> bool:
        try:
            return self._is_dead(item)
        except Exception:
            return True

    def _timeout_error(self, state: State[T]) -> PoolTimeoutError:
        with state.lock:
            state.timeouts += 1
            statistics = state.statistics()
        self._process_returned(state)
        failed = state.create_error
        recently = failed is not None and self._clock() - failed[1] < CREATE_ERROR_VALID_FOR
        if failed is not None and recently and not statistics.checked_out:
            # The limits of the pool are not the cause.
            timeout = PoolTimeoutError(f"no connection could be opened in time: {failed[0]}")
            timeout.__cause__ = failed[0]
            return timeout
        changing = statistics.size - statistics.checked_out - statistics.idle
        return PoolTimeoutError(
            f"no connection became free in time: of at most {state.capacity}, "
            f"{statistics.checked_out} are in use, {statistics.idle} idle and {changing} being "
            f"opened or closed; {statistics.waiting} callers still wait; raise pool_max_size, "
            "pool_max_overflow or pool_timeout, or release connections sooner"
        )


class Lease(Generic[T]):
    """A context manager that acquires a connection and releases it; see :meth:`Pool.lease`."""

    __slots__ = ("_item", "_pool", "_timeout")

    def __init__(self, pool: Pool[T], timeout: float | None) -> None:
        self._pool = pool
        self._timeout = timeout

    def __enter__(self) -> T:
        self._item = self._pool.acquire(self._timeout)
        return self._item

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.release(self._item, exc_type is not None and not issubclass(exc_type, Exception))
