"""The stream of one connection: one thread waits for the broker, any thread sends.

All state is touched under one lock, which no thread holds while it waits. The thread that waits
for the socket to become readable does so for all: the others are notified when it has read.

An exception of a signal handler, or of a green library's timeout, may arrive behind any call.
So what marks a thread as the reader is a token that is set inside the ``try`` whose ``finally``
takes it back.

Longer than others: everything that touches one lock is read together.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from hbshim.adapters.transport import Transport
from hbshim.errors import BrokerBlockedError, ConnectionLostError, HbshimError
from hbshim.messaging.amqp.library import Library
from hbshim.messaging.readiness import Readiness, wait_writable
from hbshim.options import Options
from hbshim.protocol.frames import HEARTBEAT, Frame, not_amqp

#: Seconds between two checks whether the socket takes what waits to be sent.
_SLICE = 0.05
#: Seconds of one wait at most, for those who wait without a limit.
_LONGEST = 60.0
#: Reads of one turn at most, before others get the lock.
_READS = 16

_T = TypeVar("_T")

_monotonic = time.monotonic
_getpid = os.getpid


class Stream:
    """Reads from one connection and writes to it.

    Parameters:
        sock: see :class:`hbshim.adapters.transport.Transport`; closed at the end.
        name: of host and port.
        make_library: makes the client library's part, given what sends whole frames.

    Attributes:
        lock: of the program's own kind, and re-entrant: `on_frame` is called under it.
        ended: nothing more is read or written.
        on_frame: called, under the lock, with the type, channel and payload of each frame that
            is not of channel 0.
        on_end: called once, under the lock, when the stream has ended.
    """

    def __init__(
        self, sock: Any, name: str, make_library: Callable[[Callable[[bytes], None]], Library]
    ) -> None:
        self.name = name
        self.lock = threading.RLock()
        self.ended = False
        self.on_frame: Callable[[int, int, bytes], None] = _unexpected
        self.on_end: Callable[[], None] = _nothing
        self._closing = False
        self._why = "is closed"
        # Taken locks; each is released when there is news for the thread that waits for it.
        self._listeners: set[Any] = set()
        # What the thread that reads, or waits to write, has put there as its own.
        self._reading: object | None = None
        self._flushing: object | None = None
        self._pid = os.getpid()
        self._sock = sock
        try:
            self._readiness = Readiness(sock.fileno())
        except BaseException:
            sock.close()
            raise
        try:
            self._transport = Transport(sock)
            self.library = make_library(self.send)
        except BaseException:
            self._readiness.close(sock.close)
            raise

    # -- state ---------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether it is open, as far as this side knows without asking."""
        return (
            not self.ended
            and not self._closing
            and self._transport.alive
            and _getpid() == self._pid
        )

    @property
    def blocked(self) -> bool:
        """Whether the broker said that it accepts no messages for now."""
        return self.library.blocked and not self.ended

    def check(self) -> None:
        """Raise ConnectionLostError unless the connection is open, and this process's."""
        if _getpid() != self._pid:
            # Before the lock is acquired: the thread that held it at the fork is not here.
            raise ConnectionLostError(
                f"{self.name}: this connection was opened before a fork and belongs to the "
                "parent process; open a new one in the child"
            )
        if self.ended or self._closing:
            raise self._lost()

    def _lost(self) -> ConnectionLostError:
        return ConnectionLostError(f"{self.name}: the connection {self._why}; open a new one")

    def fail(self, error: BaseException) -> ConnectionLostError:
        """End the connection over `error`; return what is to be raised."""
        with self.lock:
            if not self.ended:
                if self.library.closed_by is not None:
                    code, text = self.library.closed_by
                    self._why = f"was closed by the broker: {text} ({code})"
                elif not self._closing:
                    self._why = f"was lost: {str(error) or type(error).__name__}"
                self._end()
            return self._lost()

    def _end(self) -> None:
        self.ended = True
        self._transport.end()
        self._readiness.close(self._sock.close)
        on_end, self.on_end, self.on_frame = self.on_end, _nothing, _unexpected
        on_end()
        self._notify_listeners()

    def _interrupted(self) -> None:
        """End a connection of which this side may not know what was said on it."""
        self.fail(ConnectionAbortedError("a call on it was interrupted"))

    def locked(self, work: Callable[[], _T]) -> _T:
        """Call `work` under the lock; other errors of it than hbshim's end the connection.

        A function, because a context manager of Python's own could be interrupted between
        acquiring the lock and the block that releases it.
        """
        self.check()
        with self.lock:
            try:
                return work()
            except HbshimError:
                raise
            except Exception as error:
                raise self.fail(error) from error
            except BaseException:
                # What was begun is perhaps not remembered.
                self._interrupted()
                raise

    def _abandon(self) -> None:
        """In a forked child: let go of what is the parent's, without the lock and a word."""
        self.ended = True
        self._readiness.drop()
        self._sock.close()

    # -- the handshake -------------------------------------------------------

    def shake_hands(self, deadline: float) -> bool:
        """Have the connection opened; no other thread may touch it meanwhile.

        Returns:
            False when the broker did not answer by `deadline`.

        Raises:
            ConnectionLostError: it closed the connection, or what it sent is not AMQP.
        """
        self.locked(self.library.begin)
        while not self.library.is_open:
            left = deadline - _monotonic()
            if left <= 0 or not (self._transport.buffered or self._readiness.wait(left)):
                return False
            with self.lock:
                self._take_in()
            if self.ended:
                raise self._lost()
        return True

    def keep_alive(self, options: Options) -> None:
        """Have heartbeats sent, as they were negotiated."""
        myself = weakref.ref(self)

        def abandon() -> None:
            alive = myself()
            if alive is not None:
                alive._abandon()

        timeout = self.library.heartbeat_timeout
        self.locked(lambda: self._transport.keep_alive(timeout, options, abandon))

    # -- reading -------------------------------------------------------------

    def receive(self, timeout: float, enough: Callable[[], object]) -> None:
        """Take in what is there, or comes within `timeout`; or have another thread do so.

        Parameters:
            enough: there is no need to wait. Asked under the lock: what another thread has
                read since the caller checked would else be waited for.
        """
        self.check()
        self._receive(timeout, enough)

    def _receive(self, timeout: float, enough: Callable[[], object]) -> None:
        transport = self._transport
        # Set inside the block: an exception of a signal handler may come right behind it.
        mine, news, readable = object(), None, False
        try:
            with self.lock:
                if enough():
                    return
                if self._reading:
                    news = self._listen()
                else:
                    self._reading = mine
            if news is not None:
                news.acquire(True, timeout)
                return
            if transport.unsent:
                timeout = min(timeout, _SLICE)
            readable = transport.buffered or self._readiness.wait(timeout)
        finally:
            if self._reading is mine:
                try:
                    self._end_reading(readable)
                finally:
                    if self._reading is mine:  # interrupted before it began
                        self._reading = None
                        self._notify_listeners()
            elif news is not None:
                self._listeners.discard(news)

    def _end_reading(self, readable: bool) -> None:
        with self.lock:
            self._reading = None
            try:
                if not self.ended and (readable or self._transport.unsent):
                    self._take_in()
            finally:
                self._notify_listeners()

    def _listen(self) -> Any:
        """Return a lock that will be released when another thread has read; under the lock."""
        news = threading.Lock()
        news.acquire()
        self._listeners.add(news)
        return news

    def _notify_listeners(self) -> None:
        with self.lock:
            if self._listeners:
                listeners, self._listeners = self._listeners, set()
                for news in listeners:
                    news.release()

    def _take_in(self) -> None:
        """Send what waits, and handle what is there to be read; under the lock."""
        transport = self._transport
        try:
            if transport.unsent:
                transport.flush()
            for _ in range(_READS):
                for frame in transport.read():
                    if self.ended:
                        return
                    if frame[1]:
                        self.on_frame(*frame)
                    elif frame[0] != HEARTBEAT:
                        self._feed(frame)
                if self.ended or not transport.more:
                    return
        except Exception as error:
            # Whatever bytes of the peer's make the library stumble: its state is of no use.
            raise self.fail(error) from error
        except BaseException:
            # What was read, and not put aside yet, is gone.
            self._interrupted()
            raise

    def _feed(self, frame: Frame) -> None:
        library = self.library
        library.feed(frame)
        if library.ended or library.closed_by is not None:
            self.fail(ConnectionAbortedError("the broker closed it"))

    def wait_for(self, condition: Callable[[], object], deadline: float) -> bool:
        """Read until `condition` is true; False when it is not at `deadline`."""
        while not condition():
            left = deadline - _monotonic()
            if left <= 0:
                return False
            self.receive(min(left, _LONGEST), condition)
        return True

    def wake(self) -> None:
        """Have the thread that waits check its condition; see :meth:`take_wake`."""
        if _getpid() == self._pid:
            self._readiness.wake()

    @property
    def woken(self) -> bool:
        """Whether :meth:`take_wake` would return true."""
        return self._readiness.woken

    def take_wake(self) -> bool:
        """Return whether :meth:`wake` was called since this was asked last."""
        return self._readiness.take_wake()

    # -- writing -------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Send whole frames without waiting, under the lock; what the socket does not take is
        sent before anything else."""
        try:
            self._transport.send(data)
        except Exception as error:
            raise self.fail(error) from error
        except BaseException:
            self._interrupted()
            raise

    def write(
        self,
        data: bytes,
        deadline: float,
        on_written: Callable[[bool], None] | None = None,
    ) -> None:
        """Write a message of whole frames, as soon as the broker accepts any.

        Parameters:
            on_written: called with True when `data` is on its way, and with False when it
                was taken back, before any thread has read more of the broker's.

        Raises:
            BrokerBlockedError: nothing is written.
            ConnectionLostError: perhaps a part was.
        """
        transport = self._transport
        while True:
            self.check()
            with self.lock:
                # What the broker has against it; a thread that reads learns it by itself.
                if not self._reading and not transport.nothing_waits():
                    self._take_in()
                    self.check()
                if not transport.unsent and not self.library.blocked:
                    try:
                        transport.send(data)
                        if on_written is not None:
                            on_written(True)
                        end = transport.queued
                        if transport.sent == end:
                            return
                        break
                    except Exception as error:
                        raise self.fail(error) from error
                    except BaseException:
                        # A message that the broker counts, and this side does not, would have
                        # its confirm taken for that of the next.
                        self._interrupted()
                        raise
            self._wait_until_clear(deadline)
        if not self._flush(deadline, end):
            self._give_up(end, on_written)

    def _wait_until_clear(self, deadline: float) -> None:
        if self._transport.unsent:
            if not self._flush(deadline, self._transport.queued):
                raise self._stalled()
        elif not self.wait_for(lambda: not self.library.blocked, deadline):
            raise BrokerBlockedError(
                f"{self.name}: the broker accepts no messages for now (connection.blocked: a "
                "memory or disk alarm), and did not in time; try again later, and see its log"
            )

    def _stalled(self) -> BrokerBlockedError:
        return BrokerBlockedError(
            f"{self.name}: the broker reads nothing for now, and did not in time (a memory or "
            "disk alarm, or overload?); nothing of this was sent: try again later, and see its log"
        )

    def _flush(self, deadline: float, end: int) -> bool:
        """Wait until `end` bytes are sent; one thread at a time waits for the socket."""
        while True:
            mine, news = object(), None
            try:
                left, news = self.locked(lambda: self._flush_once(mine, deadline, end))  # noqa: B023
                if left is None or left <= 0:
                    return left is None
                if news is not None:
                    news.acquire(True, left)
                else:
                    # A descriptor that was closed meanwhile: the next iteration reports it.
                    with suppress(OSError, ValueError):
                        wait_writable(self._sock.fileno(), left)
            finally:
                if self._flushing is mine:
                    self._flushing = None
                    self._notify_listeners()
                elif news is not None:
                    self._listeners.discard(news)

    def _flush_once(self, mine: object, deadline: float, end: int) -> tuple[float | None, Any]:
        """Send what the socket takes.

        Returns:
            The seconds to wait for more, None when all is sent; and what to wait for where
            another thread waits for the socket, else None.
        """
        transport = self._transport
        transport.flush()
        if transport.sent >= end:
            return None, None
        if not self._reading:
            self._take_in()
            self.check()
        left = min(_SLICE, deadline - _monotonic())
        if left > 0:
            if self._flushing:
                return left, self._listen()
            self._flushing = mine
        return left, None

    def _give_up(self, end: int, on_written: Callable[[bool], None] | None) -> None:
        """Take back a message that was to end with byte `end`: its time is up."""

        def unqueue() -> bool:
            transport = self._transport
            if transport.sent >= end:
                return False
            if not transport.unqueue(end):
                raise TimeoutError("the broker took half a frame, and no more in time")
            if on_written is not None:
                on_written(False)
            return True

        if self.locked(unqueue):
            raise self._stalled()

    # -- the end -------------------------------------------------------------

    def close(self, timeout: float) -> None:
        """Close; never raises, and waits for the broker for at most `timeout` seconds."""
        if _getpid() != self._pid:
            if not self.ended:
                self._abandon()
            return
        deadline = _monotonic() + timeout

        def begin() -> None:
            if not self._transport.unsent:
                self._closing = True
                self.library.begin_close()

        with suppress(ConnectionLostError):
            self.locked(begin)
            while self._closing and not self.ended and (left := deadline - _monotonic()) > 0:
                self._receive(left, lambda: self.ended)
        self.drop()

    def drop(self) -> None:
        """End the connection without a word."""
        with self.lock:
            self._closing = True
            self.fail(ConnectionAbortedError("closed"))


def _unexpected(kind: int, channel: int, _payload: bytes) -> None:
    raise not_amqp(f"a frame of type {kind} on channel {channel}, which is not open")


def _nothing() -> None:
    return None
