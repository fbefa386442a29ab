"""What is under a connection over kombu: one thread reads, any thread writes.

Who reads is whoever drains or waits for an answer; and a publisher for as long as it takes to
look whether the broker said something, when nobody else reads. Everything that is read is put
aside in `arrived`, and handed out elsewhere, outside every lock.

An exception of a signal handler may arrive right behind any call. So each lock is acquired
inside the ``try`` whose ``finally`` releases it. All are re-entrant, because these refuse to be
released by a thread that does not have them: one call releases what was acquired, if it was.
(`contextlib.suppress` would be a call before that one.)
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from hbshim.adapters.pyamqp.heartbeat import StalledError
from hbshim.errors import BrokerBlockedError, ConnectionLostError, MessagingError
from hbshim.heartbeat.state import WATCHED
from hbshim.messaging.amqp.connection import CLOSE_TIMEOUT, METHOD_TIMEOUT
from hbshim.messaging.readiness import Readiness

#: Seconds between two looks of a blocked publisher that somebody else reads for.
_LOOK_EVERY = 0.05
FOREVER = float("inf")

_T = TypeVar("_T")

_monotonic = time.monotonic
_getpid = os.getpid


class Line:
    """Reads and writes of one connection.

    Parameters:
        connection: of :class:`hbshim.adapters.pyamqp.session.Connection`, open.
        name: of host and port.
        readiness: of its descriptor.
    """

    def __init__(self, connection: Any, name: str, readiness: Readiness) -> None:
        self.name = name
        self.blocked = False
        self.arrived: deque[Callable[[], None]] = deque()
        self._amqp = connection
        self._pid = os.getpid()
        self._lock: Any = connection.write_lock
        self._stream = connection.stream
        self._write = self._stream.write
        self._readiness = readiness
        self._link = link = connection.link
        self._nothing_waits = _never if link is None else link.wire.nothing_waits
        # Had by the thread that reads, and never taken twice: see `as_reader`.
        self._reading: Any = threading.RLock()
        self._turnstile: Any = threading.RLock()
        self._hurried = 0
        self._drainers = 0
        self._unblocked = threading.Condition(self._lock)
        self._closed = False
        self._why = "was closed"
        connection.on_blocked, connection.on_unblocked = self._on_blocked, self._on_unblocked

    # -- state ---------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        link = self._link
        return (
            not self._closed
            and bool(self._stream.connected)
            and _getpid() == self._pid
            and (link is None or (link.state in WATCHED and not link.guard.torn))
        )

    def _on_blocked(self, _reason: str) -> None:
        self.blocked = True

    def _on_unblocked(self) -> None:
        with self._unblocked:
            self.blocked = False
            self._unblocked.notify_all()

    def check(self) -> None:
        """See that the connection is there, and this process's."""
        if _getpid() != self._pid:
            # Before any lock: whoever held it at the fork is not here.
            self._drop_copy()
            raise ConnectionLostError(
                f"{self.name}: this connection was opened before a fork and belongs to the "
                "parent process; open a new one in the child"
            )
        if self._closed:
            raise self._lost_error()

    def _lost_error(self) -> ConnectionLostError:
        return ConnectionLostError(f"{self.name}: the connection {self._why}; open a new one")

    def _drop_copy(self) -> None:
        """In a forked child: forget the descriptor, and say nothing on it."""
        if not self._closed:
            self._closed = True
            if self._link is not None:
                self._link.orphan()
            else:
                self._stream.drop()
            self._readiness.drop()

    def lost(self, error: BaseException) -> ConnectionLostError:
        """End the connection, and tell why."""
        if not self._closed:
            told = self._amqp.closed_by
            self._why = (
                f"was closed by the broker: {told[1]} ({told[0]})"
                if told
                else (f"was lost: {str(error) or type(error).__name__}")
            )
            self._closed = True
            self._collect()
        return self._lost_error()

    def _collect(self) -> None:
        # Half of it may be gone already; what remains to be done is to let go.
        with contextlib.suppress(Exception):
            self._amqp.collect()
        self._on_unblocked()

    # -- reading -------------------------------------------------------------

    def as_reader(self, until: float, function: Callable[[], _T], *, hurry: bool = True) -> _T:
        """Call `function` as the one who reads; until then at the latest.

        Parameters:
            hurry: have whoever drains return from it, and go before the next drain.

        Raises:
            MessagingError: another thread reads, or this one does so already.
        """
        reading = self._reading
        if reading._is_owned():
            raise self._busy()
        try:
            if not (self._enter_hurried(until) if hurry else self._enter(until)):
                raise self._busy()
            self.check()
            return function()
        finally:
            try:  # noqa: SIM105
                reading.release()
            except RuntimeError:
                pass

    def _busy(self) -> MessagingError:
        return MessagingError(
            f"{self.name}: another thread reads from this connection; one at a time may "
            "drain it, or ask the broker for an answer"
        )

    def _enter(self, until: float) -> bool:
        # Whoever drains again and again would have the lock back before another woke up.
        if self._hurried:
            try:
                self._turnstile.acquire(True, max(0.0, until - _monotonic()))
            finally:
                try:  # noqa: SIM105
                    self._turnstile.release()
                except RuntimeError:
                    pass
        reading = self._reading
        return bool(reading.acquire(False) or reading.acquire(True, max(0.0, until - _monotonic())))

    def _enter_hurried(self, until: float) -> bool:
        if self._reading.acquire(False):
            return True
        self._hurried += 1
        try:
            if not self._turnstile.acquire(True, max(0.0, until - _monotonic())):
                return False
            self._readiness.wake()
            return bool(self._reading.acquire(True, max(0.0, until - _monotonic())))
        finally:
            try:
                self._turnstile.release()
            except RuntimeError:
                pass
            finally:
                self._hurried -= 1

    def read(self, *, look: bool = True) -> bool:
        """Take in what is there; whether there was anything. The reader's to call.

        Parameters:
            look: ask the socket; else take in only what was read already.
        """
        try:
            return bool(self._amqp.take_all(look=look))
        except Exception as error:
            raise self.lost(error) from error
        except BaseException as error:
            # What was read, and not put aside yet, is gone.
            self.lost(error)
            raise

    def await_arrival(self, until: float) -> None:
        """Read until something arrives, or somebody wakes the reader."""
        readiness, arrived = self._readiness, self.arrived
        self.read(look=False)
        while not (arrived or readiness.take_wake()):
            left = until - _monotonic()
            if readiness.wait(left):
                self.read()
            elif left <= 0:
                return
            if self._closed:
                raise self._lost_error()

    def await_news(self, until: float) -> bool:
        """Wait until the broker may have said something, and take it in; False: not in time."""
        if self.read(look=False):
            return True
        left = until - _monotonic()
        if self._readiness.wait(left):
            self.read()
        elif left <= 0:
            return False
        self.check()
        return True

    def look(self) -> None:
        """Hear that the broker blocks us or closes, where nobody else reads."""
        reading = self._reading
        if reading._is_owned():
            return
        try:
            if reading.acquire(False) and not self._nothing_waits():
                self.read()
        finally:
            try:  # noqa: SIM105
                reading.release()
            except RuntimeError:
                pass

    def wake(self) -> None:
        if not self._closed and _getpid() == self._pid:
            self._readiness.wake()

    # -- writing -------------------------------------------------------------

    def send(self, data: bytes, until: float | None) -> None:
        """Write whole frames, or nothing; None: for as long as the broker's answers may take.

        Raises:
            BrokerBlockedError: nothing was written.
            ConnectionLostError
        """
        write = self._write
        self.write_by_library(lambda: write(data), until)

    def write_by_library(self, write: Callable[[], object], until: float | None) -> None:
        """Have py-amqp write, as :meth:`send` does."""
        lock = self._lock
        try:
            if not lock.acquire(False) and not self._acquire(until):
                raise StalledError
            try:
                self._stream.write_by = until
                write()
            finally:
                self._stream.write_by = None
        except StalledError:
            raise self.stalled() from None
        except Exception as error:
            raise self.lost(error) from error
        except BaseException as error:
            # A green library's timeout, or Ctrl-C, in mid-frame.
            if not self.is_open:
                self.lost(error)
            raise
        finally:
            try:  # noqa: SIM105
                lock.release()
            except RuntimeError:
                pass

    def _acquire(self, until: float | None) -> bool:
        if until is None:
            until = _monotonic() + METHOD_TIMEOUT
        if until == FOREVER:
            return bool(self._lock.acquire())
        return bool(self._lock.acquire(True, max(0.0, until - _monotonic())))

    def stalled(self) -> BrokerBlockedError:
        return BrokerBlockedError(
            f"{self.name}: the broker reads nothing for now, and did not in time (a memory or "
            "disk alarm?); nothing of this was sent: try again later"
        )

    def await_unblocked(self, until: float) -> None:
        """Wait while the broker accepts no messages.

        Raises:
            BrokerBlockedError: it did not in time.
        """
        while self.blocked:
            left = until - _monotonic()
            if left <= 0:
                raise BrokerBlockedError(
                    f"{self.name}: the broker accepts no messages for now (connection.blocked: "
                    "a memory or disk alarm); try again later"
                )
            pause = min(left, _LOOK_EVERY)
            if not self._read_for(pause):
                with self._unblocked:
                    if self.blocked:
                        self._unblocked.wait(pause)
            self.check()

    def _read_for(self, seconds: float) -> bool:
        """Wait for the broker for so long at most, and read; False where another one reads."""
        reading = self._reading
        if self._drainers or reading._is_owned():
            return False
        try:
            if not reading.acquire(False):
                return False
            self._readiness.wait(seconds)
            self.read()
            return True
        finally:
            try:  # noqa: SIM105
                reading.release()
            except RuntimeError:
                pass

    # -- the end -------------------------------------------------------------

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        if _getpid() != self._pid:
            self._drop_copy()
            return
        if self._closed:
            return
        until = _monotonic() + timeout
        with contextlib.suppress(Exception):
            self.as_reader(until, lambda: self._say_good_bye(until))
        self._closed = True
        self._collect()

    def _say_good_bye(self, until: float) -> None:
        self._closed = True
        # What is still under way would be lost if the descriptor were closed on it; the
        # broker's answer means that it got there.
        self._amqp.answer_by = until
        lock = self._lock
        try:
            if self._acquire(until):
                self._stream.write_by = until
                self._amqp.close_without_waiting()
                self._stream.write_by = None
        finally:
            try:  # noqa: SIM105
                lock.release()
            except RuntimeError:
                pass
        self._amqp.await_close()


def _never() -> bool:
    return False
