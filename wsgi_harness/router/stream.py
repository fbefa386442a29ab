"""Sockets that do not block, with TLS or without."""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import Any

_CHUNK = 1 << 16
_TLS_HANDSHAKE = 22


class Stream:
    """A socket.

    Parameters:
        tls: for encryption; None: without. A server recognizes by the first byte that the peer
            uses none.
        hostname: of the peer, for a client with TLS.

    Attributes:
        encrypted: TLS is used.
    """

    def __init__(
        self, sock: socket.socket, tls: ssl.SSLContext | None = None, hostname: str | None = None
    ) -> None:
        sock.setblocking(False)
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = sock
        self._tls = tls
        self._in, self._raw_out = ssl.MemoryBIO(), bytearray()
        self._out = ssl.MemoryBIO()
        self._object: ssl.SSLObject | None = None
        self._waiting = bytearray()
        self._shaken = False
        self._ends = False
        self._decided = tls is None
        if tls is not None and hostname is not None:
            self._object = tls.wrap_bio(self._in, self._out, server_hostname=hostname)
            self._decided = True
        self._pump()

    @property
    def encrypted(self) -> bool:
        return self._object is not None

    @property
    def subject(self) -> str | None:
        """The common name of the peer's certificate."""
        if self._object is None or not self._shaken:
            return None
        found: Any = self._object.getpeercert() or {}
        names = {key: value for part in found.get("subject", ()) for key, value in part}
        return names.get("commonName")

    @property
    def unsent(self) -> bytearray:
        """What the socket has not taken yet."""
        return self._raw_out

    def receive(self) -> bytes | None:
        """Return what has arrived; None: nothing yet; b"": the stream has ended."""
        try:
            data = self.socket.recv(_CHUNK)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            return b""
        if not data:
            return b""
        if not self._decided:
            self._decided = True
            if self._tls is not None and data[0] == _TLS_HANDSHAKE:
                self._object = self._tls.wrap_bio(self._in, self._out, server_side=True)
        if self._object is None:
            return data
        self._in.write(data)
        return self._decrypt(self._object)

    def send(self, data: bytes) -> None:
        """Send, or keep what the socket does not take now."""
        if self._object is None:
            self._raw_out += data
        else:
            self._waiting += data
        self._pump()

    def flush(self) -> None:
        """Send what is kept."""
        while self._raw_out:
            try:
                sent = self.socket.send(self._raw_out)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self._raw_out.clear()
                break
            del self._raw_out[:sent]
        if self._ends:
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_WR)

    def end(self) -> None:
        """End the stream in this direction once all is sent."""
        self._ends = True
        self.flush()

    def close(self) -> None:
        self.socket.close()

    def _decrypt(self, tls: ssl.SSLObject) -> bytes | None:
        parts = []
        try:
            if not self._shaken:
                tls.do_handshake()
                self._shaken = True
            while part := tls.read(_CHUNK):
                parts.append(part)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            # The alert with the reason; a further handshake would only raise again.
            self._raw_out += self._out.read()
            self.flush()
            return b""
        self._pump()
        return b"".join(parts) or None

    def _pump(self) -> None:
        """Encrypt what is to be sent, and send it."""
        if self._object is not None:
            if not self._shaken:
                with contextlib.suppress(ssl.SSLWantReadError):
                    self._object.do_handshake()
                    self._shaken = True
            if self._shaken and self._waiting:
                self._object.write(bytes(self._waiting))
                self._waiting.clear()
            self._raw_out += self._out.read()
        self.flush()
