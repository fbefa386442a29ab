"""What is under a connection over pika: one thread waits for the broker, any thread sends.

Every touch of pika's state is made under one lock, which nobody holds while he waits. Who
waits for the socket to become readable does so for all: others that want to hear something of
the broker are told when he has read.

Longer than others: everything that touches one lock is read together.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from pika.exceptions import (
    ConnectionClosedByClient,
    ShortStringTooLong,
    StreamLostError,
    UnsupportedAMQPFieldException,
)

from hbshim.adapters.attach import options_for_connect, ready
from hbshim.adapters.pika.session import StreamConnection
from hbshim.errors import BrokerBlockedError, ConnectionLostError, PayloadError
from hbshim.messaging.amqp.options import AmqpOptions
from hbshim.messaging.dialing import dial
from hbshim.messaging.hosts import Host
from hbshim.messaging.pika.opening import LOST, parameters, shake_hands, words
from hbshim.messaging.readiness import Readiness, wait_writable
from hbshim.options import Options

#: Seconds between two looks whether the socket takes what waits to be sent.
_SLICE = 0.05
#: Seconds of one wait at most, for those who wait for ever.
_LONGEST = 60.0

_monotonic = time.monotonic
_getpid = os.getpid


class Closable(Protocol):
    """A channel, as far as the line is concerned."""

    @property
    def gone(self) -> bool:
        """Whether it is closed."""
        ...


class Line:
    """Opens a connection, reads from it and writes to it.

    Attributes:
        stream: pika's state; touched under `lock` only.
        lock: of the program's own kind, and re-entrant: pika calls back while it is called.
        blocked: the broker said that it accepts no messages for now.

    Raises:
        ConnectError, OptionError: see :func:`hbshim.messaging.pika.connect`.
    """

    def __init__(self, host: Host, options: AmqpOptions, deadline: float) -> None:
        self.name = host.name
        self.blocked = False
        self.lock = threading.RLock()
        self._news = threading.Condition(self.lock)
        self._listeners = 0
        # What the thread that reads, or waits to write, has put there as its own.
        self._reading: object | None = None
        self._flushing: object | None = None
        self._pid = os.getpid()
        heartbeats = options_for_connect(lambda _: options.heartbeat_options(), dict, host.name)
        kept_alive = heartbeats is not None and ready(heartbeats, host.name)
        self._sock = dial(host, options, deadline)
        self._readiness = Readiness(self._sock.fileno())
        try:
            self.stream = StreamConnection(
                parameters(host, options, heartbeats=kept_alive),
                self._sock,
                heartbeats or Options(),
                self._on_end,
                self._abandon,
            )
        except BaseException:
            self._readiness.close(self._sock.close)
            raise
        self.stream.add_on_connection_blocked_callback(self._on_blocked)
        self.stream.add_on_connection_unblocked_callback(self._on_unblocked)
        try:
            with self.lock:
                shake_hands(self.stream, self._readiness, host, deadline, options.handshake_timeout)
        except BaseException:
            self.drop()
            raise

    # -- state ---------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """As far as this side knows without asking."""
        return bool(self.stream.alive) and _getpid() == self._pid

    def check(self) -> None:
        """Raise ConnectionLostError unless the connection is open, and this process's."""
        if _getpid() != self._pid:
            # Before the lock is asked for: whoever held it at the fork is not here.
            raise ConnectionLostError(
                f"{self.name}: this connection was opened before a fork and belongs to the "
                "parent process; open a new one in the child"
            )
        if not self.stream.is_open:
            raise self._lost()

    def _lost(self) -> ConnectionLostError:
        reason = self.stream.reason
        if reason is None or isinstance(reason, ConnectionClosedByClient):
            return ConnectionLostError(f"{self.name}: the connection is closed; open a new one")
        return ConnectionLostError(
            f"{self.name}: the connection is lost ({words(reason)}); open a new one"
        )

    def failed(self, error: Exception) -> ConnectionLostError:
        """End the connection over `error`; what is to be raised."""
        self.stream.fail(error)
        return self._lost()

    @contextmanager
    def state(self) -> Iterator[Any]:
        """Touch pika's state; its errors become hbshim's, and end the connection.

        Raises:
            PayloadError: a name or argument that AMQP has no form for; this ends nothing.
        """
        self.check()
        with self.lock:
            try:
                yield self.stream
            except (ShortStringTooLong, UnsupportedAMQPFieldException) as error:
                raise PayloadError(
                    f"AMQP has no form for a name or an argument ({words(error)}); names have "
                    "255 octets at most"
                ) from error
            except LOST as error:
                raise self.failed(error) from error

    def _on_blocked(self, _connection: Any, _frame: Any) -> None:
        self.blocked = True

    def _on_unblocked(self, _connection: Any, _frame: Any) -> None:
        self.blocked = False

    # -- reading -------------------------------------------------------------

    def receive(self, timeout: float, enough: Callable[[], object]) -> None:
        """Take in what is there, or comes within `timeout`; or have another thread do so.

        Parameters:
            enough: there is no need to wait. Asked under the lock: what another thread has
                read since the caller looked would else be waited for.
        """
        self.check()
        self._receive(timeout, enough)

    def _receive(self, timeout: float, enough: Callable[[], object]) -> None:
        stream = self.stream
        # Set inside the block: an exception of a signal handler may come right behind it.
        mine, readable = object(), False
        try:
            with self.lock:
                if enough():
                    return
                if self._reading:
                    self._listen(timeout)
                    return
                self._reading = mine
            if stream.unsent:
                timeout = min(timeout, _SLICE)
            readable = stream.buffered or self._readiness.wait(timeout)
        finally:
            if self._reading is mine:
                try:
                    self._end_reading(readable)
                finally:
                    if self._reading is mine:  # interrupted before it began
                        self._reading = None
                        self._tell_listeners()

    def _end_reading(self, readable: bool) -> None:
        with self.lock:
            self._reading = None
            try:
                if readable or self.stream.unsent:
                    self._take_in()
            finally:
                self._tell_listeners()

    def _tell_listeners(self) -> None:
        with self.lock:
            if self._listeners:
                self._news.notify_all()

    def _take_in(self) -> None:
        if self.stream.ended:
            return
        try:
            self.stream.flush()
            self.stream.receive()
        except Exception as error:
            # Whatever octets of the peer's make pika stumble: its state is of no use any more.
            raise self.failed(error) from error
        except BaseException:
            # What was read, and not put aside yet, is gone.
            self._interrupted()
            raise

    def _interrupted(self) -> None:
        """End a connection of which this side may not know what was said on it."""
        self.stream.fail(StreamLostError("a call on it was interrupted"))

    def _listen(self, timeout: float) -> None:
        self._listeners += 1
        try:
            self._news.wait(timeout)
        finally:
            self._listeners -= 1

    def wait_for(self, condition: Callable[[], object], deadline: float) -> bool:
        """Read until `condition` is true; False when it is not at `deadline`."""
        while not condition():
            left = deadline - _monotonic()
            if left <= 0:
                return False
            self.receive(min(left, _LONGEST), condition)
        return True

    def wake(self) -> None:
        """Have the thread that waits look around; see :meth:`take_wake`."""
        if _getpid() == self._pid:
            self._readiness.wake()

    @property
    def woken(self) -> bool:
        """Whether :meth:`take_wake` would say so."""
        return self._readiness.woken

    def take_wake(self) -> bool:
        """Whether :meth:`wake` was called since this was asked last."""
        return self._readiness.take_wake()

    # -- writing -------------------------------------------------------------

    def write(
        self,
        data: bytes,
        deadline: float,
        channel: Closable,
        on_written: Callable[[bool], None] | None = None,
    ) -> bool:
        """Write a message of whole frames, as soon as the broker accepts any.

        Parameters:
            channel: the one that it is for.
            on_written: called with True when `data` is on its way, and with False when it
                was taken back, before anybody has read more of the broker's.

        Returns:
            False, and nothing is written, when the channel is closed.

        Raises:
            BrokerBlockedError: nothing is written.
            ConnectionLostError: perhaps a part was.
        """
        stream = self.stream
        while True:
            self.check()
            with self.lock:
                try:
                    # What the broker has to say against it; if somebody waits, he hears it.
                    if not self._reading and not stream.nothing_waits():
                        self._take_in()
                    if channel.gone:
                        return False
                    if not self.blocked and not stream.unsent:
                        stream.send(data)
                        if on_written is not None:
                            on_written(True)
                        end = stream.queued
                        if stream.sent == end:
                            return True
                        break
                except LOST as error:
                    raise self.failed(error) from error
                except BaseException:
                    # A message that the broker counts, and this side does not, would have its
                    # confirm taken for that of the next.
                    self._interrupted()
                    raise
            self._wait_until_clear(deadline)
        if not self._flush(deadline, end):
            self._give_up(end, on_written)
        return True

    def write_at_once(self, data: bytes, channel: Closable) -> bool:
        """Write whole frames without waiting; not if the channel is closed: return False."""
        self.check()
        with self.lock:
            try:
                if not channel.gone:
                    self.stream.send(data)
                return not channel.gone
            except LOST as error:
                raise self.failed(error) from error

    def _wait_until_clear(self, deadline: float) -> None:
        if self.stream.unsent:
            clear = self._flush(deadline, self.stream.queued)
        else:
            clear = self.wait_for(lambda: not self.blocked, deadline)
        if not clear:
            raise BrokerBlockedError(
                f"{self.name}: the broker accepts no messages for now (a memory or disk alarm, "
                "or it is overloaded), and did not in time; try again later, and see its log"
            )

    def _flush(self, deadline: float, end: int) -> bool:
        """Wait until `end` octets are sent; one thread at a time waits for the socket."""
        while True:
            mine = object()
            try:
                with self.state() as stream:
                    stream.flush()
                    if stream.sent >= end:
                        return True
                    if not self._reading:
                        self._take_in()
                    left = min(_SLICE, deadline - _monotonic())
                    if left <= 0:
                        return False
                    if self._flushing:
                        self._listen(left)
                        continue
                    self._flushing = mine
                # A descriptor that was closed meanwhile: the next turn says so.
                with suppress(OSError, ValueError):
                    wait_writable(self._sock.fileno(), left)
            finally:
                if self._flushing is mine:
                    self._flushing = None
                    self._tell_listeners()

    def _give_up(self, end: int, on_written: Callable[[bool], None] | None) -> None:
        """The time is up for a message that was to end with octet `end` of all."""
        with self.state() as stream:
            if stream.sent >= end:
                return
            try:
                withdrawn = stream.withdraw(end)
                if withdrawn and on_written is not None:
                    on_written(False)
            except BaseException:
                self._interrupted()
                raise
            if withdrawn:
                raise BrokerBlockedError(
                    f"{self.name}: the broker reads nothing for now, and did not in time; try "
                    "again later, and see its log"
                )
            raise self.failed(TimeoutError("the broker stopped reading in the middle of a message"))

    # -- the end -------------------------------------------------------------

    def close(self, timeout: float) -> None:
        """Close; never raises, and waits for the broker for at most `timeout` seconds."""
        if _getpid() != self._pid:
            self._abandon()
            return
        deadline = _monotonic() + timeout
        with self.lock, suppress(ConnectionLostError):
            if self.stream.is_open and not self.stream.unsent:
                try:
                    self.stream.begin_close()
                except LOST as error:
                    raise self.failed(error) from error
        with suppress(ConnectionLostError):
            while self.stream.is_closing and (left := deadline - _monotonic()) > 0:
                self._receive(left, lambda: not self.stream.is_closing)
        self.drop()

    def drop(self) -> None:
        """End the connection without a word."""
        with self.lock:
            self.stream.fail(ConnectionClosedByClient(200, "Normal shutdown"))

    def _on_end(self) -> None:
        self.blocked = False
        self._readiness.close(self._sock.close)
        if self._listeners:
            self._news.notify_all()

    def _abandon(self) -> None:
        """In a forked child: let go of what is the parent's, without a lock and a word."""
        self._readiness.drop()
        self._sock.close()
