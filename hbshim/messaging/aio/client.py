"""The client for asyncio: call, cast, submit."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from hbshim.errors import CallTimeoutError, OptionError
from hbshim.messaging.aio.driver import Driver
from hbshim.messaging.base import Reply, timeout_of
from hbshim.messaging.base_client import BaseClient
from hbshim.messaging.steps import RepliesInSteps, at_once
from hbshim.messaging.storing import PendingReply


@dataclasses.dataclass(frozen=True)
class Client(BaseClient[Driver]):
    """Calls methods of servers, on the event loop of its driver.

    Its parameters and :meth:`prepare` are those of :class:`hbshim.messaging.Client`; `driver` is a
    :class:`Driver` of this package, and `on_progress` is called on the event loop.
    """

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
        self._waiting = asyncio.Lock()

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
        replies = self._replies
        async with self._waiting:
            if isinstance(replies, RepliesInSteps):
                steps = replies.receive_steps(timeout)
            else:
                steps = at_once(partial(replies.receive, timeout))
            return await self._client.driver._receive(steps, timeout)

    async def close(self) -> None:
        """Stop waiting in this process; the result is kept for :meth:`Client.attach`."""
        if self._pending is not None:
            await self._client.driver._here().in_thread(self._pending.close)
