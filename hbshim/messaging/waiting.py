"""Waiting for replies over a connection that many callers share.

The callers read from the connection themselves, one at a time. A caller that waits while no other
caller reads becomes the reader, for itself and for the others, until its own reply has arrived;
then it hands over the reader role. A single caller needs no thread switch, and a process may have
any number of outstanding calls. The role is held while the socket is read, and never while code of
the application runs.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
import uuid
from collections.abc import Callable
from weakref import WeakValueDictionary

from hbshim.errors import CallTimeoutError, ConnectionLostError
from hbshim.messaging.base import FINAL, OnReply, Reply

#: Separates the identity of a client and the number of a call in the call's correlation id.
NUMBER_SIGN = "#"

#: The key of the thread that reads.
_ROLE = "reader"


class Waiter:
    """A thread that waits until a reader has received something for it.

    Attributes:
        wakeup: acquired in order to wait. A plain lock as a binary semaphore costs a quarter of an
            Event.
    """

    __slots__ = ("wakeup",)

    def __init__(self) -> None:
        self.wakeup = threading.Lock()
        self.wakeup.acquire()

    @property
    def ready(self) -> bool:
        """Whether something was received for it."""
        raise NotImplementedError

    def notify(self) -> None:
        """Wake it up."""
        # Notified twice before it ran.
        with contextlib.suppress(RuntimeError):
            self.wakeup.release()


class ReaderRole:
    """Lets one of the waiting threads read for all of them.

    Parameters:
        read: reads once, until the given time at the latest; returns False if there is a new
            connection, which each waiter must notice.
    """

    def __init__(self, read: Callable[[float], bool]) -> None:
        self._read = read
        # Those that wait for another thread to read, in order of arrival.
        self._waiting: dict[Waiter, None] = {}
        # The reader, under one key: setdefault() takes the role atomically, and shows who has it. A
        # lock does not show that, and an exception of a signal handler between its acquire() and
        # the ``try`` that follows would leave it locked.
        self._reader: dict[str, Waiter] = {}
        self._closed = False

    @property
    def is_taken(self) -> bool:
        """Whether a thread reads."""
        return bool(self._reader)

    def close(self) -> None:
        """End every wait with an error."""
        self._closed = True
        self._notify_all()

    def _notify_all(self) -> None:
        for waiter in list(self._waiting):
            waiter.notify()

    def wait_once(self, waiter: Waiter, until: float, otherwise: str) -> None:
        """Read, or wait for another thread that reads, until something may have changed.

        Parameters:
            waiter: the calling thread.
            until: of ``time.monotonic()``.
            otherwise: what has not happened by then, for the error.

        Raises:
            CallTimeoutError: the time is over.
            ConnectionLostError: the driver was closed.
        """
        if self._closed:
            raise ConnectionLostError("the driver was closed while a call waited for its reply")
        left = until - time.monotonic()
        if left <= 0:
            # It may have been woken up to read.
            self._hand_over()
            raise CallTimeoutError(otherwise)
        interrupted = True
        try:
            # Before the check whether another thread reads, because that one may stop just now.
            self._waiting[waiter] = None
            if self._reader.setdefault(_ROLE, waiter) is waiter:
                del self._waiting[waiter]
                self._read_for(waiter, until)
            else:
                waiter.wakeup.acquire(timeout=left)
            interrupted = False
        finally:
            try:
                self._leave(waiter, interrupted)
            finally:
                if waiter in self._waiting or self._reader.get(_ROLE) is waiter:
                    self._leave(waiter, True)  # interrupted before it started

    def _leave(self, waiter: Waiter, interrupted: bool) -> None:
        has_read = self._reader.get(_ROLE) is waiter
        if has_read:
            del self._reader[_ROLE]
        self._waiting.pop(waiter, None)
        # Also if it was woken up to read and need not or cannot. Before any code of the
        # application runs, which may take long.
        if has_read or interrupted or waiter.ready:
            self._hand_over()

    def _read_for(self, waiter: Waiter, until: float) -> None:
        while not (waiter.ready or self._closed) and time.monotonic() < until:
            if not self._read(until):
                self._notify_all()
                return

    def _hand_over(self) -> None:
        """Wake up another waiting thread to read, if no thread reads."""
        while self._waiting and not self._reader:
            try:
                for waiter in self._waiting:
                    if not waiter.ready:
                        waiter.notify()
                        return
            except RuntimeError:
                continue  # a waiter came or left; a copy each time would cost more
            return


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
        self._calls.pop(call.correlation_id, None)

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
            self._role.wait_once(call, until, silent)
