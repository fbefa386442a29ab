"""The byte stream of one connection: one thread waits for the peer, any thread sends.

One lock protects all state; no thread holds it while it waits. The thread that waits for the
socket to become readable does so for all threads, and notifies the others when it has read.

A signal handler, or a timeout of a green library, may raise after any call. The mark of the
reading thread is therefore a token that is set inside the ``try`` whose ``finally`` removes it.

It knows no protocol: a subclass handles what was read, and decides what is sent. Longer than
others: everything that uses one lock is in one place.
"""

from __future__ import annotations

import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sized
from contextlib import suppress
from typing import Any, Generic, TypeVar

from hbshim.adapters.transport import Transport
from hbshim.errors import ConnectionLostError, HbshimError
from hbshim.messaging.joining import Part
from hbshim.messaging.readiness import Readiness, wait_writable
from hbshim.runtime.fork import OPENED_BEFORE_FORK

#: Seconds between two checks whether the socket is writable.
_SLICE = 0.05
#: The longest single wait, in seconds, of a thread without a deadline.
_LONGEST = 60.0
#: The most reads before other threads get the lock.
_READS = 16

_T = TypeVar("_T")
_I = TypeVar("_I")

_monotonic = time.monotonic
_getpid = os.getpid


class ByteStream(ABC, Generic[_I]):
    """Reads from one connection and writes to it.

    Parameters:
        sock: see :class:`hbshim.adapters.transport.Transport`; closed at the end.
        name: host and port.
        make_transport: makes the transport of the socket.

    Attributes:
        lock: of the program's concurrency model, and re-entrant: :meth:`_handle` is called under
            it.
        ended: nothing more is read or written.
    """

    def __init__(self, sock: Any, name: str, make_transport: Callable[[Any], Transport]) -> None:
        self.name = name
        self.lock = threading.RLock()
        self.ended = False
        self._why = "is closed"
        # Locked locks, and parts of joint waits; each is released to wake up the thread that waits
        # for it.
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
            self._transport = make_transport(sock)
            self._start()
        except BaseException:
            self._readiness.close(sock.close)
            raise

    # -- what a protocol implements ------------------------------------------

    def _start(self) -> None:
        """Make what :meth:`_handle` needs."""

    @abstractmethod
    def _handle(self, item: _I) -> None:
        """Handle what the transport has read; called under the lock."""

    @abstractmethod
    def _closed_by_peer(self) -> str | None:
        """Return why the peer closed the connection; None if it did not."""

    @abstractmethod
    def _send_close(self) -> None:
        """Send what closes the connection; called under the lock."""

    def _on_ended(self) -> None:
        """Note that the stream has ended; called once, under the lock."""

    # -- state ---------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether it is open, as far as this side knows; the peer is not asked."""
        return (
            not self.ended
            and not self._transport.closing
            and self._transport.alive
            and _getpid() == self._pid
        )

    def check(self) -> None:
        """Check that the connection can be used.

        Raises:
            ConnectionLostError: it is not open, or belongs to the parent process.
        """
        if _getpid() != self._pid:
            # Before the lock: the thread that held it at the fork does not exist in this process.
            raise ConnectionLostError(f"{self.name}: {OPENED_BEFORE_FORK}")
        if self.ended or self._transport.closing:
            raise self._lost()

    def _lost(self) -> ConnectionLostError:
        return ConnectionLostError(f"{self.name}: the connection {self._why}; open a new one")

    def fail(self, error: BaseException) -> ConnectionLostError:
        """End the connection because of `error`; return the error to raise."""
        with self.lock:
            if not self.ended:
                reason = self._closed_by_peer()
                if reason is not None:
                    self._why = f"was closed by the broker: {reason}"
                elif not self._transport.closing:
                    self._why = f"was lost: {str(error) or type(error).__name__}"
                self._end()
            return self._lost()

    def _end(self) -> None:
        self.ended = True
        # Each step, whichever one an interrupt cuts short: no other call does it again.
        try:
            self._transport.end()
        finally:
            try:
                self._readiness.close(self._sock.close)
            finally:
                try:
                    self._on_ended()
                finally:
                    try:
                        self._notify_listeners()
                    except BaseException:
                        self._notify_listeners()  # interrupted before its first line
                        raise

    def _interrupted(self) -> None:
        """End a connection whose protocol state may be incomplete after an interrupt."""
        self.fail(ConnectionAbortedError("a call on it was interrupted"))

    def locked(self, work: Callable[[], _T]) -> _T:
        """Call `work` under the lock; an error other than hbshim's ends the connection.

        A function, because an interrupt could come between acquiring the lock and the block of a
        context manager written in Python.

        Raises:
            ConnectionLostError: it cannot be used, or `work` has failed.
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

    def _wait_for_handshake(self, done: Callable[[], object], deadline: float) -> bool:
        """Read until `done` is true; no other thread may use the connection meanwhile.

        Returns:
            False if it is not by `deadline`.

        Raises:
            ConnectionLostError: the connection ended.
        """
        while not done():
            left = deadline - _monotonic()
            if left <= 0 or not (self._transport.buffered or self._readiness.wait(left)):
                return False
            with self.lock:
                self._read_available()
            if self.ended:
                raise self._lost()
        return True

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
                except BaseException:
                    # Interrupted, perhaps before it has notified the others.
                    if self._reading is mine:
                        self._reading = None
                    self._notify_listeners()
                    raise
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

    def receive_into(self, arrived: Sized, timeout: float) -> None:
        """Read until `arrived` is not empty, :meth:`wake` was called, or `timeout` is over.

        Parameters:
            arrived: gets what the subclass or its owner makes of what was read.

        Raises:
            ConnectionLostError: the connection has ended, and `arrived` is empty.
        """
        deadline = _monotonic() + timeout
        left = timeout
        while not arrived and not self.take_wake():
            try:
                self.receive(left, lambda: arrived or self.woken)
            except ConnectionLostError:
                if not arrived:
                    raise
            left = deadline - _monotonic()
            if left <= 0:
                break

    def begin_wait(self, part: Part, enough: Callable[[], object]) -> bool:
        """Begin a wait for several streams at once, instead of :meth:`receive`.

        Until ``part.end()`` the calling thread is the one that waits for this stream. It reads
        afterwards.

        Parameters:
            part: of this stream.
            enough: as for :meth:`receive`.

        Returns:
            False if there is something to read already.

        Raises:
            ConnectionLostError: the connection has ended.
        """
        self.check()
        part.on_end = lambda: self._end_wait(part)
        with self.lock:
            if enough() or self._transport.buffered:
                return False
            if self._reading:
                self._listeners.add(part)
            else:
                self._reading = part
                part.readiness = self._readiness
                if self._transport.unsent:
                    part.limit = min(part.limit, _SLICE)
        return True

    def _end_wait(self, part: Part) -> None:
        with self.lock:
            self._listeners.discard(part)
            if self._reading is part:
                self._reading = None
                self._notify_listeners()

    def _listen(self) -> Any:
        """Return a lock that is released when another thread has read; called under the lock."""
        news = threading.Lock()
        news.acquire()
        self._listeners.add(news)
        return news

    def _notify_listeners(self) -> None:
        with self.lock:
            try:
                self._release_listeners()
            except BaseException:
                self._release_listeners()  # interrupted: the rest of them
                raise

    def _release_listeners(self) -> None:
        # Of a copy: threads that wait no longer leave the set without the lock.
        for news in self._listeners.copy():
            # Twice after an interrupt.
            with suppress(RuntimeError):
                news.release()
            self._listeners.discard(news)

    def _read_available(self) -> None:
        """Send pending bytes, and handle what can be read; called under the lock."""
        transport = self._transport
        try:
            if transport.unsent:
                transport.flush()
            for _ in range(_READS):
                for item in transport.read():
                    if self.ended:
                        return
                    self._handle(item)
                if self.ended or not transport.more:
                    return
        except Exception as error:
            # Bytes from the peer made the protocol fail: its state is unusable.
            raise self.fail(error) from error
        except BaseException:
            # Bytes that were read, and not stored yet, are lost.
            self._interrupted()
            raise

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

        Raises:
            ConnectionLostError: the socket has failed.
        """
        try:
            self._transport.send(data)
        except Exception as error:
            raise self.fail(error) from error
        except BaseException:
            self._interrupted()
            raise

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
                    try:
                        self._notify_listeners()
                    except BaseException:
                        self._notify_listeners()  # interrupted before its first line
                        raise
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

    # -- the end -------------------------------------------------------------

    def close(self, timeout: float) -> None:
        """Close; never raises, and waits for the peer for at most `timeout` seconds."""
        if _getpid() != self._pid:
            if not self.ended:
                self._abandon()
            return
        deadline = _monotonic() + timeout

        def begin() -> None:
            if not self._transport.unsent:
                self._transport.closing = True
                self._send_close()

        with suppress(ConnectionLostError):
            self.locked(begin)
            transport = self._transport
            while transport.closing and not self.ended and (left := deadline - _monotonic()) > 0:
                self._receive(left, lambda: self.ended)
        self.drop()

    def drop(self) -> None:
        """End the connection without sending anything."""
        with self.lock:
            self._transport.closing = True
            self.fail(ConnectionAbortedError("closed"))
