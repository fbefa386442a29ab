"""Lets one thread of the program, a native or a green one, wait for a native thread."""

from __future__ import annotations

import contextlib
import time
from _socket import socketpair

from hbshim.messaging.readiness import Readiness
from hbshim.runtime.fork import process_mark


class Latch:
    """Is opened once, by a native thread, which touches no lock of the program's kind for it.

    Attributes:
        done: whether what was waited for was done.
    """

    def __init__(self) -> None:
        self.done = False
        self._opened = False
        self._in, self._out = socketpair()
        for end in (self._in, self._out):
            end.setblocking(False)
        self._readiness = Readiness(self._in.fileno())
        self._mark = process_mark()

    def open(self, *, done: bool) -> None:
        """Have the thread that waits go on; never waits."""
        self.done = done
        self._opened = True
        with contextlib.suppress(OSError):  # closed: the thread has given up
            self._out.send(b"\0")

    def wait(self, deadline: float) -> bool:
        """Wait until it is opened.

        Parameters:
            deadline: of ``time.monotonic()``.

        Returns:
            Whether it was, in time.
        """
        while not self._opened and (left := deadline - time.monotonic()) > 0:
            self._readiness.wait(left)
            if not self._mark[0]:
                break  # a copy of a green thread, in a forked child
        return self._opened

    def close(self) -> None:
        """Close its descriptors."""

        def close_pair() -> None:
            for end in (self._in, self._out):
                end.close()

        self._readiness.close(close_pair)
