"""The byte stream of one connection: one thread waits for the broker, any thread sends.

One lock protects all state; no thread holds it while it waits. The thread that waits for the
socket to become readable does so for all threads, and notifies the others when it has read.

A signal handler, or a timeout of a green library, may raise after any call. The mark of the
reading thread is therefore a token that is set inside the ``try`` whose ``finally`` removes it.

Longer than others: everything that uses one lock is in one place.
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

#: Seconds between two checks whether the socket is writable.
_SLICE = 0.05
#: The longest single wait, in seconds, of a thread without a deadline.
_LONGEST = 60.0
#: The most reads before other threads get the lock.
_READS = 16

_T = TypeVar("_T")

_monotonic = time.monotonic
_getpid = os.getpid


class Stream:
    """Reads from one connection and writes to it.

    Parameters:
        sock: see :class:`hbshim.adapters.transport.Transport`; closed at the end.
        name: host and port.
        make_library: makes the client library's part, given the function that sends whole frames.

    Attributes:
        lock: of the program's concurrency model, and re-entrant: `on_frame` is called under it.
        ended: nothing more is read or written.
        on_frame: called under the lock with the type, channel and payload of each frame of a
            channel other than 0.
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
        # Locked locks; each is released to wake up the thread that waits for it.
        self._listeners: set[Any] = set()
        # The tokens of the thread that reads, and of the one that waits to write.
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
        """Whether it is open, as far as this side knows; the broker is not asked."""
        return (
            not self.ended
            and not self._closing
            and self._transport.alive
            and _getpid() == self._pid
        )

    @property
    def blocked(self) -> bool:
        """Whether the broker accepts no messages for now."""
        return self.library.blocked and not self.ended

    def check(self) -> None:
        """Raise ConnectionLostError unless the connection is open and belongs to this process."""
        if _getpid() != self._pid:
            # Before the lock: the thread that held it at the fork does not exist in this process.
            raise ConnectionLostError(
                f"{self.name}: this connection was opened before a fork and belongs to the "
                "parent process; open a new one in the child"
            )
        if self.ended or self._closing:
            raise self._lost()

    def _lost(self) -> ConnectionLostError:
        return ConnectionLostError(f"{self.name}: the connection {self._why}; open a new one")

    def fail(self, error: BaseException) -> ConnectionLostError:
        """End the connection because of `error`; return the error to raise."""
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
        """End a connection whose protocol state may be incomplete after an interrupt."""
        self.fail(ConnectionAbortedError("a call on it was interrupted"))

    def locked(self, work: Callable[[], _T]) -> _T:
        """Call `work` under the lock; an error other than hbshim's ends the connection.

        A function, because an interrupt could come between acquiring the lock and the block of a
        context manager written in Python.
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
                # Its start may not be recorded.
                self._interrupted()
                raise

    def _abandon(self) -> None:
        """In a forked child: drop what is the parent's, without the lock, and send nothing."""
        self.ended = True
        self._readiness.drop()
        self._sock.close()

    # -- the handshake -------------------------------------------------------

    def shake_hands(self, deadline: float) -> bool:
        """Do the handshake; no other thread may use the connection meanwhile.

        Returns:
            False if the broker did not answer by `deadline`.

        Raises:
            ConnectionLostError: it closed the connection, or does not speak AMQP.
        """
        self.locked(self.library.begin)
        while not self.library.is_open:
            left = deadline - _monotonic()
            if left <= 0 or not (self._transport.buffered or self._readiness.wait(left)):
                return False
            with self.lock:
                self._read_available()
            if self.ended:
                raise self._lost()
        return True

    def keep_alive(self, options: Options) -> None:
        """Start heartbeats, as they were negotiated."""
        myself = weakref.ref(self)

        def abandon() -> None:
            alive = myself()
            if alive is not None:
                alive._abandon()

        timeout = self.library.heartbeat_timeout
        self.locked(lambda: self._transport.keep_alive(timeout, options, abandon))

    # -- reading -------------------------------------------------------------

    def receive(self, timeout: float, enough: Callable[[], object]) -> None:
        """Read what has arrived, or arrives within `timeout`; or wait for a thread that reads.

        Parameters:
            timeout: seconds.
            enough: returns whether waiting is unnecessary. Called under the lock, because another
                thread may have read in the meantime.
        """
        self.check()
        self._receive(timeout, enough)

    def _receive(self, timeout: float, enough: Callable[[], object]) -> None:
        transport = self._transport
        # Set inside the block: a signal handler may raise directly after it.
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
                    if self._reading is mine:  # interrupted before it started
                        self._reading = None
                        self._notify_listeners()
            elif news is not None:
                self._listeners.discard(news)

    def _end_reading(self, readable: bool) -> None:
        with self.lock:
            self._reading = None
            try:
                if not self.ended and (readable or self._transport.unsent):
                    self._read_available()
            finally:
                self._notify_listeners()

    def _listen(self) -> Any:
        """Return a lock that is released when another thread has read; called under the lock."""
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

    def _read_available(self) -> None:
        """Send pending bytes, and handle what can be read; called under the lock."""
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
            # Bytes from the peer made the library fail: its state is unusable.
            raise self.fail(error) from error
        except BaseException:
            # Bytes that were read, and not stored yet, are lost.
            self._interrupted()
            raise

    def _feed(self, frame: Frame) -> None:
        library = self.library
        library.feed(frame)
        if library.ended or library.closed_by is not None:
            self.fail(ConnectionAbortedError("the broker closed it"))

    def wait_for(self, condition: Callable[[], object], deadline: float) -> bool:
        """Read until `condition` is true; return False if it is not by `deadline`."""
        while not condition():
            left = deadline - _monotonic()
            if left <= 0:
                return False
            self.receive(min(left, _LONGEST), condition)
        return True

    def wake(self) -> None:
        """Make the waiting thread check its condition; see :meth:`take_wake`."""
        if _getpid() == self._pid:
            self._readiness.wake()

    @property
    def woken(self) -> bool:
        """Whether :meth:`take_wake` would return True."""
        return self._readiness.woken

    def take_wake(self) -> bool:
        """Return whether :meth:`wake` was called since the last call of this method."""
        return self._readiness.take_wake()

    # -- writing -------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Send whole frames without waiting, under the lock.

        The bytes that the socket does not accept are sent before anything else.
        """
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
        """Write a message of whole frames as soon as the broker accepts bytes.

        Parameters:
            data: the frames.
            deadline: of ``time.monotonic()``.
            on_written: called with True when `data` is being sent, and with False when it was
                taken back, before any thread has read more from the broker.

        Raises:
            BrokerBlockedError: nothing was written.
            ConnectionLostError: a part may have been written.
        """
        transport = self._transport
        while True:
            self.check()
            with self.lock:
                # The broker's reason for closing the connection; a reading thread finds it by
                # itself.
                if not self._reading and not transport.nothing_waits():
                    self._read_available()
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
                        # If the broker counts a message that this side does not, its confirm would
                        # be taken for that of the next message.
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
                "memory or disk alarm), and did not in time; try again later, and check its log"
            )

    def _stalled(self) -> BrokerBlockedError:
        return BrokerBlockedError(
            f"{self.name}: the broker reads nothing for now, and did not in time (a memory or "
            "disk alarm, or overload?); nothing was sent: try again later, and check its log"
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
        """Send what the socket accepts.

        Returns:
            The seconds to wait for more, None when all is sent; and the lock to wait for if
            another thread waits for the socket, else None.
        """
        transport = self._transport
        transport.flush()
        if transport.sent >= end:
            return None, None
        if not self._reading:
            self._read_available()
            self.check()
        left = min(_SLICE, deadline - _monotonic())
        if left > 0:
            if self._flushing:
                return left, self._listen()
            self._flushing = mine
        return left, None

    def _give_up(self, end: int, on_written: Callable[[bool], None] | None) -> None:
        """Take back a message that ends with byte `end`: its deadline has passed."""

        def unqueue() -> bool:
            transport = self._transport
            if transport.sent >= end:
                return False
            if not transport.unqueue(end):
                raise TimeoutError("the broker accepted only a part of a frame in time")
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
        """End the connection without sending anything."""
        with self.lock:
            self._closing = True
            self.fail(ConnectionAbortedError("closed"))


def _unexpected(kind: int, channel: int, _payload: bytes) -> None:
    raise not_amqp(f"a frame of type {kind} on channel {channel}, which is not open")


def _nothing() -> None:
    return None
