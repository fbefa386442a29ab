"""A non-blocking socket that is read and written in whole frames, and kept alive.

It is the same for every client library. :meth:`Transport.read` and :meth:`Transport.send` return at
once. The caller waits outside, and ensures that one thread at a time uses it.
"""

from __future__ import annotations

import errno
import weakref
from _socket import socket as NativeSocket  # noqa: N812
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from hbshim.adapters.attach import leave_alone, not_negotiated, watch
from hbshim.adapters.sockets import native_socket, wire_for
from hbshim.heartbeat import service
from hbshim.heartbeat.link import Link
from hbshim.heartbeat.state import WATCHED
from hbshim.heartbeat.wire import AMQP_0_9_1, HeartbeatFormat
from hbshim.options import Options
from hbshim.protocol.frames import Splitter
from hbshim.runtime.fork import OPENED_BEFORE_FORK

#: The most bytes of one read, unless a frame that has begun is longer.
_READ = 65536

#: T of a connection without heartbeats: the peer is never reported dead.
_NEVER = float("inf")


class FrameSplitter(Protocol):
    """Splits what arrives into frames.

    Attributes:
        missing: bytes that are missing of an incomplete frame, at least; 0 at a frame boundary.
    """

    @property
    def missing(self) -> int: ...

    def split(self, data: bytes, /) -> list[Any]:
        """Return what :meth:`Transport.read` returns."""
        ...


