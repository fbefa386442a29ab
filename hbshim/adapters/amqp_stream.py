"""py-amqp's transports over a socket that never blocks.

py-amqp waits inside the socket, and for a limit of its own sets the timeout of a socket that
another thread may be writing to. Here every read and write returns at once, and whoever has
to wait does so outside, as :class:`Waiting` knows how: so one thread may read while others
write, each within its own limit.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any, Protocol

from amqp import transport as amqp_transport

#: Octets taken from the socket at once; what is read beyond a frame is kept.
READ_AT_MOST = 65536

#: Seconds for octets that nobody gave a limit for, such as an acknowledgement.
STALL_LIMIT = 10.0

#: py-amqp's own default makes the kernel reset a connection whose peer reads nothing for a
#: second, as RabbitMQ does when it blocks publishers. hbshim's engine knows dead peers.
SOCKET_SETTINGS = {getattr(socket, "TCP_USER_TIMEOUT", 18): 0}

#: How a socket that never blocks says that it would have to.
_NOT_YET = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Waiting(Protocol):
    """Waits for one descriptor in the way of the program: natively, or greenly."""

    def readable(self, timeout: float) -> bool: ...
    def writable(self, fd: int, timeout: float) -> bool: ...
    def opened(self, fd: int) -> None: ...
    def close(self, then: Callable[[], None]) -> None: ...


class StalledError(Exception):
    """The peer takes no octets, and nothing of the frame is on the wire.

    No OSError: to the guard, and to py-amqp, that would mean a frame torn in two.
    """


class NonBlocking:
    """What both of py-amqp's transports become; mixed in before either of them.

    Attributes:
        waiting: how to wait; set before :meth:`connect`.
        connect_by: ``time.monotonic()`` by which the connection is to be open.
        write_by: the same for the write under way; None: :data:`STALL_LIMIT` from now.
    """

    waiting: Waiting
    connect_by: float
    write_by: float | None = None
    sock: Any
    #: Whether a write that the socket did not take may simply be forgotten.
    forgettable = True

    def _connect(self, host: str, port: int, timeout: float | None) -> None:
        found = socket.getaddrinfo(host, port, socket.AF_UNSPEC, socket.SOCK_STREAM)
        refused: OSError | None = None
        for family, kind, protocol, _, address in found:
            sock = socket.socket(family, kind, protocol)
            try:
                sock.settimeout(self.left())
                sock.connect(address)
            except OSError as error:
                refused = refused or error
                sock.close()
            except BaseException:
                sock.close()
                raise
            else:
                self.sock = sock
                return
        raise refused or OSError(errno.EADDRNOTAVAIL, f"{host} has no address")

    def left(self) -> float:
        """Seconds that connecting may still take.

        Raises:
            TimeoutError: none.
        """
        left = self.connect_by - time.monotonic()
        if left <= 0:
            raise TimeoutError(errno.ETIMEDOUT, "timed out")
        return left

    def _take_over(self, receive: Callable[[int], Any], send: Callable[[Any], int]) -> None:
        # GreenSocket's settimeout(0) does not do it under TLS; this does everywhere.
        self.sock.setblocking(False)
        self._receive, self._send = receive, send
        self._quick_recv = self._receive_what_is_there
        self._read_buffer = b""
        self.waiting.opened(self.sock.fileno())

    def _receive_what_is_there(self, _wanted: int) -> Any:
        try:
            return self._receive(READ_AT_MOST)
        except _NOT_YET:
            # What py-amqp takes for "not yet": it keeps half a frame for the next try.
            raise TimeoutError from None

    def _write(self, data: Any) -> None:
        try:
            sent = self._send(data)
        except _NOT_YET:
            sent = 0
        if sent < len(data):
            self._write_rest(memoryview(data), sent)

    def _write_rest(self, data: memoryview, sent: int) -> None:
        until = self.write_by
        if until is None:
            until = time.monotonic() + STALL_LIMIT
        while sent < len(data):
            left = until - time.monotonic()
            if left <= 0:
                if sent == 0 and self.forgettable:
                    raise StalledError
                raise ConnectionAbortedError(
                    errno.ECONNABORTED, "the broker took half a frame, and no more in time"
                )
            self.waiting.writable(self.sock.fileno(), left)
            try:
                sent += self._send(data[sent:])
            except _NOT_YET:
                continue

    def drop(self) -> None:
        """Forget the descriptor, and say nothing on it; for a forked child."""
        self.connected = False
        self.sock.close()

    def close(self) -> None:
        sock = self.sock
        if sock is None:
            return
        self.connected = False
        # Wakes whoever waits; the descriptor goes when nobody does any more.
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        self.waiting.close(super().close)  # type: ignore[misc]


class TCPTransport(NonBlocking, amqp_transport.TCPTransport):  # type: ignore[misc]
    """Over TCP."""

    def _setup_transport(self) -> None:
        self._take_over(self.sock.recv, self.sock.send)


class SSLTransport(NonBlocking, amqp_transport.SSLTransport):  # type: ignore[misc]
    """Over TLS."""

    # The session holds what it could not send, and sends it before anything else.
    forgettable = False

    def _setup_transport(self) -> None:
        self.sock = self.sslopts["made"].wrap_socket(
            self.sock,
            server_hostname=self.sslopts["server_hostname"],
            do_handshake_on_connect=False,
        )
        self._take_over(self.sock.read, self.sock.write)
        while True:
            try:
                self.sock.do_handshake()
            except ssl.SSLWantReadError:
                self.waiting.readable(self.left())
            except ssl.SSLWantWriteError:
                self.waiting.writable(self.sock.fileno(), self.left())
            else:
                return
