"""Heartbeats inside a TLS session.

Bytes written on the raw descriptor would corrupt the session, so a beat goes
through the session's own SSL object. OpenSSL does not allow two threads in one
SSL object at once: a lock is put around each of its calls, and the client's
wait for data is moved in front of that lock, so that a reader that sits in a
blocking read does not keep the beats out.

Taking heartbeats off the session is the delicate part. Python's SSL object can
only read, not peek, and on a blocking socket a read of half a record would block
the heartbeat thread. But the records lie in the clear enough: with an
authenticated cipher the length of a record tells the length of what is in it. So
the raw stream is peeked at, and a record is read only when it is there whole and
exactly eight octets long inside.

The CBC modes of TLS 1.2 pad, so that a heartbeat looks like any frame of up to 15
octets. What was read and is none is kept for the client's next read; but a client
that waits for its descriptor to become readable would not learn of it before the
broker's next octet, half of T later. So there a record is read only after it has
waited for a while: had the client been waiting, it would be gone.
"""

from __future__ import annotations

import socket
import ssl
from _socket import socket as NativeSocket  # noqa: N812
from typing import Any

from hbshim.heartbeat.wire import DRAIN_AT_MOST, HEARTBEAT_FRAME, Wire
from hbshim.runtime.unpatched import NativeLock, allocate_reentrant_lock

#: Octets of the authentication tag of AES-GCM and ChaCha20-Poly1305.
_TAG = 16

#: Octets of a block, and of the initial vector before it, of AES and Camellia.
_BLOCK = 16

#: The HMAC of a CBC suite, as OpenSSL's name of the suite ends, and its octets.
_MACS = {"SHA": 20, "SHA256": 32, "SHA384": 48}

#: The most that a record with a heartbeat's length may hold in CBC modes.
_LONGEST = _BLOCK

#: Seconds that the engine waits for a client's call into the SSL object to end. With
#: the data there, a call takes microseconds.
_MOMENT = 0.01

#: Seconds that a record has waited for when nobody is waiting for it.
_WAITED = 0.1


