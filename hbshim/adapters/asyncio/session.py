"""asyncio's TLS session, shared with the heartbeat thread.

asyncio encrypts into memory: ``SSLObject.write()`` leaves a record in the outgoing buffer, asyncio
takes it from there, and passes it to the transport beneath. Records must reach the peer in the
order in which they were encrypted. So a heartbeat is encrypted only while no record of the client
is between the two, and the heartbeat's own record is sent, or put before what asyncio takes next.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hbshim.adapters.ssl_lock import MOMENT, LockedSslObject
from hbshim.heartbeat.guard import Permit


class MemorySession(LockedSslObject):
    """Replaces the inner SSL object of an ``ssl.SSLObject``.

    Parameters:
        inner: the inner object.
        outgoing: the ``ssl.MemoryBIO`` into which it encrypts.

    Attributes:
        on_torn: called when the rest of a heartbeat's record may be sent twice.
        on_the_way: bytes that asyncio has taken, and not yet passed to the transport beneath.
    """

    __slots__ = ("_outgoing", "_sending", "_unsent", "on_the_way", "on_torn")

    def __init__(self, inner: Any, outgoing: Any) -> None:
        super().__init__(inner)
        self._outgoing = outgoing
        self._unsent = b""
        self._sending = False
        self.on_the_way = 0
        self.on_torn: Callable[[], None] | None = None

    @property
    def between(self) -> int:
        """Bytes of the client that are encrypted, and that the transport beneath has not got."""
        return self.on_the_way + int(self._outgoing.pending)

    def outgoing_size(self) -> int:
        """Return the bytes that asyncio is going to take."""
        return len(self._unsent) + int(self._outgoing.pending)

    def take_outgoing(self, *arguments: Any) -> bytes:
        """Return what asyncio is to pass to the transport beneath."""
        return bytes(self.alone(self._take_outgoing)(*arguments))

    def _take_outgoing(self, *arguments: Any) -> bytes:
        # Counted first: an exception in between must not let a heartbeat overtake the bytes.
        self.on_the_way += self.outgoing_size()
        unsent, self._unsent = self._unsent, b""
        return unsent + bytes(self._outgoing.read(*arguments))

    def send_heartbeat(
        self,
        frame: bytes,
        permit: Permit,
        idle: Callable[[], bool],
        send: Callable[[bytes, Permit], int | None],
    ) -> bool:
        """Send a heartbeat, or the rest of one; return whether all of it is sent.

        Parameters:
            frame: the heartbeat.
            permit: of the engine.
            idle: returns whether the client is at a frame boundary, and nothing of it is on the
                way.
            send: passes bytes to the kernel, as far as it takes them, unless the permit is revoked.

        Raises:
            OSError: the connection is closed.
        """
        lock = self._engine_enters(MOMENT)
        if lock is None:
            return False
        self._engine_calls = True
        try:
            if not self._unsent and not self._encrypt(frame, permit, idle, lock):
                return False
            self._sending = True
            sent = send(self._unsent, permit) if self.lock is lock else None
            self._unsent = self._unsent[sent or 0 :]
            return not self._unsent
        except BlockingIOError:
            return False
        finally:
            self._sending = self._engine_calls = False
            self._engine_leaves(lock)

    def _encrypt(
        self, frame: bytes, permit: Permit, idle: Callable[[], bool], lock: object
    ) -> bool:
        if self.between or not idle():
            return False
        # One expression each: see `hbshim.heartbeat.syscalls.Calls`.
        written = (
            self._inner.write(frame)
            if permit.valid and not permit.inside and self.lock is lock
            else 0
        )
        if not written:
            return False
        # A client that has replaced the lock takes the record itself.
        self._unsent = self._outgoing.read() if self.lock is lock else b""
        return bool(self._unsent)

    def _shut_engine_out(self) -> bool:
        ended = super()._shut_engine_out()
        if self._sending and self.on_torn is not None:
            self.on_torn()
        return ended


class Outgoing:
    """Takes the place of asyncio's outgoing buffer."""

    def __init__(self, session: MemorySession) -> None:
        self.session = session

    @property
    def pending(self) -> int:
        return self.session.outgoing_size()

    def read(self, *arguments: Any) -> bytes:
        return self.session.take_outgoing(*arguments)
