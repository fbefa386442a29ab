"""Tracks whether a connection's byte streams are at a frame boundary.

A client acquires the lock of a stream before the first byte of a write or a read, and releases it
after the last, for whole frames. The engine acquires it only while no client holds it, and gets a
permit: with that it may send a heartbeat, or take heartbeats off the receive queue.

A client never waits for another client or for the engine. It revokes the permit when it acquires
the lock, and the engine checks the permit atomically with its system call
(:mod:`hbshim.heartbeat.syscalls`). So a greenlet that yields inside `sendall` cannot block a hub,
and an engine that is stuck in a finalizer of the application cannot block a writer.

An exception may be raised between any two bytecodes: by a signal handler, or by a timeout of a
green library. So nothing is acquired here that only a later line would release. A client holds the
lock while its token is in a set; adding and discarding are single C calls, and discarding twice
does no harm.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Set, Sized
from typing import Any

from hbshim.heartbeat.syscalls import gil_keeping_calls
from hbshim.runtime.fork import process_mark
from hbshim.runtime.unpatched import original

#: A write after this many seconds without one checks the peer first (the pre-write check). Short
#: enough to notice a close between two requests, long enough to cost a busy publisher nothing.
IDLE_BEFORE_CHECK = 0.1

#: How often, and for how many seconds each time, a client waits for a running system call of the
#: engine; only for calls that release the GIL. Several short waits, so that the engine has time to
#: finish in a process that was suspended.
_WAITS, _WAIT = 100, 0.001

_monotonic = time.monotonic


class Permit:
    """Lets the engine act on one stream, until a client acquires the stream's lock.

    The engine acts only if `valid` is true and `inside` is empty, checked with no call
    between the check and the action.

    Attributes:
        valid: no client has acquired the lock since the permit was issued.
        inside: the tokens of the clients that hold the lock.
        acting: has a token of the engine during a system call that releases the GIL.
    """

    __slots__ = ("acting", "inside", "valid")

    def __init__(self, inside: Set[object], acting: set[object]) -> None:
        self.inside = inside
        self.acting = acting
        self.valid = True


class StreamLock:
    """The lock of one stream: held by any number of clients, or by the engine.

    Attributes:
        inside: one token for each client that holds the lock.
        permit: the engine's; None while it does not hold the lock.
        overlaps: how often a client acquired the lock while another one held it.
    """

    __slots__ = ("_acting", "inside", "overlaps", "permit")

    def __init__(self) -> None:
        self.inside: set[object] = set()
        self.permit: Permit | None = None
        self.overlaps = 0
        self._acting: set[object] = set()

    @property
    def occupied(self) -> bool:
        """Whether a client holds the lock."""
        return bool(self.inside)

    def try_acquire(self) -> Permit | None:
        """Return a permit for the engine, without waiting; None while a client holds the lock.

        A permit of another engine is revoked.
        """
        self._revoke()
        # Before the check: a client adds its token before it checks for a permit.
        self.permit = permit = Permit(self.inside, self._acting)
        if self.inside:
            self._revoke()
            return None
        return permit

    def release(self) -> None:
        """Release the engine's permit."""
        self._revoke()

    def _revoke(self) -> Permit | None:
        permit = self.permit
        if permit is not None:
            permit.valid = False
            self.permit = None
        return permit

    def revoke_permit(self) -> None:
        """Revoke the engine's permit, and wait for its system call if necessary."""
        if self._revoke() is None or gil_keeping_calls() is not None:
            return
        pause = original("time", "sleep")
        for _ in range(_WAITS):
            if not self._acting:
                return
            pause(_WAIT)

    def on_overlap(self) -> None:
        """Count an overlap; called by a client that finds the engine or another client inside."""
        self.revoke_permit()
        if len(self.inside) > 1:
            self.overlaps += 1

    def renew(self) -> None:
        """In a forked child: forget the parent's threads."""
        self.inside.clear()
        self.permit = None
        self._acting.clear()


def _nothing() -> None:
    return None


def _always(_error: BaseException) -> bool:
    return True


def _never(_error: BaseException) -> bool:
    return False


def _call_again_if_interrupted(function: Callable[[], None]) -> None:
    """Call `function`, and once more if another exception interrupts it."""
    try:
        function()
    except BaseException:
        function()
        raise


