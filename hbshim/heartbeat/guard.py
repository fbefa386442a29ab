"""Says whether a connection's byte streams are at a frame boundary.

The client counts itself in before the first byte of a write and out after the
last, whole frames at a time, and likewise for a read. Whoever holds the lock and
sees nobody in may put a heartbeat on the wire, or take one off it.

The lock is native and held for microseconds by either side. It is never held
across the client's write itself: a greenlet may yield inside `sendall`, and a
second greenlet that waited here would freeze the hub for good.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from hbshim.runtime.unpatched import NativeLock, allocate_reentrant_lock

#: A write after this many seconds without one looks at the peer first (the stale
#: rule). Short enough to catch a close between two requests, long enough that a
#: busy publisher never pays for the look.
IDLE_BEFORE_LOOK = 0.1

_monotonic = time.monotonic


class Guard:
    """Counts one connection's writers and readers in and out.

    Attributes:
        lock: hold it to act on the wire. Re-entrant: a signal handler, or a
            finaliser that the garbage collector runs, may write on the
            connection while the same thread is inside.
        writers, readers: how many are in.
        last_write, last_read: ``time.monotonic()`` of the last application
            traffic, in seconds. Heartbeats do not count, so that a hung
            application stays visible.
        torn: a write was broken off, so the wire may stand in mid-frame; final.
        overlaps: how often a writer came in while another was in.
        closed: the application closed the connection; final.
    """

    __slots__ = (
        "closed",
        "last_read",
        "last_write",
        "lock",
        "overlaps",
        "readers",
        "torn",
        "writers",
    )

    def __init__(self) -> None:
        self.lock: NativeLock = allocate_reentrant_lock()
        self.writers = 0
        self.readers = 0
        self.overlaps = 0
        self.torn = False
        self.closed = False
        self.last_write = self.last_read = _monotonic()

    @property
    def writing(self) -> bool:
        """Whether a write is under way, or was broken off half done."""
        return self.writers > 0 or self.torn

    @property
    def reading(self) -> bool:
        """Whether a read is under way."""
        return self.readers > 0

    def close(self) -> None:
        """The application is closing: from here on nobody but it touches the wire."""
        with self.lock:
            self.closed = True

    def around_write(
        self,
        write: Callable[..., Any],
        before_idle_write: Callable[[], None],
        tears: Callable[[BaseException], bool],
    ) -> Callable[..., Any]:
        """Wrap the client's function that puts whole frames on the wire.

        Parameters:
            write: the client's own function.
            before_idle_write: called, outside the lock, before a write that
                follows a silence; it may raise to refuse the write.
            tears: whether an exception of `write` may leave half a frame on the
                wire with nobody left to send the rest.
        """
        lock = self.lock

        def guarded_write(*args: Any, **kwargs: Any) -> Any:
            # On the hot path of every publish: no attribute chains, one clock read.
            now = _monotonic()
            if now - self.last_write > IDLE_BEFORE_LOOK:
                before_idle_write()
            with lock:
                self.writers += 1
                if self.writers > 1:
                    self.overlaps += 1
            try:
                return write(*args, **kwargs)
            except BaseException as error:
                self.torn = self.torn or tears(error)
                raise
            finally:
                with lock:
                    self.writers -= 1
                self.last_write = now

        return guarded_write

    def around_read(self, read: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap the client's function that reads, from frame boundary to frame boundary."""
        lock = self.lock

        def guarded_read(*args: Any, **kwargs: Any) -> Any:
            with lock:
                self.readers += 1
            try:
                result = read(*args, **kwargs)
                self.last_read = _monotonic()
                return result
            finally:
                with lock:
                    self.readers -= 1

        return guarded_read