class Transport:
    """Sends and receives frames over TCP or TLS.

    Parameters:
        sock: connected, non-blocking; a TLS socket with its handshake done. It belongs to the
            caller, which closes it after :meth:`end`.
        splitter: of the protocol; by default that of AMQP 0-9-1.
        heartbeat: of the protocol.

    Attributes:
        queued, sent: bytes passed to :meth:`send` so far, and bytes that the socket accepted.
        secure: over TLS.
        closing: the caller has sent what closes the connection in good order; it sets this.
        more: there may be data that the descriptor does not report as readable.
        link: keeps it alive; None before :meth:`keep_alive`.
        send: sends whole frames, and keeps what the socket does not accept; see :attr:`unsent`.
        read: returns the frames that have arrived; never waits. Raises OSError when the stream
            has ended.
    """

    def __init__(
        self,
        sock: Any,
        splitter: FrameSplitter | None = None,
        heartbeat: HeartbeatFormat = AMQP_0_9_1,
    ) -> None:
        self.queued = self.sent = 0
        self.closing = self.more = False
        self.link: Link | None = None
        self._native = native_socket(sock)
        self._wire = wire_for(sock, heartbeat)
        self._splitter: FrameSplitter = Splitter() if splitter is None else splitter
        self._waiting: deque[memoryview] = deque()
        # The SSL object itself: it has no descriptor for which a green library would wait.
        self._session = getattr(sock, "_sslobj", None)
        self.secure = self._session is not None
        self._would_wait: tuple[type[OSError], ...] = (BlockingIOError,)
        if self.secure:
            import ssl

            self._would_wait += (ssl.SSLWantReadError, ssl.SSLWantWriteError)
        # Until T is known, which the guard needs.
        self.send: Callable[[bytes], None] = self._send
        self.read: Callable[[], list[Any]] = self._read

    @property
    def alive(self) -> bool:
        """Whether its link has not reported it lost, and no write was interrupted in a frame."""
        link = self.link
        return link is None or (link.state in WATCHED and not link.guard.torn)

    @property
    def buffered(self) -> bool:
        """Whether there is data that the descriptor does not report as readable."""
        return self.more or (self._session is not None and self._session.pending() > 0)

    def nothing_waits(self) -> bool:
        """Return whether a read would certainly find nothing; costs a quarter of a read."""
        if self._session is None:
            return self._wire.nothing_waits()
        return not self._wire.unread() and not self.buffered

    @property
    def unsent(self) -> bool:
        """Whether bytes wait until the socket accepts more."""
        return bool(self._waiting)

    def flush(self) -> None:
        """Send pending bytes, as far as the socket accepts them."""
        if self._waiting:
            self.send(b"")

    def unqueue(self, end: int) -> bool:
        """Take back the head of the queue, up to byte `end`.

        Returns:
            False if some of it was sent; in a TLS session this is unknown.
        """
        head = self._waiting[0]
        untouched = isinstance(head.obj, bytes) and len(head.obj) == len(head)
        if self.secure or not untouched or self.sent + len(head) != end:
            return False
        self.queued -= len(self._waiting.popleft())
        return True

    def end(self) -> None:
        """Refuse every further call; idempotent."""
        self._waiting.clear()
        # Both refer to this transport.
        self.send, self.read = _refuse_send, _refuse_read
        if self.link is not None:
            self.link.close()

    def _send(self, data: bytes) -> None:
        waiting = self._waiting
        if data:
            self.queued += len(data)
            waiting.append(memoryview(data))
        while waiting:
            head = waiting[0]
            try:
                sent = self._write(head)
            except self._would_wait:
                return
            self.sent += sent
            if sent < len(head):
                waiting[0] = head[sent:]
            else:
                waiting.popleft()

    def _write(self, data: memoryview) -> int:
        if self._session is None:
            return int(NativeSocket.send(self._native, data))
        return int(self._session.write(data))

    def _read(self) -> list[Any]:
        at_most = max(_READ, self._splitter.missing)
        try:
            if self._session is None:
                data = NativeSocket.recv(self._native, at_most)
                # A short read has emptied the socket's buffer.
                self.more = len(data) == at_most
            else:
                data = self._session.read(at_most)
                # A TLS session may hold more than it returned; only its SSLWantReadError shows that
                # it does not.
                self.more = True
        except self._would_wait:
            self.more = False
            return []
        if not data:
            self.more = False
            raise ConnectionResetError(
                errno.ECONNRESET, "the broker, or something on the way, closed the connection"
            )
        return self._splitter.split(data)

    def keep_alive(
        self,
        timeout: float,
        options: Options,
        on_orphaned: Callable[[], None],
        *,
        silence: float | None = None,
    ) -> bool:
        """Put the guard around reads and writes, and start heartbeats.

        Parameters:
            timeout: T, as negotiated, in seconds; 0: no heartbeats are sent.
            options: hbshim's options.
            on_orphaned: called in a forked child, after its copy of the descriptor is dropped.
            silence: see :class:`hbshim.heartbeat.link.Link`.

        Returns:
            Whether hbshim keeps the connection alive.
        """
        watched = False
        myself = weakref.ref(self)

        def half_written() -> bool:
            alive = myself()
            return alive is not None and bool(alive._waiting)

        def half_read() -> bool:
            alive = myself()
            return alive is not None and bool(alive._splitter.missing)

        def closing() -> bool:
            alive = myself()
            return alive is not None and alive.closing

        link = Link(
            self._wire,
            timeout or _NEVER,
            self._wire.name(),
            service.current().metrics,
            silence=silence,
            half_written=half_written,
            half_read=half_read,
            closing=closing,
            on_orphaned=on_orphaned,
            forked_error=_forked_error,
        )
        if timeout:
            try:
                watch(link, options)
                watched = True
            except Exception as error:
                leave_alone(self._wire.name(), error)
        else:
            not_negotiated(self._wire.name(), options)
        self.link = link
        guard = link.guard
        self.send = guard.around_send(self._send, link.before_idle_write, _tears, link.tear)
        self.read = guard.around_read(self._read, link.before_idle_write)
        return watched


def _tears(_error: BaseException) -> bool:
    # The rest is never sent: the owner closes the connection.
    return True


def _forked_error() -> Exception:
    return ConnectionError(OPENED_BEFORE_FORK)


def _refuse_send(_data: bytes) -> None:
    raise ConnectionError("the connection has ended")


def _refuse_read() -> list[Any]:
    raise ConnectionError("the connection has ended")
