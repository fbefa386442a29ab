"""Waiting for replies over a connection that many callers share.

The callers read from the connection themselves, one at a time. A caller that waits while no other
caller reads becomes the reader, for itself and for the others, until its own reply has arrived;
then it hands over the reader role. A single caller needs no thread switch, and a process may have
any number of outstanding calls. The role is held while the socket is read, and never while code of
the application runs.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

from hbshim.errors import CallTimeoutError, ConnectionLostError

#: The key of the thread that reads.
_ROLE = "reader"


class Waiter:
    """Waits until a reader has received something for it: a thread, or a function to be called.

    Attributes:
        wakeup: acquired in order to wait. A plain lock as a binary semaphore costs a quarter of an
            Event.
    """

    __slots__ = ("_on_notify", "wakeup")

    def __init__(self) -> None:
        self.wakeup = threading.Lock()
        self.wakeup.acquire()
        self._on_notify: Callable[[], None] | None = None

    @property
    def ready(self) -> bool:
        """Whether something was received for it."""
        raise NotImplementedError

    @property
    def is_brief(self) -> bool:
        """Whether what comes next takes no time: nothing is sent, and nothing is waited for."""
        return False

    def notify(self) -> None:
        """Wake it up."""
        # Notified twice before it ran.
        with contextlib.suppress(RuntimeError):
            self.wakeup.release()
        # In this order; see watch().
        if (on_notify := self._on_notify) is not None:
            on_notify()

    def watch(self, on_notify: Callable[[], None]) -> None:
        """Have a function called when it is notified, at once if it was already.

        Parameters:
            on_notify: called by the thread that notifies, perhaps more than once. It must neither
                wait nor raise.
        """
        self._on_notify = on_notify
        if self.wakeup.acquire(False):
            on_notify()


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
            self.hand_over()
            raise CallTimeoutError(otherwise)
        interrupted = True
        try:
            try:
                # Before the check whether another thread reads, because it may stop just now.
                self._waiting[waiter] = None
                if self._reader.setdefault(_ROLE, waiter) is waiter:
                    del self._waiting[waiter]
                    self._read_for(waiter, until)
                else:
                    waiter.wakeup.acquire(timeout=left)
                interrupted = False
            finally:
                self._leave(waiter, interrupted)
        except BaseException:
            # Interrupted, perhaps before it has left, or has woken up another thread to read.
            self._leave(waiter, True)
            raise

    def _leave(self, waiter: Waiter, interrupted: bool) -> None:
        has_read = self._reader.get(_ROLE) is waiter
        if has_read:
            del self._reader[_ROLE]
        self._waiting.pop(waiter, None)
        if interrupted:
            # What it has received for another one, it may not have notified that one of.
            self._notify_all()
        # Also if it was woken up to read and need not or cannot. Before any code of the
        # application runs, which may take long.
        elif has_read or waiter.ready:
            self.hand_over()

    def _read_for(self, waiter: Waiter, until: float) -> None:
        while not (waiter.ready or self._closed) and time.monotonic() < until:
            if not self._read(until):
                self._notify_all()
                return

    def hand_over(self) -> None:
        """Wake up another waiting thread to read, if no thread reads.

        Called by a thread that will not wait again, too: it may have been woken up to read, and an
        interrupt may have come before it did.
        """
        while self._waiting and not self._reader:
            try:
                for waiter in self._waiting:
                    if not waiter.ready:
                        waiter.notify()
                        return
            except RuntimeError:
                continue  # a waiter came or left; a copy each time would cost more
            return
