"""Waits for a descriptor to become readable, or for somebody to wake the one who waits.

Natively by ``poll``; under eventlet, which has taken that away, by its green ``select``;
under gevent by its green ``poll``. Never by epoll, whose set of descriptors a forked child
would share.
"""

from __future__ import annotations

import contextlib
import select
import threading
from _socket import socketpair
from collections.abc import Callable
from typing import Any

#: Seconds of one wait at most: a poller counts milliseconds in 31 bits.
LONGEST_WAIT = 86400.0


def _nothing() -> None:
    return None


class Readiness:
    """One descriptor that one thread, or green thread, at a time waits for.

    Parameters:
        fd: a socket's descriptor. It stays the caller's, who closes it by way of
            :meth:`close`.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        # Native ones: they are asked only for what is there, and never wait.
        self._wake_in, self._wake_out = socketpair()
        for end in (self._wake_in, self._wake_out):
            end.setblocking(False)
        # Re-entrant: a signal handler may call `wake` while its thread is in here.
        self._lock = threading.RLock()
        self._waiting = self._woken = self._closed = False
        self._then: Callable[[], None] = _nothing
        # The poller, and what made it: a program may patch `select` after this.
        self._poller: Any = None
        self._made_by: Any = None

    def wait(self, timeout: float) -> bool:
        """Wait for at most `timeout` seconds; :meth:`wake` ends one wait early.

        It may end early without a reason, too: look at the clock.

        Returns:
            Whether the descriptor is readable, or at its end. False at once when closed.
        """
        if not self._enter():
            return False
        try:
            ready = self._ready(min(max(0.0, timeout), LONGEST_WAIT))
            if len(ready) > (self._fd in ready):
                # A green `select` may tell of what was said of a closed socket whose number
                # this one has now.
                with contextlib.suppress(BlockingIOError):
                    self._wake_in.recv(4096)
            return self._fd in ready
        finally:
            self._leave()

    def _enter(self) -> bool:
        with self._lock:
            self._waiting = not self._closed
            return self._waiting

    def _leave(self) -> None:
        with self._lock:
            self._waiting = False
            if self._closed:
                self._end()

    def wake(self) -> None:
        """Have the :meth:`wait` that runs, or else the next one, return; from any thread."""
        with self._lock:
            if not self._woken and not self._closed:
                self._woken = True
                self._wake_out.send(b"\0")

    @property
    def woken(self) -> bool:
        """Whether :meth:`take_wake` would say so."""
        return self._woken

    def take_wake(self) -> bool:
        """Whether :meth:`wake` was called since this was asked last.

        Until then, one wait at most returns early for it: whoever waits for something else
        in between, such as the broker's answer, goes on waiting.
        """
        woken, self._woken = self._woken, False
        return woken

    def close(self, then: Callable[[], None] = _nothing) -> None:
        """End the :meth:`wait` that runs and every later one; again: does nothing.

        Parameters:
            then: called once nobody waits any more; closes the descriptor. Whoever still
                waited for a closed one would hear of the next file that gets its number.
        """
        with self._lock:
            if self._closed:
                return
            self._closed, self._then = True, then
            if self._waiting:
                self._wake_out.send(b"\0")
            else:
                self._end()

    def drop(self) -> None:
        """In a forked child: close this process's copies; the parent's go on.

        Without the lock, which a thread of the parent's may have held at the fork.
        """
        self._closed = True
        for end in (self._wake_in, self._wake_out):
            end.close()

    def _end(self) -> None:
        self._poller = None
        for end in (self._wake_in, self._wake_out):
            end.close()
        then, self._then = self._then, _nothing
        then()

    def _ready(self, timeout: float) -> list[int]:
        poll = getattr(select, "poll", None)
        if poll is None:
            return list(select.select([self._fd, self._wake_in.fileno()], [], [], timeout)[0])
        if poll is not self._made_by:
            self._poller, self._made_by = poll(), poll
            for fd in (self._fd, self._wake_in.fileno()):
                self._poller.register(fd, select.POLLIN)
        return [fd for fd, _ in self._poller.poll(timeout * 1000)]


def wait_writable(fd: int, timeout: float) -> bool:
    """Wait until `fd` takes octets again, for at most `timeout` seconds; whether it does."""
    timeout = min(max(0.0, timeout), LONGEST_WAIT)
    if not hasattr(select, "poll"):
        return bool(select.select([], [fd], [], timeout)[1])
    poller = select.poll()
    poller.register(fd, select.POLLOUT)
    return bool(poller.poll(timeout * 1000))
