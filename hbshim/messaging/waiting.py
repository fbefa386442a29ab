"""Calls that wait for their replies over a connection that many callers share.

:mod:`hbshim.messaging.role` describes which of them reads.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
import uuid
from weakref import WeakValueDictionary

from hbshim.messaging.base import FINAL, OnReply, Reply
from hbshim.messaging.role import ReaderRole, Waiter
from hbshim.messaging.steps import Steps, Wait, run

#: Separates the identity of a client and the number of a call in the call's correlation id.
NUMBER_SIGN = "#"


@dataclasses.dataclass(frozen=True, slots=True)
class NoReply(Reply):
    """What ends an attempt of a call instead of a reply; the driver decides what comes next."""


class PendingCall(Waiter):
    """A call that waits for its reply.

    Attributes:
        correlation_id: of its requests and replies.
        last_heard: time of the last report from its server, of ``time.monotonic()``.
    """

    __slots__ = ("__weakref__", "_on_reply", "correlation_id", "last_heard", "progress", "result")

    def __init__(self, correlation_id: str, on_reply: OnReply | None) -> None:
        super().__init__()
        self.correlation_id = correlation_id
        self._on_reply = on_reply
        self.result: Reply | None = None
        self.progress: list[Reply] = []
        self.last_heard = time.monotonic()

    @property
    def ready(self) -> bool:
        return self.result is not None or bool(self.progress)

    @property
    def is_brief(self) -> bool:
        return not isinstance(self.result, NoReply)

    def report_progress(self, deadline: float) -> None:
        """Pass progress reports to the callback; after `deadline`, no more of them."""
        # Also without a callback: while a report is left, the caller does not read.
        replies, self.progress = self.progress, []
        if self._on_reply is not None:
            for reply in replies:
                self._on_reply(reply)
                if time.monotonic() >= deadline:
                    break


class PendingCalls:
    """The calls that wait for their replies.

    Parameters:
        role: lets one of them read.

    Attributes:
        client: the identity of this client, with which every correlation id begins.
        late: the number of replies that arrived after their caller had given up.
    """

    def __init__(self, role: ReaderRole) -> None:
        self._role = role
        self.client = uuid.uuid4().hex
        self.late = 0
        self._numbers = itertools.count(1)
        # An exception of a signal handler may end a caller before it can end its call.
        self._calls: WeakValueDictionary[str, PendingCall] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._calls)

    def begin(self, on_reply: OnReply | None, correlation_id: str | None = None) -> PendingCall:
        """Return a new call, which can receive replies from now on.

        Parameters:
            on_reply: called with each "progress".
            correlation_id: of its replies; None: the next one of this client.
        """
        if correlation_id is None:
            correlation_id = f"{self.client}{NUMBER_SIGN}{next(self._numbers)}"
        call = self._calls[correlation_id] = PendingCall(correlation_id, on_reply)
        return call

    def end(self, call: PendingCall) -> None:
        """Forget a call; later replies to it are dropped."""
        try:
            self._calls.pop(call.correlation_id, None)
        finally:
            self._role.hand_over()

    def receive(self, correlation_id: str, reply: Reply) -> None:
        """Pass a reply to the call that waits for it; drop a duplicate."""
        call = self._calls.get(correlation_id)
        if call is None or call.result is not None:
            self.late += 1
            return
        call.last_heard = time.monotonic()
        if reply.kind in FINAL:
            call.result = reply
        elif reply.kind == "progress":
            call.progress.append(reply)
        call.notify()

    def wait(self, call: PendingCall, deadline: float, call_monitor_timeout: float | None) -> Reply:
        """Wait for the end of a call that was sent; see :meth:`wait_steps`."""
        return run(self.wait_steps(call, deadline, call_monitor_timeout))

    def wait_steps(
        self, call: PendingCall, deadline: float, call_monitor_timeout: float | None
    ) -> Steps[Reply]:
        """Wait for the end of a call that was sent.

        Parameters:
            call: the call.
            deadline: of ``time.monotonic()``.
            call_monitor_timeout: seconds without a report of the server after which the wait ends
                before `deadline`.

        Raises:
            CallTimeoutError: the time is over.
        """
        while True:
            call.report_progress(deadline)
            if call.result is not None:
                return call.result
            until = (
                deadline
                if call_monitor_timeout is None
                else min(deadline, call.last_heard + call_monitor_timeout)
            )
            silent = (
                "the server sent no keepalive"
                if until < deadline
                else "it was sent, but not answered"
            )
            yield Wait(self._role, call, until, silent)
