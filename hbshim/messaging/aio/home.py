"""The event loop on which a driver was opened, and what threads have for it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from hbshim.errors import EventLoopError
from hbshim.messaging.threads import run_once
from hbshim.runtime.green import inspect_green

T = TypeVar("T")


def refuse_patches() -> None:
    """Raise an error where eventlet or gevent has patched the standard library.

    Raises:
        EventLoopError: it has.
    """
    library = inspect_green().library
    if library != "none":
        patcher = "eventlet and gevent have" if library == "both" else f"{library} has"
        raise EventLoopError(
            "hbshim.messaging.aio needs native threads and sockets, and "
            f"{patcher} patched them in this process; use hbshim.messaging, which waits green there"
        )


class Home:
    """One event loop.

    Attributes:
        loop: the event loop.
        wakeups: how often a thread has woken it up.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.wakeups = 0
        self._works: deque[Callable[[], object]] = deque()
        self._woken = False

    @classmethod
    def here(cls) -> Home:
        """Return that of the event loop that runs.

        Raises:
            EventLoopError: none runs in this thread.
        """
        try:
            return cls(asyncio.get_running_loop())
        except RuntimeError:
            raise EventLoopError(
                "no event loop runs in this thread; use hbshim.messaging.aio in a coroutine, and "
                "hbshim.messaging elsewhere"
            ) from None

    @property
    def is_here(self) -> bool:
        """Whether this event loop runs the calling thread."""
        try:
            return asyncio.get_running_loop() is self.loop
        except RuntimeError:
            return False

    def check(self) -> None:
        """Raise an error unless this event loop runs.

        Raises:
            EventLoopError: another one runs in this thread, or none.
        """
        if Home.here().loop is not self.loop:
            raise EventLoopError(
                "this driver was opened on another event loop (of another thread, an earlier "
                "asyncio.run(), or the parent process); open one on each loop with "
                "hbshim.messaging.aio.connect()"
            )

    def post(self, work: Callable[[], object]) -> bool:
        """Have the loop call a function; any thread may call this.

        All that is posted before the loop runs it costs one wake-up.

        Returns:
            False: the loop is closed, and the function may never be called.
        """
        self._works.append(work)
        if self._woken:
            return not self.loop.is_closed()
        try:
            self._woken = True
            self.loop.call_soon_threadsafe(self._run)
        except RuntimeError:
            self._woken = False
            return False
        except BaseException:
            # An interrupt: what is posted next wakes it up.
            self._woken = False
            raise
        self.wakeups += 1
        return True

    def _run(self) -> None:
        # First: what is posted from now on wakes it up again.
        self._woken = False
        try:
            for _ in range(len(self._works)):
                self._works.popleft()()
        finally:
            # An interrupt came between two of them.
            if self._works and not self._woken:
                self._woken = True
                self.loop.call_soon(self._run)

    async def in_thread(self, work: Callable[[], T], name: str = "hbshim-aio-control") -> T:
        """Run a function in a thread of its own; it goes on if this is cancelled.

        Raises:
            RuntimeError: no thread can be started.
        """
        future: asyncio.Future[T] = self.loop.create_future()

        run_once(partial(resolve, self, future, work), name)
        return await future


def resolve(home: Home, future: asyncio.Future[T], work: Callable[[], T]) -> None:
    """Run a function in this thread, and have a future of the loop get its result or error."""
    try:
        result = work()
    except BaseException as error:
        home.post(partial(set_error, future, error))
    else:
        home.post(partial(set_result, future, result))


def set_result(future: asyncio.Future[T], result: T) -> None:
    """Set the result of a future, unless it is cancelled."""
    if not future.done():
        future.set_result(result)


def set_error(future: asyncio.Future[T], error: BaseException) -> None:
    """Set the error of a future, unless it is cancelled."""
    if not future.done():
        future.set_exception(error)
