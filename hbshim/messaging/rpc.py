"""The client: call, cast, submit."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

from hbshim.errors import CallTimeoutError, OptionError
from hbshim.messaging.base import Driver, Reply, timeout_of
from hbshim.messaging.base_client import BaseClient
from hbshim.messaging.storing import PendingReply, require_store


@dataclasses.dataclass(frozen=True)
class Client(BaseClient[Driver]):
    """Calls methods of servers.

    Parameters:
        driver: see :func:`hbshim.messaging.connect`.
        target: the server, or with `fanout` all servers of the topic, for :meth:`cast`.
        timeout: seconds for a whole call, and for a cast in its queue; DEFAULT: the driver's
            option `rpc_timeout`.
        encoding: encodes arguments and results; by default JSON.
        context: sent with each request; the method gets it as ``request.context``.
        allowed_errors: modules whose errors keep their type in the client; others become a
            :class:`hbshim.errors.RemoteError`. So do hbshim's own errors, because they happened in
            a call that the method made; except `NoSuchMethodError` and `PayloadError`.
        call_monitor_timeout: seconds without a keepalive of the server after which a call fails
            early; the server sends one every third of them. None: only `timeout` counts.
        on_progress: called with what the method reports before it ends.
        mandatory: a call fails at once if no server has declared its queue yet.
        ignore_result: :meth:`submit` requests no result.
        result_lifetime: seconds for which the result of :meth:`submit` is kept while no caller
            waits for it; longer than the method takes, or :data:`hbshim.messaging.NEVER`;
            DEFAULT: the option `result_expiration`.
    """

    def call(self, method: str, /, **arguments: Any) -> Any:
        """CALL: have one server run a method, and return its result.

        Raises:
            Exception: an error of the method, if `allowed_errors` has its module.
            RemoteError: any other error of the method.
            CallTimeoutError: no reply in time.
            NoSuchMethodError: the server has no such method in this namespace and version.
            PayloadError: an argument cannot be sent.
            UnroutableError, ConnectError: see :meth:`hbshim.messaging.base.Driver.call`.
            OptionError: the target is a fanout.
        """
        self._refuse_fanout("call")
        # Only a caller that waits gets keepalives.
        payload = self._payload(method, arguments, self.call_monitor_timeout)
        on_reply = None if self.on_progress is None else self._report(self.on_progress)
        reply = self.driver.call(
            self.target,
            payload,
            self._timeout,
            call_monitor_timeout=self.call_monitor_timeout,
            on_reply=on_reply,
            mandatory=self.mandatory,
        )
        return self._result(reply)

    def cast(self, method: str, /, **arguments: Any) -> None:
        """CAST or FANOUT: have one server, or all of them, run a method; no result is returned.

        Raises:
            PayloadError: an argument cannot be sent.
            MessagingError: it was not sent.
        """
        self.driver.cast(self.target, self._payload(method, arguments), self._timeout)

    def submit(self, method: str, /, **arguments: Any) -> Task:
        """Store a request for a server that may start later. Its queue must exist.

        The result is stored in its own queue, and kept when this process ends: :meth:`attach`
        receives it in any process.

        Raises:
            UnroutableError: there is no queue; see
                :meth:`hbshim.messaging.storing.StoringDriver.declare_queue`.
            OptionError: the driver does not store requests.
            PayloadError: an argument cannot be sent.
            MessagingError: it was not stored.
        """
        self._refuse_fanout("submit")
        payload = self._payload(method, arguments)
        pending = require_store(self.driver).submit(
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
        return Task(require_store(self.driver).attach(task_id), self)


class Task:
    """A submitted request: its progress reports, and its result."""

    def __init__(self, pending: PendingReply | None, client: Client) -> None:
        self._pending = pending
        self._client = client
        self._reply: Reply | None = None

    @property
    def id(self) -> str:
        """For :meth:`Client.attach`, in any process."""
        return self._replies.id

    @property
    def _replies(self) -> PendingReply:
        if self._pending is None:
            raise OptionError("the request was submitted with ignore_result; it has no result")
        return self._pending

    def progress(self, timeout: float) -> Iterator[Any]:
        """Yield each progress report when it arrives, until the result is available.

        Raises:
            CallTimeoutError: nothing arrived within `timeout` seconds.
        """
        while self._reply is None:
            reply = self._replies.receive(timeout)
            if reply.kind == "progress":
                yield self._client._value(reply)
            else:
                self._reply = reply

    def result(self, timeout: float) -> Any:
        """Wait for the result, and skip progress reports.

        Raises:
            Exception: an error of the method; see :meth:`Client.call`.
            CallTimeoutError: no result within `timeout` seconds; it may arrive later.
            ResultGoneError: it is not stored any longer; see `result_lifetime`.
        """
        timeout = timeout_of(timeout)
        deadline = time.monotonic() + timeout
        while self._reply is None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise CallTimeoutError(f"no result within {timeout:g} s; it may come later")
            reply = self._replies.receive(left)
            if reply.kind != "progress":
                self._reply = reply
        return self._client._result(self._reply)

    def close(self) -> None:
        """Stop waiting in this process; the result is kept for :meth:`Client.attach`."""
        if self._pending is not None:
            self._pending.close()