class Guard:
    """The two stream locks of one connection, and the time of its last use by the application.

    Attributes:
        writers, readers: the stream locks.
        last_write, last_read: ``time.monotonic()`` of the last traffic of the application, in
            seconds. Heartbeats do not count, so that a hung application can be detected.
        torn: a write was interrupted, so part of a frame may have been sent; final.
        misread: a read was interrupted, so the reader may be inside a frame; final.
        unsent: a flush has left bytes buffered, perhaps the rest of a frame.
        closed: the application closed the connection; final.
    """

    __slots__ = (
        "closed",
        "last_read",
        "last_write",
        "misread",
        "readers",
        "torn",
        "unsent",
        "writers",
    )

    def __init__(self) -> None:
        self.writers = StreamLock()
        self.readers = StreamLock()
        self.torn = False
        self.misread = False
        self.unsent = False
        self.closed = False
        self.last_write = self.last_read = _monotonic()

    def close(self) -> None:
        """The application closes the connection: from now on the engine does not use the stream."""
        self.closed = True
        self.writers.revoke_permit()
        self.readers.revoke_permit()

    def renew_locks(self) -> None:
        """In a forked child: no thread of the parent exists here."""
        self.writers.renew()
        self.readers.renew()

    def around_send(
        self,
        send: Callable[[Any], Any],
        before_idle_write: Callable[[], None],
        tears: Callable[[BaseException], bool],
        on_torn: Callable[[], None] = _nothing,
    ) -> Callable[[Any], None]:
        """Wrap a function that sends the whole frames it is given.

        Parameters:
            send: takes the bytes, and returns when all of them are sent.
            before_idle_write: called before a write that follows an idle time, in a forked child,
                or on a torn stream; it may raise to refuse the write.
            tears: called with an exception of `send`; returns False only if it is certain that
                no byte was written.
            on_torn: called when the stream is torn, before the exception propagates. Idempotent.
        """
        lock = self.writers
        inside = lock.inside
        add, discard = inside.add, inside.discard
        # On each write: after a fork in C nothing else notices.
        mine = process_mark()

        def guarded_send(data: Any) -> None:
            now = _monotonic()
            if now - self.last_write > IDLE_BEFORE_CHECK or self.torn or not mine[0]:
                before_idle_write()
            self.last_write = now
            token = object()
            try:
                add(token)
                if lock.permit is not None or len(inside) > 1:
                    lock.on_overlap()
                try:
                    send(data)
                except BaseException as error:
                    # Nothing is called before `torn` is set, so that a second exception finds it
                    # set.
                    torn_before = self.torn
                    self.torn = True
                    try:
                        if not tears(error):
                            self.torn = torn_before
                    finally:
                        if self.torn:
                            _call_again_if_interrupted(on_torn)
                    raise
            finally:
                discard(token)

        return guarded_send

    def around_flush(
        self,
        flush: Callable[[], Any],
        before_idle_write: Callable[[], None],
        tears: Callable[[BaseException], bool] = _always,
        on_torn: Callable[[], None] = _nothing,
        unless: type[BaseException] | tuple[()] = (),
        buffers: Sized = (),
    ) -> Callable[[], Any]:
        """Wrap a function that sends buffered bytes, and keeps what it cannot send.

        Parameters:
            flush: the client's own function.
            before_idle_write, on_torn: as for :meth:`around_send`.
            unless: a class of exceptions that `flush` raises only if no byte was written;
                `tears` is not called with them.
            tears: called with an exception of `flush`; returns False only if it is certain that
                exactly the unwritten bytes are buffered now.
            buffers: the bytes that are not written yet.
        """
        lock = self.writers
        inside = lock.inside
        add, discard = inside.add, inside.discard
        mine = process_mark()

        def guarded_flush() -> Any:
            now = _monotonic()
            if now - self.last_write > IDLE_BEFORE_CHECK or self.torn or not mine[0]:
                before_idle_write()
            self.last_write = now
            token = object()
            try:
                add(token)
                if lock.permit is not None or len(inside) > 1:
                    lock.on_overlap()
                try:
                    return flush()
                except unless:
                    raise
                except BaseException as error:
                    torn_before = self.torn
                    self.torn = True
                    try:
                        if not tears(error):
                            self.torn = torn_before
                    finally:
                        if self.torn:
                            _call_again_if_interrupted(on_torn)
                    raise
                finally:
                    # No function call: every publish executes this.
                    self.unsent = True if buffers else False  # noqa: SIM210
            finally:
                discard(token)

        return guarded_flush

    def around_read(
        self,
        read: Callable[[], Any],
        in_other_process: Callable[[], None],
        nothing_read: Callable[[BaseException], bool] = _never,
    ) -> Callable[[], Any]:
        """Wrap the client's function that reads, from frame boundary to frame boundary.

        Parameters:
            read: the client's own function.
            in_other_process: called before a read in a forked child, which would take bytes of its
                parent; it may raise to refuse the read.
            nothing_read: called with an OSError of `read`; returns whether no byte had arrived.
        """
        lock = self.readers
        inside = lock.inside
        add, discard = inside.add, inside.discard
        mine = process_mark()

        def guarded_read() -> Any:
            if not mine[0]:
                in_other_process()
            token = object()
            try:
                add(token)
                if lock.permit is not None:
                    lock.revoke_permit()
                result = read()
            except OSError as error:
                # The libraries keep the part of a frame that they have read.
                if not nothing_read(error):
                    self.last_read = _monotonic()
                raise
            except BaseException:
                self.misread = True
                self.last_read = _monotonic()
                raise
            finally:
                discard(token)
            self.last_read = _monotonic()
            return result

        return guarded_read
