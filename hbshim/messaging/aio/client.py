"""The client for asyncio: call, cast, submit."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from hbshim.errors import CallTimeoutError, OptionError
from hbshim.messaging.aio.arguments import require_function
from hbshim.messaging.aio.driver import Driver, require_driver
from hbshim.messaging.aio.home import set_result
from hbshim.messaging.base import Reply, timeout_of
from hbshim.messaging.base_client import BaseClient
from hbshim.messaging.steps import RepliesInSteps, at_once
from hbshim.messaging.storing import PendingReply
from hbshim.messaging.target import Target


@dataclasses.dataclass(frozen=True)
class Client(BaseClient[Driver]):
    """Calls methods of servers, on the event loop of its driver.

    Its parameters and :meth:`prepare` are those of :class:`hbshim.messaging.Client`; `driver` is a
    :class:`Driver` of this package, and `on_progress` is called on the event loop.
    """

    def __post_init__(self) -> None:
        require_driver(self.driver)
        if not isinstance(self.target, Target):
            raise OptionError(f"target must be a hbshim.messaging.Target, got {self.target!r}")
        require_function("on_progress", self.on_progress)
        if self.call_monitor_timeout is not None:
            timeout_of(self.call_monitor_timeout)

    async def call(self, method: str, /, **arguments: Any) -> Any:
        """CALL: have one server run a method, and return its result.

        Cancelling this withdraws the call: no report and no reply reaches it any more. The server
        may run it all the same.

        Raises:
            Exception: as :meth:`hbshim.messaging.Client.call` does.
            EventLoopError: the driver was opened on another event loop.
        """
        self._refuse_fanout("call")
        payload = self._payload(method, arguments, self.call_monitor_timeout)
        reply = await self.driver.call(
            self.target,
            payload,
            self._timeout,
            call_monitor_timeout=self.call_monitor_timeout,
            on_reply=None if self.on_progress is None else self._report(self.on_progress),
            mandatory=self.mandatory,
        )
        return self._result(reply)

    async def cast(self, method: str, /, **arguments: Any) -> None:
        """CAST or FANOUT: have one server, or all of them, run a method; no result is returned.

        Raises:
            MessagingError: as :meth:`hbshim.messaging.Client.cast` does.
            PoolTimeoutError: all sender threads waited for confirmations.
        """
        await self.driver.cast(self.target, self._payload(method, arguments), self._timeout)

    async def submit(self, method: str, /, **arguments: Any) -> Task:
        """Store a request for a server that may start later. Its queue must exist.

        Raises:
            MessagingError: as :meth:`hbshim.messaging.Client.submit` does.
        """
        self._refuse_fanout("submit")
        payload = self._payload(method, arguments)
        pending = await self.driver.submit(
            self.target,
            payload,
            self._timeout,
            ignore_result=self.ignore_result,
            result_lifetime=self.result_lifetime,
        )
        return Task(pending, self)

    def attach(self, task_id: str) -> Task:
        """Return a task that this or another process submitted.

        Parameters:
            task_id: its :attr:`Task.id`.
        """
        return Task(self.driver.attach(task_id), self)


class Task:
    """A submitted request: its progress reports, and its result. One coroutine at a time waits."""

    def __init__(self, pending: PendingReply | None, client: Client) -> None:
        self._pending = pending
        self._client = client
        self._reply: Reply | None = None
        # Of the coroutine that waits for a reply: done when another one may.
        self._turn: asyncio.Future[None] | None = None

    @property
    def id(self) -> str:
        """For :meth:`Client.attach`, in any process."""
        return self._replies.id

    @property
    def _replies(self) -> PendingReply:
        if self._pending is None:
            raise OptionError("the request was submitted with ignore_result; it has no result")
        return self._pending

    async def progress(self, timeout: float) -> AsyncIterator[Any]:
        """Yield each progress report when it arrives, until the result is available.

        Raises:
            CallTimeoutError: nothing arrived within `timeout` seconds.
        """
        while self._reply is None:
            reply = await self._receive(timeout)
            if reply.kind == "progress":
                yield self._client._value(reply)
            else:
                self._reply = reply

    async def result(self, timeout: float) -> Any:
        """Wait for the result, and skip progress reports.

        Raises:
            Exception: as :meth:`hbshim.messaging.Task.result` does.
        """
        timeout = timeout_of(timeout)
        deadline = time.monotonic() + timeout
        while self._reply is None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise CallTimeoutError(f"no result within {timeout:g} s; it may come later")
            reply = await self._receive(left)
            if reply.kind != "progress":
                self._reply = reply
        return self._client._result(self._reply)

    async def _receive(self, timeout: float) -> Reply:
        replies, driver = self._replies, self._client.driver
        deadline = time.monotonic() + timeout_of(timeout)
        loop = driver._here().loop
        while self._turn is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise CallTimeoutError("another coroutine waits for the replies to this request")
            await asyncio.wait([self._turn], timeout=left)
        if self._reply is not None:
            return self._reply
        self._turn = turn = loop.create_future()
        try:
            left = max(0.0, deadline - time.monotonic())
            if isinstance(replies, RepliesInSteps):
                steps = replies.receive_steps(left)
            else:
                steps = at_once(partial(replies.receive, left))
            return await driver._receive(steps, left)
        finally:
            self._turn = None
            set_result(turn, None)

    async def close(self) -> None:
        """Stop waiting in this process; the result is kept for :meth:`Client.attach`."""
        if self._pending is not None:
            await self._client.driver._here().in_thread(self._pending.close)
