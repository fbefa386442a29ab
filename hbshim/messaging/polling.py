"""A listener over any transport: opening, polling, pausing, stopping and closing.

One thread polls at a time. The poll that finds the connection lost opens a new one. `pause`, `stop`
and `close` wake the poll up, and do its work themselves if no poll is running.
"""

from __future__ import annotations

import os
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from hbshim.errors import MessagingError
from hbshim.messaging.base import CLOSE_LIMIT
from hbshim.messaging.duplicates import DuplicateCache, duplicate_cache
from hbshim.messaging.flag import Flag
from hbshim.messaging.inbox import Inbox, Received
from hbshim.messaging.joining import Part
from hbshim.messaging.reporting import LOG, OnError, log_error
from hbshim.runtime.exclusive import OCCUPIED, ExclusiveSection
from hbshim.runtime.unpatched import start_without_signals

#: The longest wait, in seconds. Nothing depends on it: a wait is woken up when something changes.
WAIT_AT_MOST = 60.0

#: Seconds between two checks for messages while no thread polls.
CHECK_EVERY = 0.2

#: Seconds to wait for another thread that polls when no more time is left: it may be a moment.
SHORTEST_WAIT = 0.1

#: Seconds to wait for the broker to confirm connection.close when no more time is left.
SHORTEST_CLOSE = 0.1


class Pollable(Protocol):
    """What polling needs of a connection."""

    def drain(self, timeout: float) -> None: ...

    def begin_wait(self, part: Part) -> bool:
        """Begin a wait for several connections at once, instead of :meth:`drain`.

        Returns:
            False if something has arrived already.

        Raises:
            ConnectionLostError: the connection has ended.
        """
        ...

    def wake(self) -> None: ...
    def close(self, timeout: float) -> None: ...


M = TypeVar("M", bound=Received)
C = TypeVar("C", bound=Pollable)


