"""What a server does with one message, or one batch: its methods in turn, each where it belongs.

A method that is ``async def`` runs on the event loop, any other one in a worker thread. What comes
before and after it, as the reply, may wait for the broker, and is done in threads.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import weakref
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

from hbshim.errors import MessagingError
from hbshim.messaging.aio.home import Home
from hbshim.messaging.handling import Handling, Invocation
from hbshim.messaging.reporting import OnError, ends_thread
from hbshim.messaging.threads import Threads


class Place(Protocol):
    """Where works run; see :class:`hbshim.messaging.aio.serving.Serving`."""

    home: Home
    #: Run methods that are not ``async def``, and send replies.
    workers: Threads
    repliers: Threads
    on_error: OnError
    #: A message whose method is cancelled is requeued.
    requeues: bool

    def _argument(self, first: Any) -> Any:
        """Return the first argument of an ``async def`` method for that of another one."""
        ...

    def _cancels(self, work: Work) -> bool:
        """Return whether no further method of `work` may begin."""
        ...

    def _ended(self, work: Work) -> None:
        """Note that a work has ended, in any thread."""
        ...


class _Raised(NamedTuple):
    """An error of a method that its task must not end with."""

    error: BaseException


#: The work whose method runs in this task, or has started it.
_current: contextvars.ContextVar[weakref.ref[Work] | None] = contextvars.ContextVar(
    "hbshim_work", default=None
)


def current_work() -> Work | None:
    """Return the work whose method calls this, itself or in a task that it has started."""
    reference = _current.get()
    return None if reference is None else reference()


async def _guarded(awaitable: Awaitable[Any], work: Work) -> Any:
    _current.set(weakref.ref(work))
    try:
        return await awaitable
    except SystemExit as error:
        # It would end the event loop.
        return _Raised(error)
    except asyncio.CancelledError:
        if _is_cancelled(asyncio.current_task()):
            raise
        # What the method awaited was cancelled. Given back, the message would come again at once.
        return _Raised(
            MessagingError("the method raised CancelledError: what it awaited was cancelled")
        )


def _is_cancelled(task: Any) -> bool:
    """Return whether a task was cancelled itself; always True before Python 3.11."""
    return not hasattr(task, "cancelling") or task.cancelling() > 0


class Work:
    """One message or batch.

    Attributes:
        task: the method that runs on the event loop.
        on_loop: it waits for the event loop.
    """

    def __init__(self, place: Place, handling: Handling) -> None:
        self._place = place
        self._handling = handling
        self.task: asyncio.Future[Any] | None = None
        self.on_loop = False
        # The invocation that waits for a worker thread. What pops it decides what becomes of it.
        self._queued: list[Invocation] = []

    def begin(self) -> None:
        """Begin it, in the thread that received it."""
        self._advance(partial(next, self._handling))

    def cancel(self) -> None:
        """Cancel a method on the event loop, and one that waits for a thread; called on the loop.

        One that runs in a thread cannot be cancelled.
        """
        if self.task is not None:
            self.task.cancel()
        elif self._take_queued() is not None:
            self._end_cancelled()

    def _take_queued(self) -> Invocation | None:
        try:
            return self._queued.pop()
        except IndexError:
            return None

    def _advance(self, step: Callable[[], Invocation]) -> None:
        try:
            invocation = step()
        except StopIteration:
            self._place._ended(self)
        except BaseException as error:
            if not ends_thread(error):
                self._place.on_error(error)
            self._place._ended(self)
        else:
            self._invoke(invocation)

    def _invoke(self, invocation: Invocation) -> None:
        method = invocation.method
        if self._place._cancels(self):
            self._end_cancelled()
            return
        if not inspect.iscoroutinefunction(method):
            self._queued.append(invocation)
            self._submit(self._place.workers, self._call)
            return
        first = self._place._argument(invocation.first)
        self._await(partial(method, first, **invocation.arguments))

    def _call(self) -> None:
        """Call a method in a worker thread."""
        invocation = self._take_queued()
        if invocation is None:
            return  # cancelled
        try:
            value = invocation.method(invocation.first, **invocation.arguments)
        except BaseException as error:
            self._advance(partial(self._handling.throw, error))
        else:
            if inspect.isawaitable(value):
                awaitable = value
                self._await(lambda: awaitable)
            else:
                self._advance(partial(self._handling.send, value))

    def _await(self, make: Callable[[], Awaitable[Any]]) -> None:
        self.on_loop = True
        if not self._place.home.post(partial(self._start_task, make)):
            self.give_back()

    def _start_task(self, make: Callable[[], Awaitable[Any]]) -> None:
        if self._place._cancels(self):
            self._end_cancelled()
            return
        try:
            self.task = asyncio.ensure_future(_guarded(make(), self))
        except Exception as error:
            # Its arguments do not fit.
            self._advance_in_thread(partial(self._handling.throw, error))
            return
        self.task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Future[Any]) -> None:
        self.task = None
        if task.cancelled():
            self._end_cancelled()
            return
        error = task.exception()
        if error is None and isinstance(task.result(), _Raised):
            error = task.result().error
        if error is not None:
            self._advance_in_thread(partial(self._handling.throw, error))
        else:
            self._advance_in_thread(partial(self._handling.send, task.result()))

    def _end_cancelled(self) -> None:
        """Requeue the message, or send its caller an error."""
        if self._place.requeues:
            self._submit(self._place.repliers, self.give_back)
            return
        error = MessagingError(
            "the method was cancelled: its server stops, or the event loop of that"
        )
        self._advance_in_thread(partial(self._handling.throw, error))

    def _advance_in_thread(self, step: Callable[[], Invocation]) -> None:
        self.on_loop = False
        self._submit(self._place.repliers, partial(self._advance, step))

    def _submit(self, threads: Threads, work: Callable[[], None]) -> None:
        try:
            threads.submit(work)
        except RuntimeError as error:
            self._place.on_error(error)
            self.give_back()

    def give_back(self) -> None:
        """End it without an answer; what is not acknowledged goes back."""
        try:
            self._handling.close()
        except Exception as error:
            self._place.on_error(error)
        self._place._ended(self)
