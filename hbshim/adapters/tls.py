"""Heartbeats inside a TLS session.

Bytes written on the raw descriptor would corrupt the session, so a beat goes
through the session's own SSL object. OpenSSL does not allow two threads in one
SSL object at once: a lock is put around each of its calls, and the client's
wait for data is moved in front of that lock, so that a reader that sits in a
blocking read does not keep the beats out.

A heartbeat cannot be taken off a TLS stream by peeking; see
:meth:`TlsWire.take_heartbeats`.
"""

from __future__ import annotations

import socket
import ssl
from _socket import socket as NativeSocket  # noqa: N812
from typing import Any

from hbshim.heartbeat.wire import HEARTBEAT_FRAME, Wire
from hbshim.runtime.unpatched import allocate_reentrant_lock


class SerializedSslObject:
    """Stands in for an SSL socket's inner SSL object, one thread at a time.

    Everything that does not touch the stream is passed on as it is.
    """

    def __init__(self, inner: Any, native: Any) -> None:
        self._inner = inner
        self._native = native
        self.lock = allocate_reentrant_lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def read(self, *args: Any) -> Any:
        with self.lock:
            buffered = self._inner.pending()
        # Zero is a non-blocking socket, as green libraries and pika use it:
        # its reads return at once.
        if not buffered and NativeSocket.gettimeout(self._native) != 0:
            self._wait_for_data()
        with self.lock:
            return self._inner.read(*args)

    def _wait_for_data(self) -> None:
        # A peek waits exactly as the read would, with the socket object's
        # timeout or with SO_RCVTIMEO, and takes nothing.
        try:
            NativeSocket.recv(self._native, 1, socket.MSG_PEEK)
        except BlockingIOError:
            raise ssl.SSLWantReadError(
                ssl.SSL_ERROR_WANT_READ, "The operation did not complete (read)"
            ) from None

    def write(self, *args: Any) -> Any:
        with self.lock:
            return self._inner.write(*args)

    def pending(self) -> int:
        with self.lock:
            return int(self._inner.pending())

    def shutdown(self) -> Any:
        with self.lock:
            return self._inner.shutdown()


class TlsWire(Wire):
    """The wire of a TLS connection.

    Parameters:
        sock: the ``ssl.SSLSocket`` or its green counterpart.
        native: the operating-system socket beneath it.
    """

    route = "tls"

    def __init__(self, sock: Any, native: Any) -> None:
        super().__init__(native)
        if not isinstance(sock._sslobj, SerializedSslObject):
            sock._sslobj = SerializedSslObject(sock._sslobj, native)
        self._ssl: SerializedSslObject = sock._sslobj

    def beat(self) -> bool:
        if not self._ssl.lock.acquire(False):
            return False  # a read or write of the client is inside just now
        try:
            sent = self._ssl.write(HEARTBEAT_FRAME)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        finally:
            self._ssl.lock.release()
        return bool(sent == len(HEARTBEAT_FRAME))

    def take_heartbeats(self) -> int:
        """Takes nothing: OpenSSL's peek is not reachable from Python.

        What waits unread excuses the peer's silence instead. An idle TLS
        publisher that never reads therefore keeps its unread heartbeats, about
        30 bytes each, until the receive window is full.
        """
        return 0
