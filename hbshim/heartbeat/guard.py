"""Says whether a connection's byte streams are at a frame boundary.

The client goes in through a gate before the first byte of a write and out after
the last, whole frames at a time, and likewise for a read. The engine goes in
only when nobody is there, and stays for microseconds: then it may put a
heartbeat on the wire, or take one off it.

Clients never wait for each other here. A greenlet may yield inside `sendall`,
and a second greenlet that waited for it on a native lock would freeze the hub
for good.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from hbshim.runtime.unpatched import allocate_lock, allocate_reentrant_lock

#: A write after this many seconds without one looks at the peer first (the stale
#: rule). Short enough to catch a close between two requests, long enough that a
#: busy publisher never pays for the look.
IDLE_BEFORE_LOOK = 0.1

_monotonic = time.monotonic


class Gate:
    """Lets any number of clients in, and the engine when it is empty.

    The first client in holds `_first`, taken without waiting: on the hot path of
    every publish that is two calls and no counting. Whoever finds it taken counts
    itself in under `_books`, which the engine holds for as long as it is inside,
    so that waiting for it means waiting for the engine and for nobody else.

    Attributes:
        overlaps: how often a client came in while another was in.
    """

    __slots__ = ("_books", "_first", "_further", "overlaps")

    def __init__(self, books: Any) -> None:
        self._first = allocate_lock()
        self._books = books
        self._further = 0
        self.overlaps = 0

    @property
    def occupied(self) -> bool:
        """Whether a client is in; the engine asks while it is out."""
        if self._further or not self._first.acquire(False):
            return True
        self._first.release()
        return False

    def engine_enters(self) -> bool:
        """Take the gate for the engine, without waiting; False when a client is in."""
        if not self._first.acquire(False):
            return False
        self._books.acquire()
        if self._further:
            self.engine_leaves()
            return False
        return True

    def engine_leaves(self) -> None:
        """Give the gate back."""
        self._books.release()
        self._first.release()

    def among_others(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Call `function` for a client that found the gate taken."""
        with self._books:
            self._further += 1
            # The engine is out now; if the gate is still taken, it is by a client.
            if self._first.acquire(False):
                self._first.release()
            else:
                self.overlaps += 1
        try:
            return function(*args)
        finally:
            with self._books:
                self._further -= 1


class Guard:
    """The two gates of one connection, and when the application last used it.

    Attributes:
        books: held by the engine while it is inside either gate, and for every
            change of the link's state. Re-entrant: a signal handler, or a
            finaliser that the garbage collector runs, may use the connection
            while the same thread is inside.
        writers, readers: the gates.
        last_write, last_read: ``time.monotonic()`` of the last application
            traffic, in seconds. Heartbeats do not count, so that a hung
            application stays visible.
        torn: a write was broken off, so the wire may stand in mid-frame; final.
        closed: the application closed the connection; final.
    """

    __slots__ = ("books", "closed", "last_read", "last_write", "readers", "torn", "writers")

    def __init__(self) -> None:
        self.books = allocate_reentrant_lock()
        self.writers = Gate(self.books)
        self.readers = Gate(self.books)
        self.torn = False
        self.closed = False
        self.last_write = self.last_read = _monotonic()

    def close(self) -> None:
        """The application is closing: from here on nobody but it touches the wire."""
        with self.books:
            self.closed = True

    def around_send(
        self,
        send: Callable[[Any], Any],
        before_idle_write: Callable[[], None],
        failed: Callable[[BaseException], bool],
    ) -> Callable[[Any], None]:
        """Wrap a function that sends the whole frames it is given.

        Parameters:
            send: takes the bytes, and returns when all of them are out.
            before_idle_write: called before a write that follows a silence, or in
                a forked child; it may raise to refuse the write.
            failed: told of an exception of `send`; whether half a frame may be on
                the wire now, with nobody left to send the rest.
        """
        gate = self.writers
        enter, leave = gate._first.acquire, gate._first.release
        # Each time: after a fork in C nothing else tells. 50 ns of a publish's 20 us.
        getpid, pid = os.getpid, os.getpid()

        def guarded_send(data: Any) -> None:
            now = _monotonic()
            if now - self.last_write > IDLE_BEFORE_LOOK or getpid() != pid:
                before_idle_write()
            self.last_write = now
            try:
                if not enter(False):
                    gate.among_others(send, (data,))
                    return
                try:
                    send(data)
                finally:
                    leave()
            except BaseException as error:
                self.torn = failed(error) or self.torn
                raise

        return guarded_send

    def around_flush(
        self, flush: Callable[[], Any], before_idle_write: Callable[[], None]
    ) -> Callable[[], Any]:
        """Wrap a function that sends what is buffered, and keeps buffered what it cannot send.

        Parameters:
            flush: the client's own function.
            before_idle_write: as for :meth:`around_send`.
        """
        gate = self.writers
        enter, leave = gate._first.acquire, gate._first.release

        def guarded_flush() -> Any:
            now = _monotonic()
            if now - self.last_write > IDLE_BEFORE_LOOK:
                before_idle_write()
            self.last_write = now
            if not enter(False):
                return gate.among_others(flush, ())
            try:
                return flush()
            finally:
                leave()

        return guarded_flush

    def around_read(
        self, read: Callable[[], Any], in_other_process: Callable[[], None]
    ) -> Callable[[], Any]:
        """Wrap the client's function that reads, from frame boundary to frame boundary.

        Parameters:
            read: the client's own function.
            in_other_process: called before a read in a forked child, which would take
                bytes from its parent; it may raise to refuse the read.
        """
        gate = self.readers
        enter, leave = gate._first.acquire, gate._first.release
        getpid, pid = os.getpid, os.getpid()

        def guarded_read() -> Any:
            if getpid() != pid:
                in_other_process()
            if not enter(False):
                result = gate.among_others(read, ())
            else:
                try:
                    result = read()
                finally:
                    leave()
            self.last_read = _monotonic()
            return result

        return guarded_read
