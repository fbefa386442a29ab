"""Heartbeats inside a TLS session.

Bytes written to the raw descriptor would corrupt the session, so a heartbeat is sent through the
session's own SSL object. OpenSSL does not allow two threads in one SSL object at once, so each
call into it is made under a lock.

A read never waits for the network with that lock held: a record may arrive slowly, and no heartbeat
could be sent meanwhile. So OpenSSL reads from a socket that is non-blocking at that time and keeps
the part of a record that has arrived, and the client waits for the rest without the lock. This also
covers records without data (session tickets, key updates, alerts) and receive buffers smaller than
a record. A write does wait with the lock held: the send queue is full then, so no heartbeat is due.

Taking heartbeats off the session needs care. Python's SSL object can only read, not peek. But the
records are visible: with an authenticated cipher the length of a record determines the length of
its content. So the raw stream is peeked at, and a record is read only if it has arrived completely
and its content is exactly eight bytes long.

The CBC modes of TLS 1.2 pad, so that a heartbeat looks like any frame of up to 15 bytes. Content
that turns out not to be a heartbeat is kept for the client's next read. A client that waits for its
descriptor to become readable must notice it: so the last record that looks like a heartbeat is
always left, and keeps the descriptor readable.

Longer than others: the code on both sides of one lock is in one place.
"""

from __future__ import annotations

import socket
import ssl
import time
from _socket import socket as NativeSocket  # noqa: N812
from typing import Any

from hbshim.adapters.ssl_lock import MOMENT, LockedSslObject
from hbshim.heartbeat.guard import Guard, Permit
from hbshim.heartbeat.wire import AMQP_0_9_1, DRAIN_AT_MOST, HeartbeatFormat, Wire
from hbshim.runtime.unpatched import original_module

#: Of <poll.h>, because :mod:`hbshim.runtime.polling` may have removed the names.
_POLLIN, _POLLOUT = 1, 4

#: Bytes of the authentication tag of AES-GCM and ChaCha20-Poly1305.
_TAG = 16

#: Bytes of a block, and of the initialization vector before it, of AES and Camellia.
_BLOCK = 16

#: The HMAC of a CBC suite, as the suffix of OpenSSL's name of the suite, and its bytes.
_MACS = {"SHA": 20, "SHA256": 32, "SHA384": 48}

#: The most content of a record with a heartbeat's length in CBC modes, in bytes.
_LONGEST = _BLOCK


