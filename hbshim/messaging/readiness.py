"""Waits for a descriptor to become readable, or for a wake-up.

It uses the native ``poll``, eventlet's green ``select`` (eventlet removes ``poll``), or gevent's
green ``poll``. It never uses epoll, because a forked child would share its set of descriptors.
"""

from __future__ import annotations

import contextlib
import select
import threading
from _socket import socketpair
from collections.abc import Callable, Container
from typing import Any

from hbshim.runtime.fork import process_mark

#: The longest wait, in seconds: a poller counts milliseconds in 31 bits.
LONGEST_WAIT = 86400.0


def _nothing() -> None:
    return None


class Readiness:
    """One descriptor, for which one thread or green thread waits at a time.

    Parameters:
        fd: the descriptor of a socket. It belongs to the caller, which closes it through
            :meth:`close`. None: there are only wake-ups.
    """

    def __init__(self, fd: int | None) -> None:
        self._fd = fd
        # Native sockets: they are read only when data is there, and never block.
        self._wake_in, self._wake_out = socketpair()
        for end in (self._wake_in, self._wake_out):
            end.setblocking(False)
        # Re-entrant: a signal handler may call `wake` while its thread holds it.
        self._lock = threading.RLock()
        self._waiting = self._woken = self._closed = False
        self._then: Callable[[], None] = _nothing
        # The poller, and the function that made it: a program may patch `select` later.
        self._poller: Any = None
        self._made_by: Any = None
        # In a forked child a copy of a green thread may wait; the bytes belong to the parent.
        self._mark = process_mark()

    def wait(self, timeout: float) -> bool:
        """Wait for at most `timeout` seconds; :meth:`wake` ends one wait.

        It may also end early without a reason: check the clock.

        Returns:
            Whether the descriptor is readable, or at its end. False at once when closed, and in a
            forked child.
        """
        if not self.enter():
            return False
        try:
            ready = self._ready(min(max(0.0, timeout), LONGEST_WAIT))
            if len(ready) > (self._fd in ready):
                self._take_bytes()
            return self._fd in ready and bool(self._mark[0])
        finally:
            self.leave()

    # -- for a wait that joins several, see hbshim.messaging.joining ---------------

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The descriptors to wait for, between :meth:`enter` and :meth:`leave`."""
        wake = self._wake_in.fileno()
        return (wake,) if self._fd is None else (self._fd, wake)

    def take_bytes(self, ready: Container[int]) -> None:
        """Remove the bytes of wake-ups, if their descriptor is among those that are `ready`."""
        if self._wake_in.fileno() in ready:
            self._take_bytes()

    def _take_bytes(self) -> None:
        if not self._mark[0]:
            return
        # A green `select` may report an event of a closed socket whose number this one has.
        with contextlib.suppress(BlockingIOError):
            self._wake_in.recv(4096)

    def enter(self) -> bool:
        """Begin to wait; return whether it is open, and this is no forked child."""
        if not self._mark[0]:
            return False
        with self._lock:
            self._waiting = not self._closed
            return self._waiting

    def leave(self) -> None:
        """End a wait, and the object, if it was closed meanwhile."""
        with self._lock:
            self._waiting = False
            if self._closed:
                self._end()

    def wake(self) -> None:
        """End the current :meth:`wait`, or else the next one; from any thread."""
        with self._lock:
            if not self._woken and not self._closed:
                self._woken = True
                self._wake_out.send(b"\0")

    @property
    def woken(self) -> bool:
        """Whether :meth:`take_wake` would return True."""
        return self._woken

    def take_wake(self) -> bool:
        """Return whether :meth:`wake` was called since the last call of this method.

        Until then at most one wait returns early for it: a thread that waits for something else in
        between, such as the broker's answer, keeps waiting.
        """
        woken, self._woken = self._woken, False
        return woken

    def close(self, then: Callable[[], None] = _nothing) -> None:
        """End the current :meth:`wait` and all later ones. Idempotent.

        Parameters:
            then: closes the descriptor; called when no thread waits any longer. A thread that waits
                for a closed descriptor would receive events of the next file with its number.
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
        """In a forked child: close this process's copies; the parent's stay open.

        It does not take the lock, which a thread of the parent may have held at the fork.
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
            return list(select.select(list(self.descriptors), [], [], timeout)[0])
        if poll is not self._made_by:
            self._poller, self._made_by = poll(), poll
            for fd in self.descriptors:
                self._poller.register(fd, select.POLLIN)
        return [fd for fd, _ in self._poller.poll(timeout * 1000)]


def wait_writable(fd: int, timeout: float) -> bool:
    """Wait for at most `timeout` seconds until `fd` is writable; return whether it is."""
    timeout = min(max(0.0, timeout), LONGEST_WAIT)
    if not hasattr(select, "poll"):
        return bool(select.select([], [fd], [], timeout)[1])
    poller = select.poll()
    poller.register(fd, select.POLLOUT)
    return bool(poller.poll(timeout * 1000))
