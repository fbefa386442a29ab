"""Starting, running, pausing and stopping, for servers of calls and of notifications on asyncio.

One thread receives. It takes a slot before each message, so none is received that could not begin.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from hbshim.errors import EventLoopError, MessagingError
from hbshim.messaging.aio.arguments import require_count
from hbshim.messaging.aio.driver import Driver
from hbshim.messaging.aio.home import Home, resolve, set_result
from hbshim.messaging.aio.work import Work, current_work
from hbshim.messaging.base import CLOSE_LIMIT, Incoming, Listener, timeout_of
from hbshim.messaging.handling import Handling
from hbshim.messaging.reporting import OnError, ends_thread
from hbshim.messaging.serving import PAUSE_AFTER_ERROR, START_LIMIT
from hbshim.messaging.threads import Threads, run_once

S = TypeVar("S", bound="Serving")

#: Seconds of one wait for messages; then it is checked whether the event loop is closed.
POLL_SLICE = 1.0

#: The most messages that are received at once.
MOST_AT_ONCE = 64

#: How many threads send replies and acknowledgements.
REPLIERS = 4

#: Seconds that a stop waits for what methods that were cancelled leave to do.
CANCEL_LIMIT = 1.0


class Serving:
    """A listener, and what runs the methods; an asynchronous context manager that serves.

    Parameters:
        driver: the driver.
        listener: receives the messages.
        handlings: returns what is to be done with a batch.
        on_error: called with each error, in any thread; must not raise.
        concurrency: how many messages or batches are handled at the same time.
        threads: the number of worker threads for methods that are not ``async def``.
        batch_size, batch_timeout: of a batch; see :meth:`hbshim.messaging.base.Listener.poll`.
            Without `batch_size`, each message is handled for itself.
        requeues: a message whose method is cancelled is requeued.

    Raises:
        OptionError: a number is below 1.
    """

    def __init__(
        self,
        driver: Driver,
        listener: Listener,
        handlings: Callable[[Sequence[Incoming]], Sequence[Handling]],
        on_error: OnError,
        *,
        concurrency: int,
        threads: int,
        batch_size: int | None = None,
        batch_timeout: float | None = None,
        requeues: bool,
    ) -> None:
        for name, value in (
            ("workers", concurrency),
            ("threads", threads),
            ("batch_size", 1 if batch_size is None else batch_size),
        ):
            require_count(name, value)
        self.on_error = on_error
        self.workers = Threads("hbshim-aio-worker", threads, run_application=True)
        self.repliers = Threads("hbshim-aio-reply", REPLIERS)
        self.home: Home
        self._driver = driver
        self._listener = listener
        self._handlings = handlings
        self._batch = (batch_size or 1, batch_timeout)
        self._separately = batch_size is None
        self.requeues = requeues
        self._slots = threading.Semaphore(concurrency)
        self._works: set[Work] = set()
        self._thread: threading.Thread | None = None
        self._started = self._receiving = self._stopped = self._closed = False
        self._changes: set[asyncio.Future[None]] = set()
        self._closing: asyncio.Future[None] | None = None
        # Methods that have not ended are cancelled, apart from one that stops the server itself.
        self._cancelling = False
        self._own: Work | None = None
        self._pid = os.getpid()
        listener.on_error = on_error

    async def _reply(self, work: Callable[[], None]) -> None:
        """Run what sends a reply in a thread."""
        future: asyncio.Future[None] = self.home.loop.create_future()
        self.repliers.submit(partial(resolve, self.home, future, work))
        await future

    def _argument(self, first: Any) -> Any:
        """See :class:`hbshim.messaging.aio.work.Place`."""
        return first

    def _cancels(self, work: Work) -> bool:
        """See :class:`hbshim.messaging.aio.work.Place`."""
        return self._cancelling and work is not self._own

    # -- what the application calls ----------------------------------------------

    async def start(self, timeout: float = START_LIMIT) -> bool:
        """Receive messages.

        Parameters:
            timeout: seconds to wait for the broker. After that the server has started all the
                same, and keeps trying to connect.

        Returns:
            Whether messages can reach it already.

        Raises:
            ConnectError, TopologyError: as :meth:`hbshim.messaging.Server.start` does.
            MessagingError: the server was started or stopped before.
            EventLoopError: the driver was opened on another event loop.
        """
        self.home = self._driver._here()
        if self._stopped:
            raise MessagingError(
                "this server was stopped and cannot be restarted; create a new one"
            )
        if self._started:
            raise MessagingError("this server was started already")
        timeout = timeout_of(timeout)
        self._started = True
        try:
            opened = await self.home.in_thread(partial(self._listener.open, timeout))
            if not self._stopped:
                self._receiving = True
                self._thread = run_once(self._receive, "hbshim-aio-server")
        except MessagingError:
            self._started = False
            raise
        except BaseException:
            # A listener that nothing polls would hold what the broker sends it.
            self._stopped, self._receiving = True, False
            run_once(partial(self._close, CLOSE_LIMIT), "hbshim-aio-close")
            raise
        return opened

    async def pause(self) -> None:
        """Receive nothing until :meth:`resume`; messages stay in their queues."""
        await self._driver._here().in_thread(self._listener.pause)

    async def resume(self) -> None:
        """Receive messages again."""
        await self._driver._here().in_thread(self._listener.resume)

    async def stop(self, timeout: float | None = None) -> bool:
        """Wait for what is running, requeue the rest, and close.

        Parameters:
            timeout: seconds after which ``async def`` methods that still run are cancelled, and
                others that wait for a thread are not begun. What is not acknowledged is requeued
                then, and other callers get an error. It returns within another second. None: wait
                until all these methods end.

        Returns:
            Whether all methods have ended without that.
        """
        home = self.home = self._driver._here()
        limit = CLOSE_LIMIT if timeout is None else timeout_of(timeout)
        deadline = None if timeout is None else time.monotonic() + limit
        self._stopped = True
        # A method may stop its server.
        own = current_work()
        if own not in self._works:
            own = None
        try:
            await home.in_thread(partial(self._listener.stop, limit))
            if own is not None:
                # What is left to be received needs a slot, too.
                self._slots.release()
            ended = await self._wait_for_works(deadline, own) and await self._last_poll(deadline)
            if not ended:
                self._cancel(own)
                await self._wait_for_works(time.monotonic() + CANCEL_LIMIT, own)
        finally:
            left = CLOSE_LIMIT if deadline is None else max(0.0, deadline - time.monotonic())
            self._closing = asyncio.ensure_future(self._close_after(own, left))
        if own is None:
            await asyncio.shield(self._closing)
        return ended

    async def __aenter__(self: S) -> S:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def _wait_for_works(self, deadline: float | None, own: Work | None) -> bool:
        """Wait until nothing runs, apart from the method that stops the server itself."""
        while True:
            changed = self._next_change()
            if not (self._receiving or set(self._works) - {own}):
                return True
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            await asyncio.wait([changed], timeout=left)

    async def _last_poll(self, deadline: float | None) -> bool:
        """Wait for the replies that the listener has left to its threads; it has stopped."""
        over: asyncio.Future[None] = self.home.loop.create_future()
        run_once(partial(resolve, self.home, over, self._return_rest), "hbshim-aio-control")
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        await asyncio.wait([over], timeout=left)
        return over.done()

    def _return_rest(self) -> None:
        for incoming in self._listener.poll():
            incoming.return_to_queue()

    def _cancel(self, own: Work | None) -> None:
        self._own, self._cancelling = own, True
        for work in list(self._works):
            if work is not own:
                work.cancel()

    async def _close_after(self, own: Work | None, timeout: float) -> None:
        """Close the listener, once the reply of the method that stops its server is sent."""
        while own in self._works:
            changed = self._next_change()
            if own in self._works:
                await changed
        await self._driver._here().in_thread(partial(self._close, timeout))

    def _close(self, timeout: float) -> None:
        self._listener.close(timeout)
        self._closed = True
        self.workers.close()
        self.repliers.close()

    # -- what threads call -------------------------------------------------------

    def _ended(self, work: Work) -> None:
        """See :class:`hbshim.messaging.aio.work.Place`."""
        try:
            self._works.remove(work)
        except KeyError:
            return  # requeued by another thread
        self._slots.release()
        if self._stopped:
            self.home.post(self._note_change)

    def _next_change(self) -> asyncio.Future[None]:
        changed = self.home.loop.create_future()
        self._changes.add(changed)
        changed.add_done_callback(self._changes.discard)
        return changed

    def _note_change(self) -> None:
        for changed in list(self._changes):
            set_result(changed, None)

    def _receive(self) -> None:
        try:
            self._receive_all()
        finally:
            self._receiving = False
            self.home.post(self._note_change)
            # What still runs is ended by a thread that starts for it.
            self.workers.close()
            self.repliers.close()

    def _receive_all(self) -> None:
        while True:
            try:
                if not self._receive_once():
                    return
            except BaseException as error:
                if ends_thread(error):
                    raise
                self.on_error(error)
                time.sleep(PAUSE_AFTER_ERROR)
            if self.home.loop.is_closed():
                self._abandon()
                return

    def _receive_once(self) -> bool:
        """Receive what there is, as far as there are slots; return False at the end."""
        if not self._slots.acquire(timeout=POLL_SLICE):
            # Methods that ignore their cancellation never free theirs.
            return not self._closed
        free = 1
        try:
            size, timeout = self._batch
            while self._separately and free < MOST_AT_ONCE and self._slots.acquire(blocking=False):
                free += 1
            began = time.monotonic()
            batch = self._listener.poll(POLL_SLICE, free if self._separately else size, timeout)
            if not batch:
                # An earlier end is that of the listener.
                return not self._stopped and time.monotonic() - began >= POLL_SLICE
            for handling in self._handlings(batch):
                free -= 1
                work = Work(self, handling)
                self._works.add(work)
                work.begin()
            return True
        finally:
            for _ in range(free):
                self._slots.release()

    def _abandon(self) -> None:
        """Give back what there is: the event loop was closed before the server was stopped."""
        self._stopped = True
        self.on_error(
            EventLoopError(
                "the event loop was closed while a server ran on it; the server has stopped. Use "
                "`async with server:`, or await server.stop() before the loop ends"
            )
        )
        self._listener.stop()
        for work in list(self._works):
            if work.on_loop:
                work.give_back()
        self._close(CLOSE_LIMIT)