class SerializedSslObject(LockedSslObject):
    """Replaces an SSL socket's inner SSL object; one thread at a time calls it."""

    __slots__ = ("_ahead", "_heartbeat", "_heartbeat_begun", "_native")

    def __init__(self, inner: Any, native: Any, heartbeat: HeartbeatFormat = AMQP_0_9_1) -> None:
        super().__init__(inner)
        self._native = native
        self._heartbeat = heartbeat
        # Read already, and not a heartbeat: the client's next bytes.
        self._ahead = b""
        # OpenSSL holds the rest of a heartbeat's record, which must be sent before everything else.
        self._heartbeat_begun = False

    def read(self, length: int = 1024, buffer: Any = None) -> Any:
        """Read as the inner object does, but wait for the network without the lock.

        Raises:
            TimeoutError: the socket's timeout passed.
            ssl.SSLWantReadError: the socket is non-blocking, or its ``SO_RCVTIMEO`` passed.
        """
        arguments = (length,) if buffer is None else (length, buffer)
        lock = self._my_turn()
        try:
            lock.acquire()
            if self._ahead:
                return self._read_ahead(length, buffer)
            # Zero is a non-blocking socket, as green libraries and pika use it: its reads return at
            # once. So does a read of no bytes.
            timeout = NativeSocket.gettimeout(self._native)
            if timeout == 0 or (length <= 0 and buffer is None) or self._inner.pending():
                return self._inner.read(*arguments)
        finally:
            try:  # noqa: SIM105
                lock.release()
            except RuntimeError:
                pass
        deadline = None if timeout is None else time.monotonic() + timeout
        self._wait_for_data()
        while True:
            lock = self._my_turn()
            try:
                lock.acquire()
                return self._read_without_waiting(arguments)
            except ssl.SSLWantReadError:
                for_reading = True
            except ssl.SSLWantWriteError:  # a handshake message has to be sent first
                for_reading = False
            finally:
                try:  # noqa: SIM105
                    lock.release()
                except RuntimeError:
                    pass
            self._wait(for_reading, deadline)

    def _read_without_waiting(self, arguments: tuple[Any, ...]) -> Any:
        # Only here, in a call of the client itself, and never for a heartbeat: the client may be
        # about to wait in its socket, and must not find it non-blocking.
        timeout = NativeSocket.gettimeout(self._native)
        try:
            NativeSocket.settimeout(self._native, 0)
            return self._inner.read(*arguments)
        finally:
            # No other call before this one: a signal handler might raise after it, and leave a
            # non-blocking socket to a client that expects a blocking one.
            try:  # noqa: SIM105
                NativeSocket.settimeout(self._native, timeout)
            except OSError:
                pass  # closed meanwhile

    def _read_ahead(self, length: int, buffer: Any) -> Any:
        data, self._ahead = self._ahead[:length], self._ahead[length:]
        if buffer is None:
            return data
        buffer[: len(data)] = data
        return len(data)

    def _wait(self, for_reading: bool, deadline: float | None) -> None:
        poll = getattr(original_module("select"), "poll", None)
        if for_reading and (deadline is None or poll is None):
            self._wait_for_data()
            return
        if poll is None:
            time.sleep(MOMENT)
            return
        if (descriptor := NativeSocket.fileno(self._native)) < 0:
            return  # closed meanwhile: the next call reports it
        poller = poll()
        poller.register(descriptor, _POLLIN if for_reading else _POLLOUT)
        left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        if not poller.poll(left):
            raise TimeoutError("The read operation timed out")

    def _wait_for_data(self) -> None:
        # A peek waits exactly as the read would, with the socket object's timeout or with
        # SO_RCVTIMEO, and consumes nothing.
        try:
            NativeSocket.recv(self._native, 1, socket.MSG_PEEK)
        except BlockingIOError:
            raise ssl.SSLWantReadError(
                ssl.SSL_ERROR_WANT_READ, "The operation did not complete (read)"
            ) from None

    def write(self, *args: Any) -> Any:
        lock = self._my_turn()
        try:
            lock.acquire()
            if self._heartbeat_begun:
                self._inner.write(self._heartbeat.frame)
                self._heartbeat_begun = False
            return self._inner.write(*args)
        finally:
            try:  # noqa: SIM105
                lock.release()
            except RuntimeError:
                pass

    def write_heartbeat(self, permit: Permit) -> bool:
        """Send a heartbeat, or the rest of one; return whether all of it is sent.

        A client that starts a write meanwhile waits for the lock. The part of the heartbeat's
        record that OpenSSL keeps is sent before anything else is written.
        """
        lock = self._engine_enters(MOMENT)
        if lock is None:
            return False
        frame = self._heartbeat.frame
        self._engine_calls = True
        try:
            # One expression: see `hbshim.heartbeat.syscalls.Calls`.
            sent = (
                self._inner.write(frame)
                if permit.valid and not permit.inside and self.lock is lock
                else 0
            )
        except ssl.SSLWantWriteError:
            self._heartbeat_begun = True
            return False
        except ssl.SSLWantReadError:
            return False
        finally:
            self._engine_calls = False
            self._engine_leaves(lock)
        if sent:
            self._heartbeat_begun = False
        return bool(sent == len(frame))

    def pending(self) -> int:
        return int(self.alone(self._pending)())

    def _pending(self) -> int:
        return len(self._ahead) + int(self._inner.pending())

    def describe(self) -> tuple[Any, Any] | None:
        """Return version and cipher to the engine; None while a client is inside."""
        lock = self._engine_enters(0)
        if lock is None:
            return None
        self._engine_calls = True
        try:
            return (self._inner.version(), self._inner.cipher()) if self.lock is lock else None
        finally:
            self._engine_calls = False
            self._engine_leaves(lock)

    def take_heartbeats(self, at_most: int, permit: Permit) -> int:
        """Read up to `at_most` heartbeats, one from each record; the records must have arrived.

        Stops when a client starts a read, which then waits for the lock.

        Returns:
            How many there were. Other content is kept for the client's next read.
        """
        lock = self._engine_enters(0)
        if lock is None:
            return 0
        self._engine_calls = True
        try:
            if self._ahead or self._inner.pending():
                return 0
            for taken in range(at_most):
                data = (
                    self._inner.read(_LONGEST)
                    if permit.valid and not permit.inside and self.lock is lock
                    else None
                )
                if data is None:
                    return taken
                if not self._heartbeat.matches(data):
                    self._ahead = data
                    return taken
            return at_most
        finally:
            self._engine_calls = False
            self._engine_leaves(lock)


#: Where a socket has its :class:`SerializedSslObject`.
_SESSION = "hbshim_session"


