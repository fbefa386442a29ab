"""One operation of a driver, awaited on the event loop.

It begins in a thread of :class:`hbshim.messaging.threads.Threads`, because to send may take
time. While it waits for a reply it has no thread: a :class:`BackgroundReader` reads, and what is
left to do when the reply has arrived is done on the loop, or, if it takes time, in such a thread
again. Timers of the loop end it in time.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

from hbshim.errors import CallTimeoutError, MessagingError
from hbshim.messaging.aio.home import Home, set_error, set_result
from hbshim.messaging.base import LONGEST_TIMEOUT
from hbshim.messaging.steps import Steps, Wait
from hbshim.messaging.threads import Threads

if TYPE_CHECKING:
    from hbshim.messaging.reading import BackgroundReader
    from hbshim.messaging.role import ReaderRole

T = TypeVar("T")

#: Seconds after its deadline that an operation waits for a thread which ends it.
GRACE = 0.25


class _State(enum.Enum):
    #: It waits for a thread.
    QUEUED = enum.auto()
    #: It waits for the loop.
    POSTED = enum.auto()
    #: A thread, or the loop, is in it.
    RUNNING = enum.auto()
    #: It waits for a reply.
    WAITING = enum.auto()
    DONE = enum.auto()


class Operation(Generic[T]):
    """See the module.

    Parameters:
        home: the event loop.
        threads: run what takes time.
        reader_of: returns what reads for the operations of a role.
        steps: the operation.
        deadline: of ``time.monotonic()``.
        not_begun: makes the error for an operation that no thread has begun by then.
    """

    def __init__(
        self,
        home: Home,
        threads: Threads,
        reader_of: Callable[[ReaderRole], BackgroundReader],
        steps: Steps[T],
        deadline: float,
        not_begun: Callable[[], MessagingError],
    ) -> None:
        self._home = home
        self._threads = threads
        self._reader_of = reader_of
        self._steps = steps
        self._deadline = deadline
        self._not_begun = not_begun
        self._future: asyncio.Future[T] = home.loop.create_future()
        self._lock = threading.RLock()
        self._state = _State.QUEUED
        self._withdrawn = False
        self._wait: Wait | None = None
        self._reader: BackgroundReader | None = None
        self._error: BaseException | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = deadline

    async def run(self) -> T:
        """Return the result; cancelling this withdraws the operation."""
        self._threads.submit(self._run_in_thread)
        self._set_timer(self._deadline)
        try:
            return await self._future
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._withdraw()

    @property
    def is_over(self) -> bool:
        """Whether it has ended for the coroutine that awaits it, also by a cancellation."""
        return self._future.done()

    def end_with(self, error: BaseException) -> None:
        """Have :meth:`run` raise an error; called on the loop."""
        set_error(self._future, error)

    # -- what threads call -------------------------------------------------------

    def fail(self, error: BaseException) -> None:
        """Throw an error into it while it waits; see :class:`hbshim.messaging.reading.Party`."""
        self._go_on(error)

    def _notified(self) -> None:
        self._go_on(None)

    def _go_on(self, error: BaseException | None) -> None:
        """Have it go on after its wait."""
        with self._lock:
            if self._state is not _State.WAITING:
                return
            assert self._wait is not None
            waiter = self._wait.waiter
            # Another notification may come for what is handled now.
            waiter.wakeup.acquire(False)
            self._error = error
            brief = waiter.is_brief
            self._state = _State.POSTED if brief else _State.QUEUED
        if not brief:
            self._submit(self._run_in_thread)
        elif not self._home.post(self._run_on_loop):
            # The loop is closed: nothing awaits it any longer.
            self._withdraw()

    def _submit(self, work: Callable[[], None]) -> None:
        try:
            self._threads.submit(work)
        except RuntimeError as error:
            refused = error
            self._finish(lambda: set_error(self._future, refused), self._home.post)

    def _run_in_thread(self) -> None:
        if self._begin(_State.QUEUED):
            self._advance(self._home.post)

    def _run_on_loop(self) -> None:
        # One that is cancelled is withdrawn when its coroutine runs again.
        if not self.is_over and self._begin(_State.POSTED):
            self._advance(_call)

    def _begin(self, state: _State) -> bool:
        with self._lock:
            if self._state is not state:
                return False
            self._state = _State.RUNNING
            return True

    def _advance(self, on_loop: Callable[[Callable[[], None]], object]) -> None:
        """Go on to the next wait, or to the end.

        Parameters:
            on_loop: has the loop call a function.
        """
        error, self._error = self._error, None
        try:
            wait = next(self._steps) if error is None else self._steps.throw(error)
        except StopIteration as end:
            value: T = end.value
            self._finish(lambda: set_result(self._future, value), on_loop)
        except BaseException as raised:
            failed = raised
            self._finish(lambda: set_error(self._future, failed), on_loop)
        else:
            self._wait_for(wait, on_loop)

    def _wait_for(self, wait: Wait, on_loop: Callable[[Callable[[], None]], object]) -> None:
        with self._lock:
            withdrawn = self._withdrawn
            self._wait = wait
            self._state = _State.DONE if withdrawn else _State.WAITING
        if withdrawn:
            self._leave()
            self._steps.close()
            return
        try:
            if wait.role is not None and self._reader is None:
                self._reader = self._reader_of(wait.role)
                self._reader.add(self, self._deadline)
        except RuntimeError as error:
            self.fail(error)
            return
        if wait.until < self._timer_at:
            on_loop(lambda: self._set_timer(wait.until))
        wait.waiter.watch(self._notified)
        if wait.waiter.ready:
            self._notified()

    def _finish(
        self, end: Callable[[], None], on_loop: Callable[[Callable[[], None]], object]
    ) -> None:
        with self._lock:
            self._state = _State.DONE
        self._leave()
        on_loop(end)

    def _leave(self) -> None:
        if self._reader is not None:
            self._reader.remove(self)

    # -- what the loop calls -----------------------------------------------------

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        left = max(0.0, at - time.monotonic())
        self._timer = self._home.loop.call_later(left, self._on_timer)

    def _on_timer(self) -> None:
        now = time.monotonic()
        with self._lock:
            # What runs now, and waits later, sets another one.
            self._timer_at = LONGEST_TIMEOUT + now
            wait = self._wait
            if self._state is _State.DONE:
                return
            late = self._state is _State.WAITING and wait is not None and now >= wait.until
            unbegun = self._state is _State.QUEUED and now >= self._deadline
            if unbegun:
                self._state = _State.DONE
        if late and wait is not None:
            trouble = "" if self._reader is None else self._reader.trouble
            self._go_on(CallTimeoutError(trouble or wait.otherwise))
        if unbegun:
            self._leave()
            set_error(self._future, self._not_begun())
            self._close_steps()
        elif now >= self._deadline:
            if late:
                # If what the error leads to waits for a thread.
                self._set_timer(now + GRACE)
        else:
            next_time = self._deadline
            if not late and wait is not None and wait.until > now:
                next_time = min(next_time, wait.until)
            self._set_timer(next_time)

    def _withdraw(self) -> None:
        """End an operation whose result nothing waits for."""
        with self._lock:
            state = self._state
            if state is _State.DONE:
                return
            if state is _State.RUNNING:
                # A thread is in it, which ends it when it leaves it.
                self._withdrawn = True
                return
            self._state = _State.DONE
        self._leave()
        self._close_steps()

    def _close_steps(self) -> None:
        """Close the steps, in a thread if that takes time and one can be started."""
        if self._wait is not None and not self._wait.waiter.is_brief:
            with contextlib.suppress(RuntimeError):
                self._threads.submit(self._steps.close)
                return
        self._steps.close()


def _call(work: Callable[[], None]) -> None:
    work()
