"""The pool: check out, release, close. No lock is held while it creates, checks or closes.

Longer than others: each way a claim ends stands beside the way that it begins.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar

from hbshim.errors import PoolError, PoolTimeoutError
from hbshim.messaging.pool.state import (
    Claim,
    Entry,
    PoolStatistics,
    Reason,
    Returned,
    State,
    T,
    not_checked_out_error,
)
from hbshim.runtime.exclusive import OCCUPIED

R = TypeVar("R")

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
        return self.fulfil(Claim(), timeout)

    def fulfil(self, claim: Claim[T], timeout: float | None) -> T:
        """Check a connection out for `claim`; see :meth:`acquire`."""
        state = claim.state = self._process_state()
        began = now = self._clock()
        deadline = began + (self._timeout if timeout is None else timeout)
        try:
            self._exclusively(state, lambda: state.take(now, claim))
            if claim.waiter is not None:
                self._wait(state, claim, deadline - began)
                now = self._clock()
                state.longest_wait = max(state.longest_wait, now - began)
            if state.returned or state.to_close:
                self._process_returned(state)
            self._drop_unusable(state, claim, now)
            if claim.entry is not None:
                return claim.entry.item
            state.require_open()
            left = deadline - self._clock()
            if left <= 0:
                raise self._timeout_error(state)
            try:
                # No other call before it is stored: an interrupt would leave it open.
                item = claim.opened = self._create(left)
            except Exception as error:
                state.create_error = (error, self._clock())
                raise
            state.create_error = None
            state.add_created(claim, self._clock())
            state.require_open()
        except BaseException:
            self.give_up(claim)
            raise
        return item

    def _drop_unusable(self, state: State[T], claim: Claim[T], now: float) -> None:
        """Replace the connection of `claim` until it has a usable one, or none.

        A method of its own: in CPython 3.12 and 3.13, the `try` around a loop does not cover the
        jump at its end, where a signal handler may raise (python/cpython#130279).
        """
        while claim.entry is not None:
            reason = self._reason_to_close(claim.entry, now)
            if reason is None:
                return
            self._exclusively(state, lambda: state.replace(claim, reason))  # noqa: B023
            self._process_returned(state)

    def give_up(self, claim: Claim[T], *, closing: bool = True) -> None:
        """Return what `claim` still has, as an :meth:`acquire` that ends with an error does.

        Parameters:
            claim: of any call of this pool; idempotent.
            closing: whether to close discarded connections.
        """
        state = claim.state
        if state is None or state.pid != os.getpid():
            return
        try:
            if claim.waiter is not None:
                # Of a waiter that was served, nothing has used the connection yet.
                if not self._leave_queue(state, claim):
                    self._return(state, claim, dead=False)
                return
            if claim.opened is not None:
                state.add_created(claim, self._clock())
            if claim.taken:
                self._return(state, claim, dead=True)
        finally:
            claim.lease = None
            self._process_returned(state, closing=closing)

    def release(self, item: T, broken: bool = False) -> None:
        """Return a connection to the pool. Waits for nothing but `is_dead` and `close`.

        Parameters:
            item: the connection that :meth:`acquire` returned.
            broken: the connection no longer works; `is_dead` is not called.

        Raises:
            PoolError: the connection is not checked out of this pool.
        """
        state = self._process_state()
        claim = state.checked_out.get(id(item))
        if claim is None:
            # A forked child releases a connection of its parent, which is dropped already.
            if state.inherited.pop(id(item), None) is None:
                raise not_checked_out_error()
            return
        try:
            dead = broken or self._check_dead(item)
        except BaseException:
            self._return(state, claim, dead=True)
            raise
        self._return(state, claim, dead)

    def close(self) -> None:
        """Close the pool: idle connections now, the others at their release."""
        state = self._process_state()
        self._exclusively(state, state.close_all)
        self._process_returned(state, all_of_them=True)

    def statistics(self) -> PoolStatistics:
        """Return the size of the pool, and its counters in this process."""
        state = self._process_state()

        def read() -> PoolStatistics:
            state.process_returned()
            return state.statistics()

        return self._exclusively(state, read)

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
            used = [claim.entry for claim in state.checked_out.values()]
            for entry in (*state.idle.values(), *state.to_close, *used):
                with contextlib.suppress(Exception):
                    if entry is not None:
                        self._drop_inherited(entry.item)
        return agreed

    def _exclusively(self, state: State[T], change: Callable[[], R]) -> R:
        """Return what `change` returns, which no other thread runs meanwhile."""
        try:
            result = state.section.run(change, None)
        finally:
            # What came while this thread was inside, also if it was interrupted.
            if state.returned:
                self._process_returned(state, closing=False)
        if result is OCCUPIED:
            raise PoolError(
                "this call comes from a finalizer or signal handler that has interrupted a call of "
                "the same pool; have another thread do it, or do it later"
            )
        return result

    def _wait(self, state: State[T], claim: Claim[T], timeout: float) -> None:
        waiter = claim.waiter
        assert waiter is not None, "only a claim that waits has one"
        self._process_returned(state)
        served = waiter.wakeup.acquire(timeout=min(max(0.0, timeout), threading.TIMEOUT_MAX))
        if served:
            claim.entry, claim.waiter, claim.taken = waiter.entry, None, True
        elif self._leave_queue(state, claim):
            raise self._timeout_error(state)

    def _leave_queue(self, state: State[T], claim: Claim[T]) -> bool:
        """Return True if the wait ends without a connection; else `claim` has what was served.

        It does not wait for the wake-up: that may have come before an interrupt, and does not come
        from a thread that was interrupted.
        """
        waiter = claim.waiter
        assert waiter is not None, "only a claim that waits has one"
        if not waiter.give_up():
            claim.entry, claim.waiter, claim.taken = waiter.entry, None, True
            return False
        with contextlib.suppress(ValueError):
            state.waiters.remove(waiter)
        claim.waiter = None
        return True

    def _return(self, state: State[T], claim: Claim[T], dead: bool) -> None:
        entry = claim.entry
        returned = Returned(entry, dead)
        try:
            if entry is None:
                claim.taken, claim.lease = False, None
                state.returned.append(returned)
                return
            key = id(entry.item)
            entry.released = self._clock()
            # Of two releases of one connection, the second gets the error.
            # No call between these two.
            try:
                if state.checked_out[key] is not claim:
                    raise not_checked_out_error()
                del state.checked_out[key]
            except KeyError:
                raise not_checked_out_error() from None
            claim.taken, claim.lease = False, None
            state.returned.append(returned)
        finally:
            try:
                self._process_returned(state)
            finally:
                # Interrupted, a waiter would not be served before the next call.
                if state.returned:
                    self._hand_over(state)

    def _process_returned(
        self, state: State[T], *, closing: bool = True, all_of_them: bool = False
    ) -> None:
        """Process what was returned while another call was inside, then close connections.

        Parameters:
            closing: whether to close discarded connections.
            all_of_them: close all of them; otherwise stop after `CLOSE_BUDGET` seconds and
                leave the rest to the next caller.
        """
        try:
            self._hand_over(state)
        finally:
            if state.returned:
                self._hand_over(state)
        if not (closing and state.to_close):
            return
        until = self._clock() + CLOSE_BUDGET
        while state.to_close and (all_of_them or self._clock() < until):
            self._close_one(state)

    def _hand_over(self, state: State[T]) -> None:
        # A call that is inside does it itself.
        while state.returned and not state.section.occupied:
            state.section.run(state.process_returned)

    def _close_one(self, state: State[T]) -> None:
        try:
            entry = state.to_close[0]
        except IndexError:
            return  # another thread closes it
        begun = False
        try:
            state.to_close.remove(entry)
            begun = True
            self._close(entry.item)
        except Exception as error:
            # An error of `close` is ignored. Not one that came before it.
            if not begun and not isinstance(error, ValueError):
                state.to_close.append(entry)
                raise
        except BaseException:
            # Perhaps it is still open: the next caller closes it.
            state.to_close.append(entry)
            raise

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
        state.timeouts += 1
        statistics = state.statistics()
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
    """A context manager that acquires a connection and releases it; see :meth:`Pool.lease`.

    An interrupt may come before the first line of the block, or of `__exit__`. Then the connection
    is returned when the lease is deleted.
    """

    __slots__ = ("__weakref__", "_claim", "_pool", "_timeout")

    def __init__(self, pool: Pool[T], timeout: float | None) -> None:
        self._claim: Claim[T] = Claim()
        self._pool = pool
        self._timeout = timeout

    def __enter__(self) -> T:
        # Not `__del__`, which would swallow an interrupt at the end of each block.
        abandon = functools.partial(_abandon, self._pool, self._claim)
        self._claim.lease = weakref.ref(self, abandon)
        return self._pool.fulfil(self._claim, self._timeout)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        entry = self._claim.entry
        # The garbage collector, which ends a generator, may have deleted the lease before.
        if entry is not None and self._claim.taken:
            broken = exc_type is not None and not issubclass(exc_type, Exception)
            self._pool.release(entry.item, broken)


def _abandon(pool: Pool[T], claim: Claim[T], _lease: object) -> None:
    # The garbage collector calls it in any thread, which must not wait.
    pool.give_up(claim, closing=False)