def _serialize(sock: Any, native: Any, heartbeat: HeartbeatFormat) -> SerializedSslObject:
    """Return what has replaced the inner SSL object of a socket.

    Two threads that do it at the same time agree: two objects would have two locks. The next call
    completes one that was interrupted.
    """
    inner = sock._sslobj
    if isinstance(inner, SerializedSslObject):
        return inner
    session: SerializedSslObject = vars(sock).setdefault(
        _SESSION, SerializedSslObject(inner, native, heartbeat)
    )
    if sock is native:
        # Another thread must not mistake the 0 of a read for the client's timeout.
        for name in ("gettimeout", "settimeout", "setblocking"):
            if name not in vars(sock):
                setattr(sock, name, session.alone(getattr(sock, name)))
    sock._sslobj = session
    return session


class TlsWire(Wire):
    """The wire of a TLS connection.

    Parameters:
        sock: the ``ssl.SSLSocket`` or its green counterpart.
        native: the operating-system socket beneath it.
        heartbeat: the protocol's.
    """

    route = "tls"

    def __init__(self, sock: Any, native: Any, heartbeat: HeartbeatFormat = AMQP_0_9_1) -> None:
        super().__init__(native, heartbeat=heartbeat)
        self._ssl = _serialize(sock, native, heartbeat)
        # Once: the handshake determines it. None: not known yet.
        self._prefixes: tuple[tuple[bytes, ...], bool] | None = None

    def send_heartbeat(self, permit: Permit) -> bool:
        self.require_own_socket()
        return self._ssl.write_heartbeat(permit)

    def send_if_idle(
        self, sent_ago: float, received_ago: float, guard: Guard, last_write: float
    ) -> bool:
        """Return False: a session needs its lock first."""
        return False

    def drop(self) -> None:
        self._ssl.renew_locks()
        super().drop()

    def take_heartbeats(self, permit: Permit) -> int:
        """Take whole records that contain only a heartbeat off the receive queue.

        With a cipher that hbshim does not know it takes nothing. Unread bytes then count as a
        possible cause of the peer's silence.
        """
        if self._prefixes is None and (described := self._ssl.describe()):
            self._prefixes = self._record_prefixes(*described)
        prefixes, padded = self._prefixes or ((), False)
        if not prefixes:
            return 0
        self.require_own_socket()
        longest = max(map(_record_size, prefixes))
        waiting = self._peek(longest * DRAIN_AT_MOST)
        prefix = next(filter(waiting.startswith, prefixes), None)
        if prefix is None:
            return 0
        size = _record_size(prefix)
        count = 0
        while waiting.startswith(prefix, count * size) and (count + 1) * size <= len(waiting):
            count += 1
        if padded and len(waiting) == count * size:
            count -= 1
        return self._ssl.take_heartbeats(count, permit) if count else 0

    def nothing_waits(self) -> bool:
        """Return False: the session may hold bytes."""
        return False

    def _record_prefixes(
        self, version: str | None, in_use: tuple[str, str, int] | None
    ) -> tuple[tuple[bytes, ...], bool]:
        """Return type, version and length of a record with a heartbeat.

        Returns also whether other records look like it.
        """
        cipher = "" if in_use is None else in_use[0]
        size = len(self._frame)
        # RFC 8446 section 5.2: the inner type adds a byte; no handshake message that is also sent
        # as type 23 has a length of 25. RFC 5288 section 3 and RFC 7905 section 2: GCM sends eight
        # bytes of its nonce, ChaCha20 none.
        extra = {
            ("TLSv1.3", "GCM"): 1 + _TAG,
            ("TLSv1.3", "CHACHA20"): 1 + _TAG,
            ("TLSv1.2", "GCM"): 8 + _TAG,
            ("TLSv1.2", "CHACHA20"): _TAG,
        }
        for (known_version, mode), extra_bytes in extra.items():
            if version == known_version and mode in cipher:
                return (_prefix(size + extra_bytes),), False
        mac = _MACS.get(cipher.rpartition("-")[2])
        if version != "TLSv1.2" or mac is None or not ("AES" in cipher or "CAMELLIA" in cipher):
            return (), False
        # RFC 5246 section 6.2.3.2: the MAC is encrypted with the data; RFC 7366, an extension: it
        # follows the encrypted data. Which of them is used cannot be queried.
        encrypted_with, behind = _padded(size + mac), _padded(size)
        return (_prefix(_BLOCK + encrypted_with), _prefix(_BLOCK + behind + mac)), True


def _padded(size: int) -> int:
    """Return the size of whole blocks for the data and at least one byte of padding."""
    return (size // _BLOCK + 1) * _BLOCK


def _prefix(length: int) -> bytes:
    return b"\x17\x03\x03" + length.to_bytes(2, "big")


def _record_size(prefix: bytes) -> int:
    return len(prefix) + int.from_bytes(prefix[-2:], "big")