class PollingListener(ABC, Generic[M, C]):
    """See :class:`hbshim.messaging.base.Listener`.

    Parameters:
        acknowledge_first: acknowledge each message when it is handed out, before it is processed:
            it is processed at most once. Otherwise it is acknowledged after its processing.
        duplicates: the messages that this process has started; None: those of all drivers over
            brokers.
    """

    def __init__(
        self, *, acknowledge_first: bool, duplicates: DuplicateCache[M] | None = None
    ) -> None:
        self.on_error: OnError = log_error
        self._pid = os.getpid()
        started = duplicate_cache() if duplicates is None else duplicates
        self._inbox: Inbox[M] = Inbox(started, acknowledge_first=acknowledge_first)
        # Handed out by a poll that an exception has ended; the next one returns them.
        self._begun: deque[M] = deque()
        self._connection: C | None = None
        #: At least one of its sources delivers to it.
        self._consuming = False
        self._errors: deque[Exception] = deque()
        self._paused = False
        self._stopped = False
        self._stop_by = float("inf")
        self._changed = Flag()
        self._ended = Flag()
        self._polling = ExclusiveSection(threading.RLock())
        self._drainer: threading.Thread | None = None
        #: Called when the drain thread has received messages.
        self._on_drained: Callable[[], None] = _nothing

    # -- what a driver's listener implements ----------------------------------

    @abstractmethod
    def _serves(self) -> bool:
        """Return whether messages from all sources reach it."""

    @abstractmethod
    def _check_refusals(self) -> None:
        """Raise the error, if any, that another attempt cannot avoid."""

    @abstractmethod
    def _receive(self, left: float, *, drain: bool = True) -> None:
        """Connect and consume if necessary, then wait for messages.

        Parameters:
            left: seconds.
            drain: False: do not wait for messages.
        """

    @abstractmethod
    def _next_attempt(self) -> float:
        """Return the seconds until the next attempt for something that was refused."""

    @abstractmethod
    def _stop_consuming(self) -> None:
        """Stop the consumers, and requeue what was not handed out."""

    def _wait_limit(self) -> float:
        """Return the seconds after which something is due, whatever arrives."""
        return self._hold_left()

    def _hold_left(self) -> float:
        """Return the seconds until :meth:`_retry_held` is due."""
        return WAIT_AT_MOST

    def _retry_held(self) -> None:
        """Retry what was deferred; called outside of the section."""

    # -- what the owner calls ------------------------------------------------

    @property
    def _inherited(self) -> bool:
        """Whether this is a forked child: the parent listens, and the locks cannot be used here."""
        return os.getpid() != self._pid

    def open(self, timeout: float) -> bool:
        if self._inherited:
            return False
        deadline = time.monotonic() + timeout
        try:
            opened = self._polling.run(lambda: self._open(deadline), max(SHORTEST_WAIT, timeout))
            # A thread that polls all the time opens it, too.
            return self._serves() if opened is OCCUPIED else opened
        finally:
            self._after_polling()

    def _open(self, deadline: float) -> bool:
        while not (self._paused or self._stopped):
            self._check_refusals()
            if self._serves():
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._receive(left, drain=False)
            if self._connection is not None and not self._serves():
                # Without a connection, the code that opens it waits for the pause to end.
                self._changed.wait(min(left, self._next_attempt()))
        return True

    def poll(
        self, timeout: float | None = None, batch_size: int = 1, batch_timeout: float | None = None
    ) -> list[M]:
        if self._inherited:
            return []
        deadline = None if timeout is None else time.monotonic() + timeout
        batch: list[M] = []

        def poll() -> bool:
            return self._poll(batch, deadline, batch_size, batch_timeout)

        over: object = False
        try:
            while not over:
                try:
                    left = None if deadline is None else deadline - time.monotonic()
                    wait = None if left is None else max(SHORTEST_WAIT, left)
                    # Occupied is over: the time is, or this thread polls already.
                    over = self._polling.run(poll, wait)
                finally:
                    self._after_polling()
                if not over:
                    self._retry_held()
            return batch
        except BaseException:
            self._begun.extend(batch)
            raise

    def _poll(
        self,
        batch: list[M],
        deadline: float | None,
        batch_size: int,
        batch_timeout: float | None,
    ) -> bool:
        """Fill `batch`; return False if something is to be done outside of the section first."""
        while self._begun and len(batch) < batch_size:
            batch.append(self._begun.popleft())
        if batch:
            return True
        while len(batch) < batch_size:
            if self._consuming and (self._stopped or self._paused):
                self._stop_consuming()
            if self._inbox:
                # A message that failed before is a batch of its own, so that it cannot fail others
                # again.
                if batch and (self._inbox.first.attempts or batch[0].attempts):
                    break
                if self._drainer is None and self._inbox.first.expires:
                    self._start_drainer()
                self._inbox.hand_out(batch)
                if len(batch) == 1 and batch_timeout is not None:
                    until = time.monotonic() + batch_timeout
                    deadline = until if deadline is None else min(deadline, until)
                continue
            if batch and (batch_timeout is None or batch[0].attempts):
                break
            if self._stopped:
                break
            hold = self._hold_left()
            if self._errors or hold <= 0:
                return bool(batch)
            left = WAIT_AT_MOST if deadline is None else deadline - time.monotonic()
            if left <= 0 and deadline is not None:
                break
            self._receive(min(left, hold, WAIT_AT_MOST))
            if self._inherited:
                break  # a green thread that was forked with the others: the parent listens
        return True

    # -- for a thread that polls several listeners ------------------------------

    @property
    def serves(self) -> bool:
        """Whether messages from all sources reach it; if not, :meth:`open` makes them."""
        return self._serves()

    def check(self, batch_size: int = 1) -> list[M]:
        """Return up to `batch_size` messages that have arrived; neither wait nor connect."""
        batch: list[M] = []
        if self._inherited:
            return batch

        def check() -> bool:
            if not (self._inbox or self._begun) and self._connection is not None:
                self._receive(0.0)
            return self._poll(batch, time.monotonic(), batch_size, None)

        try:
            try:
                # The drain thread is inside for a moment; it reports what it has received.
                over = self._polling.run(check, SHORTEST_WAIT)
            finally:
                self._after_polling()
            if not over:
                self._retry_held()
            return batch
        except BaseException:
            self._begun.extend(batch)
            raise

    def begin_wait(self, part: Part) -> bool:
        """Begin a wait for several listeners at once; return False if :meth:`check` is due.

        Without a connection it contributes nothing to the wait.
        """
        self._on_drained = part.release
        part.limit = min(part.limit, self._wait_limit())
        if self._inbox or self._begun or self._errors or part.limit <= 0:
            return False
        connection = self._connection
        if connection is None:
            return True
        try:
            return connection.begin_wait(part)
        except MessagingError:
            return False

    def pause(self) -> None:
        self._paused = True
        self._wake()
        self._after_polling()

    def resume(self) -> None:
        self._paused = False
        self._wake()

    def stop(self, timeout: float = CLOSE_LIMIT) -> None:
        self._stop_by = min(self._stop_by, time.monotonic() + timeout)
        self._stopped = True
        self._wake()
        self._after_polling()

    def close(self, timeout: float = CLOSE_LIMIT) -> None:
        if self._inherited:
            return
        deadline = time.monotonic() + timeout
        self._ended.set()
        self.stop(timeout)
        # A poll that is running ends first, because it uses the connection.
        end = self._polling.run(lambda: self._end(deadline), max(SHORTEST_CLOSE, timeout))
        if end is not OCCUPIED:
            self._report_errors()
            return
        # The poll is in a call that cannot be interrupted, such as name resolution. It closes
        # what it opened when it returns. The broker requeues what is unacknowledged.
        connection = self._connection
        if connection is not None:
            connection.close(SHORTEST_CLOSE)

    def _end(self, deadline: float) -> None:
        self._stop_consuming()
        while self._begun:
            self._begun.popleft().return_to_queue()
        connection = self._connection
        if connection is not None:
            connection.close(max(SHORTEST_CLOSE, deadline - time.monotonic()))
            # Not before: where the close is interrupted, the next one finds it.
            self._connection = None

    def _wake(self) -> None:
        if self._inherited:
            return
        self._changed.set()
        connection = self._connection
        if connection is not None:
            connection.wake()

    def _after_polling(self) -> None:
        """Do what became due while a thread polled; called outside of the section."""
        while self._due() and not self._inherited:
            if self._polling.run(self._catch_up) is OCCUPIED:
                break
        self._report_errors()

    def _report_errors(self) -> None:
        while self._errors:
            try:
                error = self._errors.popleft()
            except IndexError:
                return  # another thread reports it
            self.on_error(error)

    def _catch_up(self) -> None:
        self._stop_consuming()
        if self._ended.is_set():
            self._end(0.0)

    def _due(self) -> bool:
        """Whether consumers are to be stopped, or a connection is to be closed."""
        if self._ended.is_set() and self._connection is not None:
            return True
        return self._consuming and (self._stopped or self._paused)

    # -- while no thread polls -----------------------------------------------

    def _start_drainer(self) -> None:
        drainer = threading.Thread(target=self._drain_prefetch, name="hbshim-prefetch", daemon=True)
        try:
            start_without_signals(drainer.start)
        except RuntimeError as error:
            # No thread can be started now; the next message tries again.
            self._errors.append(error)
            return
        self._drainer = drainer

    def _drain_prefetch(self) -> None:
        """Receive what arrives while no thread polls, so that its age is known."""
        while not self._ended.wait(CHECK_EVERY):
            if self._polling.run(self._drain) is not OCCUPIED:
                self._after_polling()
                if self._inbox:
                    self._on_drained()
                if self._hold_left() <= 0:
                    self._retry_held()

    def _drain(self) -> None:
        try:
            if self._connection is not None and self._consuming:
                self._connection.drain(0)
        except MessagingError:
            pass  # what is lost is found, and opened anew, by a thread that polls
        except Exception:
            LOG.exception("the prefetch drain thread continues after an error")


def _nothing() -> None:
    return None