class SerializedSslObject:
    """Stands in for an SSL socket's inner SSL object, one thread at a time.

    That is true of every call: to ask for the cipher's name while another thread reads
    is to use one object in two threads, too.
    """

    # Out of an eventlet's sight that patches later; see `allocate_reentrant_lock`.
    __slots__ = ("_ahead", "_barrier", "_engine_waits", "_inner", "_native", "lock")

    def __init__(self, inner: Any, native: Any) -> None:
        self._inner = inner
        self._native = native
        # Read already, and not a heartbeat after all: the client's next octets.
        self._ahead = b""
        self.lock = allocate_reentrant_lock()
        # A client that reads all the time takes the lock again before another thread
        # has woken up; so the engine bars its way while it waits.
        self._barrier = allocate_reentrant_lock()
        self._engine_waits = False

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not callable(found):
            return found

        def alone(*args: Any, **kwargs: Any) -> Any:
            with self._my_turn():
                return found(*args, **kwargs)

        return alone

    def _my_turn(self) -> NativeLock:
        """The lock; not before an engine that waits for it has had it."""
        if self._engine_waits:
            with self._barrier:
                pass
        return self.lock

    def engine_enters(self) -> bool:
        """Take the lock for the engine; False when a client stays inside for long.

        It would, for instance, while it waits for the rest of a record.
        """
        with self._barrier:
            self._engine_waits = True
            try:
                return self.lock.acquire(True, _MOMENT)
            finally:
                self._engine_waits = False

    def read(self, length: int = 1024, buffer: Any = None) -> Any:
        with self._my_turn():
            if self._ahead:
                return self._read_ahead(length, buffer)
            buffered = self._inner.pending()
        # Zero is a non-blocking socket, as green libraries and pika use it:
        # its reads return at once.
        if not buffered and NativeSocket.gettimeout(self._native) != 0:
            self._wait_for_data()
        with self._my_turn():
            if buffer is None:
                return self._inner.read(length)
            return self._inner.read(length, buffer)

    def _read_ahead(self, length: int, buffer: Any) -> Any:
        data, self._ahead = self._ahead[:length], self._ahead[length:]
        if buffer is None:
            return data
        buffer[: len(data)] = data
        return len(data)

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
        with self._my_turn():
            return self._inner.write(*args)

    def pending(self) -> int:
        with self._my_turn():
            return len(self._ahead) + int(self._inner.pending())

    def take_heartbeats(self, at_most: int) -> int:
        """Read up to `at_most` heartbeats, one from each record; the records must be there.

        Returns:
            How many there were. What is none goes to the client's next read.
        """
        if not self.lock.acquire(False):
            return 0
        try:
            if self._ahead or self._inner.pending():
                return 0
            for taken in range(at_most):
                data = self._inner.read(_LONGEST)
                if data != HEARTBEAT_FRAME:
                    self._ahead = data
                    return taken
            return at_most
        finally:
            self.lock.release()


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
        # Once: it stays as the handshake has made it, and a look must not ask the session.
        self._prefixes, self._padded = self._record_prefixes()

    def beat(self) -> bool:
        if not self._ssl.engine_enters():
            return False
        try:
            self.require_own_socket()
            sent = self._ssl.write(HEARTBEAT_FRAME)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        finally:
            self._ssl.lock.release()
        return bool(sent == len(HEARTBEAT_FRAME))

    def take_heartbeats(self) -> int:
        """Take whole records with nothing but a heartbeat off the receive queue.

        Takes nothing with a cipher that hbshim does not know. What waits unread
        excuses the peer's silence then.
        """
        if not self._prefixes or (self._padded and not self._has_waited()):
            return 0
        self.require_own_socket()
        longest = max(map(_record_size, self._prefixes))
        waiting = self._receive(longest * DRAIN_AT_MOST, socket.MSG_PEEK)
        prefix = next(filter(waiting.startswith, self._prefixes), None)
        if prefix is None:
            return 0
        size = _record_size(prefix)
        count = 0
        while waiting.startswith(prefix, count * size) and (count + 1) * size <= len(waiting):
            count += 1
        return self._ssl.take_heartbeats(count) if count else 0

    def nothing_waits(self) -> bool:
        """Never certain: octets may wait in the session."""
        return False

    def _has_waited(self) -> bool:
        return self.has_tcp_info and self.kernel_view().received_ago > _WAITED

    def _record_prefixes(self) -> tuple[tuple[bytes, ...], bool]:
        """Type, version and length of a record with a heartbeat; whether others look like it."""
        version, cipher = self._ssl.version(), (self._ssl.cipher() or ("",))[0]
        # RFC 8446 section 5.2: the inner type adds an octet; a length of 25 cannot be
        # one of the handshake messages that also travel as type 23. RFC 5288 section 3
        # and RFC 7905 section 2: GCM sends eight octets of its nonce along, ChaCha20 none.
        extra = {
            ("TLSv1.3", "GCM"): 1 + _TAG,
            ("TLSv1.3", "CHACHA20"): 1 + _TAG,
            ("TLSv1.2", "GCM"): 8 + _TAG,
            ("TLSv1.2", "CHACHA20"): _TAG,
        }
        for (known_version, mode), octets in extra.items():
            if version == known_version and mode in cipher:
                return (_prefix(len(HEARTBEAT_FRAME) + octets),), False
        mac = _MACS.get(cipher.rpartition("-")[2])
        if version != "TLSv1.2" or mac is None or not ("AES" in cipher or "CAMELLIA" in cipher):
            return (), False
        # RFC 5246 section 6.2.3.2: the MAC is encrypted with the data; RFC 7366, an
        # extension: it follows what is encrypted. Which of them, nobody can be asked.
        encrypted_with, behind = _padded(len(HEARTBEAT_FRAME) + mac), _padded(len(HEARTBEAT_FRAME))
        return (_prefix(_BLOCK + encrypted_with), _prefix(_BLOCK + behind + mac)), True


def _padded(octets: int) -> int:
    """Whole blocks for so much data and at least one octet that tells the padding."""
    return (octets // _BLOCK + 1) * _BLOCK


def _prefix(length: int) -> bytes:
    return b"\x17\x03\x03" + length.to_bytes(2, "big")


def _record_size(prefix: bytes) -> int:
    return len(prefix) + int.from_bytes(prefix[-2:], "big")
