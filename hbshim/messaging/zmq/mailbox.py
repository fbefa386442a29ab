"""What the I/O thread has for a thread of the application, be it a native or a green one.

The I/O thread adds an item and writes a byte to a native pair of sockets. The receiver waits for
that with the program's own ``poll`` or ``select``, so no green thread waits for a native lock, and
the I/O thread touches no green one.

A forked child has a copy of each green thread, which goes on waiting for the pair of the parent.
"""

from __future__ import annotations

import contextlib
from _socket import socketpair
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from hbshim.messaging.joining import Part
from hbshim.messaging.readiness import Readiness
from hbshim.runtime.fork import process_mark

T = TypeVar("T")


class Mailbox(Generic[T]):
    """Items from the I/O thread, for one receiver at a time."""

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._in, self._out = socketpair()
        for end in (self._in, self._out):
            end.setblocking(False)
        self._signaled = False
        self._readiness = Readiness(self._in.fileno())
        self._mark = process_mark()

    @property
    def inherited(self) -> bool:
        """Whether this is a forked child, to which nothing in here belongs."""
        return not self._mark[0]

    def put(self, item: T) -> None:
        """Add an item. It neither waits nor fails, in any thread."""
        self._items.append(item)
        if not self._signaled:
            self._signaled = True
            # Full: there is a byte already. Closed: nothing receives any more.
            with contextlib.suppress(OSError):
                self._out.send(b"\0")

    def __len__(self) -> int:
        return len(self._items)

    def take(self, timeout: float) -> Iterator[T]:
        """Wait for at most `timeout` seconds until something is there; yield what is.

        In a forked child it yields nothing, and leaves the byte for the parent.
        """
        if self._wait(timeout):
            for _ in range(len(self._items)):
                yield self._items.popleft()

    def pass_on(self, timeout: float, take: Callable[[T], None]) -> None:
        """Call a function with each item of :meth:`take`.

        An exception of a signal handler loses none, and `take` may be called again with one item.
        """
        if self._wait(timeout):
            for _ in range(len(self._items)):
                take(self._items[0])
                self._items.popleft()

    def _wait(self, timeout: float) -> bool:
        """Wait for an item; return False in a forked child."""
        if not self._has_items():
            # An exception of a signal handler may have come between these two.
            if not self._readiness.woken:
                self._readiness.wait(timeout)
            self._readiness.take_wake()
        if self.inherited:
            return False
        # In this order: what is put after the mark is cleared writes a byte of its own.
        with contextlib.suppress(OSError):
            self._in.recv(4096)
        self._signaled = False
        return True

    def _has_items(self) -> bool:
        """Return whether items wait. If not, the next one writes a byte."""
        if self._items:
            return True
        # An exception of a signal handler may have come after the byte was read. In this order:
        # what finds the old mark was put before the second look.
        self._signaled = False
        return bool(self._items)

    def begin_wait(self, part: Part) -> bool:
        """Begin a wait for several at once, instead of :meth:`take`; return False if items wait."""
        if self._has_items() or self._readiness.woken:
            return False
        part.readiness = self._readiness
        return True

    def wake(self) -> None:
        """Have the :meth:`take` that waits, or else the next one, return early."""
        self._readiness.wake()

    def close(self) -> None:
        """End every :meth:`take`; close the pair once none waits."""

        def close_pair() -> None:
            for end in (self._in, self._out):
                end.close()

        self._readiness.close(close_pair)
