"""Waiting for replies over a connection that many callers share.

The callers themselves read from it, one at a time: a caller that waits and finds no reader reads,
for itself and for the others, until its own reply is there; then it hands over the reader role. So
a single caller costs no change of threads, and a process may have any number of calls outstanding.
The role is held while the socket is read, and never while code of the application runs.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
import uuid
from collections.abc import Callable

from hbshim.errors import CallTimeoutError, ConnectionLostError
from hbshim.messaging.base import FINAL, OnReply, Reply

#: Joins a client's identity and the number of a call to the call's correlation id.
NUMBER_SIGN = "#"

#: The key of the thread that reads.
_ROLE = "reader"


class Waiter:
    """A thread that waits until it, or another one, has read something for it.

    Attributes:
        wakeup: acquired to wait. A bare lock as a binary semaphore: a quarter of an Event's cost.
    """

    __slots__ = ("wakeup",)

    def __init__(self) -> None:
        self.wakeup = threading.Lock()
        self.wakeup.acquire()

    @property
    def ready(self) -> bool:
        """Whether something is there for it."""
        raise NotImplementedError

    def notify(self) -> None:
        """Wake it."""
        # Notified twice before it ran.
        with contextlib.suppress(RuntimeError):
            self.wakeup.release()


class ReaderRole:
    """Has one of the threads that wait read for all of them.

    Parameters:
        read: reads once, until the time that it is given at the latest; returns False where there
            is a new connection, which each waiter must see.
    """

    def __init__(self, read: Callable[[float], bool]) -> None:
        self._read = read
        # Those that wait for another thread to read, in the order in which they came.
        self._waiting: dict[Waiter, None] = {}
        # Who reads, under one key: setdefault() takes the role, and whoever looks sees whose it
        # is. A lock does not say that, and an exception of a signal handler between its
        # acquire() and the ``try`` behind it would leave it taken.
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
            until: of ``time.monotonic()``.
            otherwise: says what has not happened by then.

        Raises:
            CallTimeoutError: the time is over.
            ConnectionLostError: the driver was closed.
        """
        if self._closed:
            raise ConnectionLostError("the driver was closed while a call waited for its reply")
        left = until - time.monotonic()
        if left <= 0:
            # It may have been woken to read.
            self._hand_over()
            raise CallTimeoutError(otherwise)
        interrupted = True
        try:
            # Before it is seen that another thread reads: that one may end its reading just now.
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
                    self._leave(waiter, True)  # interrupted before it began

    def _leave(self, waiter: Waiter, interrupted: bool) -> None:
        has_read = self._reader.get(_ROLE) is waiter
        if has_read:
            del self._reader[_ROLE]
        self._waiting.pop(waiter, None)
        # Also where it was woken to read, and need not or cannot. Before any code of the
        # application runs, which may take its time.
        if has_read or interrupted or waiter.ready:
            self._hand_over()

    def _read_for(self, waiter: Waiter, until: float) -> None:
        while not (waiter.ready or self._closed) and time.monotonic() < until:
            if not self._read(until):
                self._notify_all()
                return

    def _hand_over(self) -> None:
        """Have another thread read, if one waits and none reads."""
        while self._waiting and not self._reader:
            try:
                for waiter in self._waiting:
                    if not waiter.ready:
                        waiter.notify()
                        return
            except RuntimeError:
                continue  # one came or went; a copy each time would cost more
            return


class PendingCall(Waiter):
    """A call that waits for its reply.

    Attributes:
        correlation_id: its requests and replies have it.
        last_heard: when its server last reported anything; of ``time.monotonic()``.
    """

    __slots__ = ("_on_reply", "correlation_id", "last_heard", "progress", "result")

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
        """Hand out what came before the end of the call; after `deadline`, no more of it."""
        # Also without a callback: with one left there, the caller would not read on.
        replies, self.progress = self.progress, []
        if self._on_reply is not None:
            for reply in replies:
                self._on_reply(reply)
                if time.monotonic() >= deadline:
                    break


class PendingCalls:
    """The calls that wait for their replies.

    Parameters:
        role: has them read.

    Attributes:
        client: the identity of this client, which every correlation id begins with.
        late: how many replies came that no caller waited for any more.
    """

    def __init__(self, role: ReaderRole) -> None:
        self._role = role
        self.client = uuid.uuid4().hex
        self.late = 0
        self._numbers = itertools.count(1)
        self._calls: dict[str, PendingCall] = {}

    def begin(self, on_reply: OnReply | None) -> PendingCall:
        """Return a new call, which replies can reach from now on."""
        correlation_id = f"{self.client}{NUMBER_SIGN}{next(self._numbers)}"
        call = self._calls[correlation_id] = PendingCall(correlation_id, on_reply)
        return call

    def end(self, call: PendingCall) -> None:
        """Forget a call; what comes for it later is dropped."""
        del self._calls[call.correlation_id]

    def receive(self, correlation_id: str, reply: Reply) -> None:
        """Hand a reply to the call that waits for it; one that is repeated is dropped."""
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

    def wait(self, call: PendingCall, deadline: float, silence: float | None) -> Reply:
        """Wait for the end of a call that was sent.

        Parameters:
            silence: seconds without any sign of the server after which to give up earlier.

        Raises:
            CallTimeoutError: the time is over.
        """
        while True:
            call.report_progress(deadline)
            if call.result is not None:
                return call.result
            until = deadline if silence is None else min(deadline, call.last_heard + silence)
            silent = "the server is silent" if until < deadline else "it was sent, and not answered"
            self._role.wait_once(call, until, silent)
