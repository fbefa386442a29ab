"""Tracks whether a connection's byte streams are at a frame boundary.

Each client enters the gate of a stream before the first byte of a write or a read
and leaves after the last, whole frames at a time. The engine enters only while no
client is inside, and gets a permit: then it may put a heartbeat on the wire, or take
one off it.

A client never waits for another client, and not for the engine either: it revokes
the permit as it enters, and the engine checks the permit in the same instant in
which it acts (:mod:`hbshim.heartbeat.syscalls`). So a greenlet that yields inside
`sendall` cannot block a hub, and an engine that is stuck in a finalizer of the
application cannot block a writer.

An exception may arrive between any two bytecodes: from a signal handler, or from a
green library's timeout. So nothing here is taken that only a later line would give
back. A client is inside while its token is in a set; adding and discarding are single
calls of C, and discarding twice does no harm.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Set, Sized
from typing import Any

from hbshim.heartbeat.syscalls import gil_keeping_calls
from hbshim.runtime.fork import process_mark
from hbshim.runtime.unpatched import original

#: A write after this many seconds without one checks the peer first (the pre-write
#: check). Short enough to catch a close between two requests, long enough that a
#: busy publisher never pays for it.
IDLE_BEFORE_CHECK = 0.1

#: How often, and for how many seconds each time, a client waits for a system call of
#: the engine that is under way; only where these calls release the GIL. Several short
#: waits, so that a process that was suspended gives the engine time to finish.
_WAITS, _WAIT = 100, 0.001

_monotonic = time.monotonic


class Permit:
    """Lets the engine act on one stream, until a client enters.

    The engine acts only if `valid` is true and `inside` is empty, checked with no call
    between the check and the action.

    Attributes:
        valid: no client has entered since the permit was given.
        inside: the gate's clients.
        acting: has a token of the engine during a system call that releases the GIL.
    """

    __slots__ = ("acting", "inside", "valid")

    def __init__(self, inside: Set[object], acting: set[object]) -> None:
        self.inside = inside
        self.acting = acting
        self.valid = True


class StreamLock:
    """Lets any number of clients in, and the engine while no client is inside.

    Attributes:
        inside: one token for each client that is inside.
        permit: the engine's; None while it is outside.
        overlaps: how often a client entered while another one was inside.
    """

    __slots__ = ("_acting", "inside", "overlaps", "permit")

    def __init__(self) -> None:
        self.inside: set[object] = set()
        self.permit: Permit | None = None
        self.overlaps = 0
        self._acting: set[object] = set()

    @property
    def occupied(self) -> bool:
        """Whether a client is inside."""
        return bool(self.inside)

    def try_acquire(self) -> Permit | None:
        """Return a permit for the engine, without waiting; None while a client is inside.

        A permit that another engine had is revoked.
        """
        self._revoke()
        # Before the check: a client adds its token before it looks for a permit.
        self.permit = permit = Permit(self.inside, self._acting)
        if self.inside:
            self._revoke()
            return None
        return permit

    def release(self) -> None:
        """Give the permit back."""
        self._revoke()

    def _revoke(self) -> Permit | None:
        permit = self.permit
        if permit is not None:
            permit.valid = False
            self.permit = None
        return permit

    def revoke_permit(self) -> None:
        """Revoke the engine's permit, and wait for its system call where that must be."""
        if self._revoke() is None or gil_keeping_calls() is not None:
            return
        pause = original("time", "sleep")
        for _ in range(_WAITS):
            if not self._acting:
                return
            pause(_WAIT)

    def on_overlap(self) -> None:
        """Called by a client that entered and found the engine or another client inside."""
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
    """The two gates of one connection, and when the application last used it.

    Attributes:
        writers, readers: the gates.
        last_write, last_read: ``time.monotonic()`` of the last application
            traffic, in seconds. Heartbeats do not count, so that a hung
            application stays visible.
        torn: a write was interrupted, so a part of a frame may be on the wire; final.
        misread: a read was interrupted, so the reader may be inside a frame; final.
        unsent: a flush has left something buffered, perhaps the rest of a frame.
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
        """The application is closing: from here on the engine does not touch the wire."""
        self.closed = True
        self.writers.revoke_permit()
        self.readers.revoke_permit()

    def renew_locks(self) -> None:
        """In a forked child: no thread of the parent is inside here."""
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
            send: takes the bytes, and returns when all of them are out.
            before_idle_write: called before a write that follows a silence, in a forked
                child, or on a torn stream; it may raise to refuse the write.
            tears: called with an exception of `send`; false only if it is known that
                no byte was written.
            on_torn: called when the stream is torn, before the exception goes on. It has no
                effect when it is called again.
        """
        lock = self.writers
        inside = lock.inside
        add, discard = inside.add, inside.discard
        # Each time: after a fork in C nothing else tells.
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
                    # Nothing is called before `torn` is set: a second exception finds it so.
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
        """Wrap a function that sends what is buffered, and keeps buffered what it cannot send.

        Parameters:
            flush: the client's own function.
            before_idle_write, on_torn: as for :meth:`around_send`.
            unless: a class of exceptions that `flush` raises only where no byte was written;
                `tears` is not called with them.
            tears: called with an exception of `flush`; false only if it is known that
                what is buffered now is exactly what was not written.
            buffers: what is not written yet.
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
                    # No call: every publish comes by.
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
            in_other_process: called before a read in a forked child, which would take
                bytes from its parent; it may raise to refuse the read.
            nothing_read: called with an OSError of `read`; whether no byte had arrived.
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
                # The libraries keep what they have read of a frame.
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
