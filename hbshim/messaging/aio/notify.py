"""Notifications for asyncio."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from hbshim.errors import ConnectionLostError, MessagingError, OptionError
from hbshim.messaging.aio.arguments import require_count, require_function
from hbshim.messaging.aio.driver import Driver, require_driver
from hbshim.messaging.aio.home import resolve
from hbshim.messaging.aio.serving import POLL_SLICE, Serving
from hbshim.messaging.base import CLOSE_LIMIT, PRIORITIES, Incoming, timeout_of
from hbshim.messaging.encoding import Encoding
from hbshim.messaging.handling import Handling
from hbshim.messaging.notify import (
    Notification,
    NotificationHandler,
    NotificationSender,
    notification_of,
    targets_of,
)
from hbshim.messaging.reporting import OnError, reporting_to
from hbshim.messaging.serving import START_LIMIT
from hbshim.messaging.threads import Threads, run_once

T = TypeVar("T")


class Notifier:
    """Sends notifications; each method returns when the broker has stored the notification.

    It has a coroutine for each priority: ``await notifier.info(event_type, payload)``. The
    parameters are those of :class:`hbshim.messaging.Notifier`.
    """

    def __init__(
        self,
        driver: Driver,
        topics: str | Sequence[str],
        publisher_id: str,
        *,
        timeout: float = 60.0,
        exchange: str | None = None,
        encoding: Encoding | None = None,
    ) -> None:
        require_driver(driver)
        self._driver = driver
        self._sender = NotificationSender(driver.beneath, topics, publisher_id, exchange, encoding)
        self._timeout = timeout_of(timeout)

    async def notify(self, priority: str, event_type: str, payload: Any) -> None:
        """Send a notification; if this is cancelled, it may have been sent.

        Raises:
            MessagingError: as :meth:`hbshim.messaging.Notifier.notify` does.
            PoolTimeoutError: all sender threads waited for confirmations.
        """
        body = self._sender.encoded(priority, event_type, payload)
        await self._driver._send(partial(self._sender.send, body, priority), self._timeout)

    async def debug(self, event_type: str, payload: Any) -> None:
        """Send a notification of this priority; see :meth:`notify`."""
        await self.notify("debug", event_type, payload)

    async def info(self, event_type: str, payload: Any) -> None:
        """Send a notification of this priority; see :meth:`notify`."""
        await self.notify("info", event_type, payload)

    async def audit(self, event_type: str, payload: Any) -> None:
        """Send a notification of this priority; see :meth:`notify`."""
        await self.notify("audit", event_type, payload)

    async def warn(self, event_type: str, payload: Any) -> None:
        """Send a notification of this priority; see :meth:`notify`."""
        await self.notify("warn", event_type, payload)

    async def error(self, event_type: str, payload: Any) -> None:
        """Send a notification of this priority; see :meth:`notify`."""
        await self.notify("error", event_type, payload)

    async def critical(self, event_type: str, payload: Any) -> None:
        """Send a notification of this priority; see :meth:`notify`."""
        await self.notify("critical", event_type, payload)

    async def sample(self, event_type: str, payload: Any) -> None:
        """Send a notification of this priority; see :meth:`notify`."""
        await self.notify("sample", event_type, payload)


class NotificationServer(Serving):
    """Passes notifications to endpoints, and acknowledges those that they have handled.

    Methods that are ``async def`` run on the event loop, others in worker threads. A notification
    whose method is cancelled is requeued.

    Parameters:
        driver: see :func:`hbshim.messaging.aio.connect`.
        threads: the most worker threads for methods that are not ``async def``.
        topics, endpoints, exchange, pool, workers, batch_size, batch_timeout, prefetch, encoding,
            on_error: as for :class:`hbshim.messaging.NotificationServer`.

    Raises:
        OptionError: as there.
    """

    def __init__(
        self,
        driver: Driver,
        topics: Sequence[str],
        endpoints: Sequence[object],
        *,
        exchange: str | None = None,
        pool: str | None = None,
        workers: int = 1,
        threads: int = 8,
        batch_size: int | None = None,
        batch_timeout: float | None = None,
        prefetch: int | None = None,
        encoding: Encoding | None = None,
        on_error: OnError | None = None,
    ) -> None:
        require_driver(driver)
        require_function("on_error", on_error)
        self._handler = NotificationHandler(
            endpoints,
            encoding or Encoding(limit=driver.payload_limit),
            on_error,
            batched=batch_size is not None,
        )
        for name, value in (("workers", workers), ("batch_size", batch_size or 1)):
            require_count(name, value)
        if prefetch is None:
            prefetch = 2 * workers * (batch_size or 1)
        listener = driver.beneath.listen_for_notifications(
            self._handler.targets(topics, exchange), pool, prefetch
        )
        super().__init__(
            driver,
            listener,
            self._handlings,
            self._handler.on_error,
            concurrency=workers,
            threads=threads,
            batch_size=1 if batch_size is None else batch_size,
            batch_timeout=batch_timeout,
            requeues=True,
        )

    def _handlings(self, batch: Sequence[Incoming]) -> Sequence[Handling]:
        return [self._handler.handling(batch)]


class Listener:
    """Notifications for ``async for``; an asynchronous context manager that receives them.

    A notification is acknowledged when the next one is asked for, and when the ``async with`` block
    ends without an error. If it ends with one, the notification is handled again later, here or by
    another listener. What was received beyond that is requeued.

    Parameters:
        driver: see :func:`hbshim.messaging.aio.connect`.
        topics: the topics to listen to.
        priorities: of the notifications.
        pool: listeners of one pool share the notifications; each pool gets all of them.
        exchange: None: the option `default_notification_exchange`.
        prefetch: the most notifications that are received ahead.
        encoding: by default JSON.
        on_error: called in any thread with errors from which it recovers, and with those of
            notifications that cannot be decoded; by default they are logged.

    Raises:
        OptionError: no topic, or an unknown priority.
    """

    def __init__(
        self,
        driver: Driver,
        topics: Sequence[str],
        *,
        priorities: Sequence[str] = PRIORITIES,
        pool: str | None = None,
        exchange: str | None = None,
        prefetch: int = 16,
        encoding: Encoding | None = None,
        on_error: OnError | None = None,
    ) -> None:
        if isinstance(priorities, str) or not priorities or set(priorities) - set(PRIORITIES):
            raise OptionError(
                f"priorities must be a list of some of {', '.join(PRIORITIES)}, got {priorities!r}"
            )
        require_count("prefetch", prefetch)
        require_function("on_error", on_error)
        require_driver(driver)
        self._driver = driver
        self._encoding = encoding or Encoding(limit=driver.payload_limit)
        self._on_error = reporting_to(on_error)
        self._prefetch = prefetch
        targets = targets_of(topics, priorities, exchange)
        self._listener = driver.beneath.listen_for_notifications(targets, pool, prefetch)
        self._listener.on_error = self._on_error
        self._thread = Threads("hbshim-aio-listener", 1)
        self._received: deque[Incoming] = deque()
        self._current: Incoming | None = None
        self._state = "new"

    async def start(self, timeout: float = START_LIMIT) -> bool:
        """Connect; return whether notifications can reach it already.

        Parameters:
            timeout: seconds to wait for the broker. After that it keeps trying.

        Raises:
            ConnectError, TopologyError: as :meth:`hbshim.messaging.Server.start` does.
            MessagingError: it was started or stopped before.
        """
        self._driver._here()
        if self._state != "new":
            raise MessagingError(f"this listener is {self._state}; create a new one")
        timeout = timeout_of(timeout)
        self._state = "started"
        try:
            return await self._in_thread(partial(self._listener.open, timeout))
        except MessagingError:
            self._state = "new"
            raise
        except BaseException:
            # Nothing would take what the broker sends it.
            self._state = "stopped"
            run_once(self._give_up, "hbshim-aio-close")
            raise

    def _give_up(self) -> None:
        """Give back what was received, in another thread than the one that opens."""
        self._listener.stop()
        self._thread.submit(partial(self._end, CLOSE_LIMIT, True))

    def __aiter__(self) -> Listener:
        return self

    async def __anext__(self) -> Notification:
        """Acknowledge the last notification, and wait for the next one.

        Raises:
            MessagingError: it was not started.
            ConnectionLostError: the driver was closed.
        """
        self._driver._here()
        if self._state == "stopped":
            raise StopAsyncIteration
        if self._state == "new":
            raise MessagingError("this listener was not started; use `async with listener:`")
        while True:
            if not self._received or self._current is not None:
                current, self._current = self._current, None
                await self._in_thread(partial(self._receive, current))
            incoming = self._take()
            if incoming is None:
                if self._state == "stopped":
                    raise StopAsyncIteration
                continue
            try:
                notification = notification_of(incoming, self._encoding)
            except MessagingError as error:
                self._on_error(error)
                await self._in_thread(partial(incoming.reject, str(error)))
            else:
                self._current = incoming
                return notification

    def _receive(self, current: Incoming | None) -> None:
        """Acknowledge what was handled, and wait for more; in the thread."""
        if current is not None:
            current.acknowledge()
        if self._received or self._state == "stopped":
            return
        began = time.monotonic()
        batch = self._listener.poll(POLL_SLICE, self._prefetch)
        self._received.extend(batch)
        if not batch and time.monotonic() - began < POLL_SLICE and self._state != "stopped":
            self._state = "stopped"
            raise ConnectionLostError("the driver was closed while a listener waited")

    def _take(self) -> Incoming | None:
        """Remove and return what was received first; None if nothing is left."""
        # The loop takes it, and at the end the thread gives it back.
        try:
            return self._received.popleft()
        except IndexError:
            return None

    async def requeue(self) -> None:
        """Have the current notification handled again later, here or by another listener."""
        current, self._current = self._current, None
        if current is not None:
            await self._in_thread(current.requeue)

    async def stop(self, timeout: float = CLOSE_LIMIT) -> None:
        """Acknowledge the current notification, requeue what was received, and close."""
        await self._stop(timeout, requeue=False)

    async def _stop(self, timeout: float, *, requeue: bool) -> None:
        self._driver._here()
        self._state = "stopped"
        await asyncio.shield(asyncio.ensure_future(self._stop_whole(timeout, requeue)))

    async def _stop_whole(self, timeout: float, requeue: bool) -> None:
        # It ends a poll in the other thread.
        await self._driver._here().in_thread(partial(self._listener.stop, timeout))
        await self._in_thread(partial(self._end, timeout, requeue))

    def _end(self, timeout: float, requeue: bool) -> None:
        """Settle what is left; in the thread."""
        current, self._current = self._current, None
        try:
            if current is not None:
                if requeue:
                    current.requeue()
                else:
                    current.acknowledge()
            while (incoming := self._take()) is not None:
                incoming.return_to_queue()
        finally:
            self._listener.close(timeout)
            self._thread.close()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        home = self._driver._here()
        future: asyncio.Future[T] = home.loop.create_future()
        self._thread.submit(partial(resolve, home, future, work))
        return await future

    async def __aenter__(self) -> Listener:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stop(CLOSE_LIMIT, requeue=kind is not None)
