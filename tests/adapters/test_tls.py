"""Heartbeats through real TLS sessions: sent, taken off, and never anything else lost."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import amqp
import pytest
import trustme

import hbshim
from hbshim.adapters.sockets import wire_for
from hbshim.adapters.tls import SerializedSslObject
from hbshim.heartbeat import service
from hbshim.heartbeat.wire import AMQP_1_0, HEARTBEAT_FRAME
from hbshim.runtime.unpatched import allocate_lock, original, start_native_thread
from tests.concurrency import MODEL
from tests.interrupts import interrupt
from tests.permits import always
from tests.waiting import wait_until
from wsgi_harness.stack.broker import Broker

blocking_socket = pytest.mark.skipif(
    MODEL != "native", reason="green sockets wait in their hub, by its own rules"
)

#: Seconds that end what hangs.
LIMIT = 60.0

OTHER = b"\x01\x00\x01\x00\x00\x00\x00\xce"  # eight bytes, and no heartbeat


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for 127.0.0.1, valid while the tests run."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    directory = tmp_path_factory.mktemp("tls")
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    issued.private_key_and_cert_chain_pem.write_to_path(str(directory / "server.pem"))
    return directory


@pytest.fixture
def session(certificate: Path) -> Iterator[Callable[..., tuple[ssl.SSLSocket, ssl.SSLSocket]]]:
    """Open the two ends of a session."""
    with contextlib.ExitStack() as stack:

        def open_session(
            version: ssl.TLSVersion, ciphers: str | None, options: int = 0
        ) -> tuple[ssl.SSLSocket, ssl.SSLSocket]:
            listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            server_context.load_cert_chain(certificate / "server.pem")
            server_context.minimum_version = server_context.maximum_version = version
            server_context.options |= options
            if ciphers:
                server_context.set_ciphers(ciphers)
            accepted = []

            def accept() -> None:
                raw, _ = listening.accept()
                accepted.append(server_context.wrap_socket(raw, server_side=True))

            thread = threading.Thread(target=accept)
            thread.start()
            context = ssl.create_default_context(cafile=certificate / "ca.pem")
            if ciphers:
                context.set_ciphers(ciphers)
            raw = socket.create_connection(listening.getsockname(), LIMIT)
            client = stack.enter_context(context.wrap_socket(raw, server_hostname="127.0.0.1"))
            thread.join(LIMIT)
            server = stack.enter_context(accepted[0])
            # The tickets of TLS 1.3 come first, and go with the first read.
            server.sendall(b"first")
            assert client.recv(5) == b"first"
            return client, server

        yield open_session


class PiecewiseServer:
    """The server's end of a session, of which the bytes are sent as the test wants.

    Attributes:
        raw: the socket; what is written on it reaches the client as it is.
    """

    def __init__(self, context: ssl.SSLContext, raw: socket.socket) -> None:
        self.raw = raw
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._session = context.wrap_bio(self._in, self._out, server_side=True)

    def shake_hands(self) -> None:
        while True:
            try:
                self._session.do_handshake()
            except ssl.SSLWantReadError:
                self.raw.sendall(self._out.read())
                self._in.write(self.raw.recv(65536))
                continue
            return

    def encrypt(self, data: bytes = b"") -> bytes:
        """What the session sends next: after a handshake its tickets, then `data`."""
        if data:
            self._session.write(data)
        return self._out.read()

    def decrypt(self) -> bytes:
        self._in.write(self.raw.recv(65536))
        return self._session.read(65536)


@pytest.fixture
def piecewise(certificate: Path) -> Iterator[Callable[..., tuple[ssl.SSLSocket, PiecewiseServer]]]:
    """Open a session; the test sends the server's bytes itself."""
    with contextlib.ExitStack() as stack:

        def open_session(
            receive_buffer: int | None = None,
        ) -> tuple[ssl.SSLSocket, PiecewiseServer]:
            listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate / "server.pem")
            servers = []

            def accept() -> None:
                raw, _ = listening.accept()
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                servers.append(PiecewiseServer(context, stack.enter_context(raw)))
                servers[0].shake_hands()

            thread = threading.Thread(target=accept)
            thread.start()
            raw = socket.socket()
            if receive_buffer:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            raw.connect(listening.getsockname())
            trusting = ssl.create_default_context(cafile=certificate / "ca.pem")
            client = stack.enter_context(trusting.wrap_socket(raw, server_hostname="127.0.0.1"))
            thread.join(LIMIT)
            return client, servers[0]

        yield open_session


class Reader:
    """Reads in a thread of its own; what came out is in `result`."""

    def __init__(self, read: Callable[..., Any]) -> None:
        self.result: bytes | OSError | None = None
        self._read = read
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.result = self._read()
        except OSError as error:
            self.result = error

    def finish(self) -> bytes | OSError | None:
        self.thread.join(LIMIT)
        assert not self.thread.is_alive()
        return self.result


class Session:
    """An SSL object whose calls return at once."""

    def pending(self) -> int:
        return 0

    def read(self, *_: object) -> bytes:
        return b"x"

    def write(self, data: bytes) -> int:
        return len(data)

    def version(self) -> str:
        return "TLSv1.3"


@pytest.mark.skipif(MODEL != "native", reason="a signal handler of Python's own")
@pytest.mark.parametrize("call", ["read", "write", "version", "pending"])
def test_no_exception_at_any_instant_changes_the_socket_or_leaves_its_lock_taken(call: str) -> None:
    ours, theirs = socket.socketpair()

    def look() -> None:
        assert not session.lock._is_owned()  # type: ignore[attr-defined]
        assert ours.gettimeout() is None

    with ours, theirs:
        theirs.send(b"x")  # stays there, and ends every wait
        session = SerializedSslObject(Session(), ours)
        go = getattr(session, call)
        arguments = (b"x",) if call == "write" else ()
        assert interrupt(lambda: go(*arguments), look) == 300


def test_a_read_of_no_bytes_does_not_wait(
    session: Callable[..., tuple[ssl.SSLSocket, ssl.SSLSocket]],
) -> None:
    client, _server = session(ssl.TLSVersion.TLSv1_3, None)
    wire_for(client)
    assert client.recv(0) == b""


@pytest.mark.parametrize("timeout", [None, 10])
@pytest.mark.parametrize("length", [1, 4, 5, 300], ids=lambda length: f"{length} bytes")
def test_a_reader_inside_a_record_does_not_keep_heartbeats_out(
    piecewise: Callable[..., tuple[ssl.SSLSocket, PiecewiseServer]],
    timeout: int | None,
    length: int,
) -> None:
    client, server = piecewise()
    client.settimeout(timeout)
    wire: Any = wire_for(client)
    record = server.encrypt() + server.encrypt(b"x" * 1000)
    start = len(record) - len(server.encrypt(b"x" * 1000))
    server.raw.sendall(record[: start + length])
    reader = Reader(lambda: client.recv(1000))
    wait_until(lambda: not wire.unread())
    assert [wire.send_heartbeat(always()) for _ in range(20)] == [True] * 20
    # Readers of a session make no mistake about the client's timeout.
    assert client.gettimeout() == timeout
    server.raw.sendall(record[start + length :])
    assert reader.finish() == b"x" * 1000
    assert server.decrypt() == HEARTBEAT_FRAME


def test_a_record_without_data_does_not_keep_heartbeats_out(
    piecewise: Callable[..., tuple[ssl.SSLSocket, PiecewiseServer]],
) -> None:
    client, server = piecewise()
    wire: Any = wire_for(client)
    tickets = server.encrypt()
    assert tickets
    server.raw.sendall(tickets)
    reader = Reader(lambda: client.recv(1000))
    wait_until(lambda: not wire.unread())
    assert [wire.send_heartbeat(always()) for _ in range(20)] == [True] * 20
    server.raw.sendall(server.encrypt(b"data"))
    assert reader.finish() == b"data"


def test_a_timeout_inside_a_record_is_kept_and_loses_nothing(
    piecewise: Callable[..., tuple[ssl.SSLSocket, PiecewiseServer]],
) -> None:
    client, server = piecewise()
    client.settimeout(0.3)
    wire_for(client)
    record = server.encrypt() + server.encrypt(b"x" * 1000)
    server.raw.sendall(record[:-500])
    with pytest.raises(TimeoutError):
        client.recv(1000)
    assert client.gettimeout() == 0.3
    server.raw.sendall(record[-500:])
    assert client.recv(1000) == b"x" * 1000


@blocking_socket
def test_bytes_that_trickle_in_do_not_extend_the_timeout(
    piecewise: Callable[..., tuple[ssl.SSLSocket, PiecewiseServer]],
) -> None:
    client, server = piecewise()
    client.settimeout(0.5)
    wire_for(client)
    record = iter(server.encrypt() + server.encrypt(b"x" * 10_000))
    reader = Reader(lambda: client.recv(1000))

    def timed_out() -> bool:
        server.raw.sendall(bytes([next(record)]))
        return not reader.thread.is_alive()

    wait_until(timed_out)
    assert isinstance(reader.finish(), TimeoutError)


@blocking_socket
def test_the_receive_timeout_of_the_socket_holds_inside_a_record(
    piecewise: Callable[..., tuple[ssl.SSLSocket, PiecewiseServer]],
) -> None:
    client, server = piecewise()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 300_000))
    wire_for(client)
    record = server.encrypt() + server.encrypt(b"x" * 1000)
    server.raw.sendall(record[:-500])
    with pytest.raises(ssl.SSLWantReadError):
        client.recv(1000)
    assert client.gettimeout() is None
    server.raw.sendall(record[-500:])
    assert client.recv(1000) == b"x" * 1000


@pytest.mark.parametrize("timeout", [None, 10])
def test_a_record_may_be_larger_than_the_receive_buffer(
    piecewise: Callable[..., tuple[ssl.SSLSocket, PiecewiseServer]], timeout: int | None
) -> None:
    client, server = piecewise(receive_buffer=2048)
    client.settimeout(timeout)
    wire: Any = wire_for(client)
    record = server.encrypt() + server.encrypt(b"x" * 16_000)
    sender = threading.Thread(target=lambda: server.raw.sendall(record))
    sender.start()
    received = client.recv(16_000)
    sender.join(LIMIT)
    assert received == b"x" * 16_000
    assert wire.send_heartbeat(always())


@pytest.mark.parametrize("timeout", [None, 10])
def test_an_end_inside_a_record_ends_the_read(
    piecewise: Callable[..., tuple[ssl.SSLSocket, PiecewiseServer]], timeout: int | None
) -> None:
    client, server = piecewise()
    client.settimeout(timeout)
    wire_for(client)
    record = server.encrypt() + server.encrypt(b"x" * 1000)
    server.raw.sendall(record[:-500])
    reader = Reader(lambda: client.recv(1000))
    server.raw.shutdown(socket.SHUT_WR)
    assert reader.finish() in (b"", None) or isinstance(reader.result, ssl.SSLError)


def test_another_thread_does_not_see_the_timeout_of_a_read_under_way(
    piecewise: Callable[..., tuple[ssl.SSLSocket, PiecewiseServer]], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, server = piecewise()
    wire: Any = wire_for(client)
    inner, inside, seen = wire._ssl._inner, threading.Event(), []

    class Inner:
        def __getattr__(self, name: str) -> Callable[..., Any]:
            return getattr(inner, name)

        def read(self, *args: int) -> bytes:
            inside.set()
            asked.thread.join(0.05)  # it has the time to look, and waits
            return inner.read(*args)

    monkeypatch.setattr(wire._ssl, "_inner", Inner())
    asked = Reader(lambda: inside.wait(LIMIT) and seen.append(client.gettimeout()))
    server.raw.sendall(server.encrypt() + server.encrypt(b"data"))
    assert client.recv(100) == b"data"
    asked.finish()
    assert seen == [None]


@blocking_socket
def test_the_rest_of_a_heartbeat_goes_out_before_anything_else(
    piecewise: Callable[..., tuple[ssl.SSLSocket, PiecewiseServer]], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, _ = piecewise()
    wire: Any = wire_for(client)
    written, full = [], True

    class Inner:
        def write(self, data: bytes) -> int:
            written.append(bytes(data))
            if full:
                raise ssl.SSLWantWriteError
            return len(data)

    monkeypatch.setattr(wire._ssl, "_inner", Inner())
    assert not wire.send_heartbeat(always())
    with pytest.raises(ssl.SSLWantWriteError):
        client.send(b"frame")
    assert written == [HEARTBEAT_FRAME, HEARTBEAT_FRAME]
    full = False
    client.send(b"frame")
    client.send(b"frame")
    assert written[2:] == [HEARTBEAT_FRAME, b"frame", b"frame"]


KINDS = [
    (ssl.TLSVersion.TLSv1_3, ""),
    (ssl.TLSVersion.TLSv1_2, "ECDHE+AESGCM"),
    (ssl.TLSVersion.TLSv1_2, "ECDHE+CHACHA20"),
]
#: OpenSSL's SSL_OP_NO_ENCRYPT_THEN_MAC, which Python names from 3.12 on.
MAC_THEN_ENCRYPT = 1 << 19
PADDED = [
    (ssl.TLSVersion.TLSv1_2, f"ECDHE-ECDSA-{cipher}", options)
    for cipher in ("AES128-SHA", "AES256-SHA", "AES128-SHA256", "AES256-SHA384")
    for options in (0, MAC_THEN_ENCRYPT)
]
#: connection.unblocked, which comes unasked, and basic.cancel with a tag of one letter.
SHORT_FRAMES = [
    b"\x01\x00\x00\x00\x00\x00\x04\x00\x0a\x00\x3d\xce",
    b"\x01\x00\x01\x00\x00\x00\x07\x00\x3c\x00\x1e\x011\x01\xce",
]


@pytest.mark.parametrize("kind", KINDS)
def test_the_empty_frames_of_amqp_1_0_are_sent_and_taken(
    session: Callable[..., tuple[ssl.SSLSocket, ssl.SSLSocket]],
    kind: tuple[int | ssl.TLSVersion | str, ...],
) -> None:
    client, server = session(*kind)
    wire: Any = wire_for(client, AMQP_1_0)
    assert wire.send_heartbeat(always())
    assert server.recv(100) == AMQP_1_0.frame
    server.sendall(AMQP_1_0.frame[:-1] + b"\x07")  # on another channel
    server.sendall(HEARTBEAT_FRAME)  # as long, and something else
    wait_until(lambda: wire.take_heartbeats(always()) == 1)
    wait_until(wire.unread)
    assert wire.take_heartbeats(always()) == 0
    assert client.recv(100) == HEARTBEAT_FRAME


@pytest.mark.parametrize("kind", [*KINDS, *PADDED])
def test_heartbeats_are_taken_and_the_rest_is_left(
    session: Callable[..., tuple[ssl.SSLSocket, ssl.SSLSocket]],
    kind: tuple[int | ssl.TLSVersion | str, ...],
) -> None:
    client, server = session(*kind)
    wire: Any = wire_for(client)
    for _ in range(3):
        server.sendall(HEARTBEAT_FRAME)
    server.sendall(b"a frame of the application")
    server.sendall(HEARTBEAT_FRAME)
    wait_until(wire.unread)
    taken = 0

    def all_taken() -> bool:
        nonlocal taken
        taken += wire.take_heartbeats(always())
        return taken == 3

    wait_until(all_taken)
    assert wire.take_heartbeats(always()) == 0
    assert client.recv(100) == b"a frame of the application"
    if kind in PADDED:
        # It might be something else, for which the client polls its descriptor.
        assert client.recv(100) == HEARTBEAT_FRAME
    else:
        wait_until(lambda: wire.take_heartbeats(always()) == 1)
    assert wire.unread() == 0


@pytest.mark.parametrize(("version", "ciphers"), KINDS)
def test_eight_other_bytes_reach_the_client(
    session: Callable[..., tuple[ssl.SSLSocket, ssl.SSLSocket]],
    version: ssl.TLSVersion,
    ciphers: str,
) -> None:
    client, server = session(version, ciphers)
    wire: Any = wire_for(client)
    server.sendall(HEARTBEAT_FRAME)
    server.sendall(OTHER)
    server.sendall(b"more")
    wait_until(lambda: wire.take_heartbeats(always()) == 1 or client.pending())
    wait_until(lambda: wire.take_heartbeats(always()) == 0 and client.pending() == len(OTHER))
    assert client.recv(3) == OTHER[:3]
    buffer = bytearray(100)
    assert client.recv_into(buffer) == 5
    assert bytes(buffer[:5]) == OTHER[3:]
    assert client.recv(100) == b"more"


def test_a_record_that_is_not_there_whole_is_left(
    session: Callable[..., tuple[ssl.SSLSocket, ssl.SSLSocket]],
) -> None:
    client, server = session(*KINDS[0])
    wire: Any = wire_for(client)
    server.sendall(b"x" * 500)
    wait_until(wire.unread)
    assert wire.take_heartbeats(always()) == 0
    assert client.recv(1) == b"x"
    # The rest of that record is decrypted and waits: no boundary of a record.
    server.sendall(HEARTBEAT_FRAME)
    wait_until(wire.unread)
    assert wire.take_heartbeats(always()) == 0


@pytest.mark.parametrize("frame", SHORT_FRAMES, ids=["unblocked", "cancel"])
@pytest.mark.parametrize("kind", PADDED)
def test_a_short_frame_that_looks_like_a_heartbeat_reaches_the_client(
    session: Callable[..., tuple[ssl.SSLSocket, ssl.SSLSocket]],
    kind: tuple[ssl.TLSVersion, str, int],
    frame: bytes,
) -> None:
    client, server = session(*kind)
    wire: Any = wire_for(client)
    server.sendall(HEARTBEAT_FRAME)
    server.sendall(frame)
    server.sendall(HEARTBEAT_FRAME)
    wait_until(lambda: wire.take_heartbeats(always()) == 1)
    assert wire.take_heartbeats(always()) == 0
    # Read already and kept, or, where SHA-1 makes its record longer than a heartbeat's, left.
    assert client.pending() in (0, len(frame))
    assert client.recv(100) == frame
    assert client.recv(100) == HEARTBEAT_FRAME


@pytest.mark.parametrize("frame", SHORT_FRAMES, ids=["unblocked", "cancel"])
@pytest.mark.parametrize("kind", PADDED)
def test_a_client_that_polls_learns_of_a_frame_that_was_read_already(
    session: Callable[..., tuple[ssl.SSLSocket, ssl.SSLSocket]],
    kind: tuple[ssl.TLSVersion, str, int],
    frame: bytes,
) -> None:
    client, server = session(*kind)
    wire: Any = wire_for(client)
    assert wire.take_heartbeats(always()) == 0
    ((prefix, *_), _) = wire._prefixes
    size = len(prefix) + int.from_bytes(prefix[-2:], "big")
    server.sendall(frame)
    server.sendall(HEARTBEAT_FRAME)
    wait_until(lambda: wire.unread() >= 2 * size or wire.take_heartbeats(always()))
    assert wire.take_heartbeats(always()) == 0
    readable, _, _ = original("select", "select")([client.fileno()], [], [], 0)
    assert readable
    assert client.recv(100) == frame


@pytest.mark.parametrize("kind", PADDED)
def test_the_last_record_that_may_be_a_heartbeat_is_left(
    session: Callable[..., tuple[ssl.SSLSocket, ssl.SSLSocket]],
    kind: tuple[ssl.TLSVersion, str, int],
) -> None:
    client, server = session(*kind)
    wire: Any = wire_for(client)
    taken = 0
    for _ in range(3):
        server.sendall(HEARTBEAT_FRAME)

    def two_taken() -> bool:
        nonlocal taken
        taken += wire.take_heartbeats(always())
        return taken == 2

    wait_until(two_taken)
    assert wire.take_heartbeats(always()) == 0
    assert client.recv(100) == HEARTBEAT_FRAME


def test_a_cipher_that_hbshim_does_not_know_is_left_alone(
    session: Callable[..., tuple[ssl.SSLSocket, ssl.SSLSocket]],
) -> None:
    client, server = session(ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES128-CCM")
    wire: Any = wire_for(client)
    server.sendall(HEARTBEAT_FRAME)
    wait_until(lambda: wire.kernel_view().received_ago > 0.2)
    assert wire.take_heartbeats(always()) == 0
    assert client.recv(8) == HEARTBEAT_FRAME


def test_a_heartbeat_waits_for_a_client_that_is_inside_for_a_moment(
    session: Callable[..., tuple[ssl.SSLSocket, ssl.SSLSocket]], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, server = session(*KINDS[0])
    wire: Any = wire_for(client)
    inside, ended, read = threading.Event(), threading.Event(), wire._ssl._inner.read

    class Inner:
        def __getattr__(self, name: str) -> Callable[..., Any]:
            return getattr(inner, name)

        def read(self, *args: int) -> bytes:
            inside.set()
            time.sleep(0.002)
            return read(*args)

    inner = wire._ssl._inner
    monkeypatch.setattr(wire._ssl, "_inner", Inner())
    client.settimeout(LIMIT)

    def read_all_the_time() -> None:
        while not ended.is_set():
            client.recv(1)

    def feed() -> None:
        while not ended.is_set():
            server.sendall(b"x")
            time.sleep(0.0005)

    reading, feeding = threading.Thread(target=read_all_the_time), threading.Thread(target=feed)
    for thread in (reading, feeding):
        thread.start()
    try:
        assert inside.wait(LIMIT)
        # Nearly always inside: without waiting, the session is seldom found free.
        sent = sum(wire.send_heartbeat(always()) for _ in range(50))
    finally:
        ended.set()
        feeding.join()  # first: two threads must not use one session
        server.sendall(b"x")  # or the reader waits for its whole timeout
        reading.join()
    assert sent >= 40


def test_a_client_that_stays_inside_is_not_waited_for(
    session: Callable[..., tuple[ssl.SSLSocket, ssl.SSLSocket]],
) -> None:
    client, _ = session(*KINDS[0])
    wire: Any = wire_for(client)
    # Another thread of the operating system, in a patched concurrency model too.
    inside, ended, gone = allocate_lock(), allocate_lock(), allocate_lock()
    for lock in (inside, ended, gone):
        lock.acquire()

    def stay() -> None:
        with wire._ssl.lock:
            inside.release()
            ended.acquire(True, LIMIT)
        gone.release()

    start_native_thread(stay, ended.release)
    assert inside.acquire(True, LIMIT)
    assert not wire.send_heartbeat(always())
    ended.release()
    assert gone.acquire(True, LIMIT)
    assert wire.send_heartbeat(always())


class Blocking:
    """A permit in whose check the engine is stopped, as by a finalizer, in the session."""

    inside = ()

    def __init__(self) -> None:
        self.stopped, self.go_on = allocate_lock(), allocate_lock()
        self.stopped.acquire()
        self.go_on.acquire()

    @property
    def valid(self) -> bool:
        self.stopped.release()
        self.go_on.acquire(True, LIMIT)
        return True


@pytest.mark.parametrize("act", ["send_heartbeat", "take_heartbeats"])
def test_an_engine_that_is_stuck_inside_the_session_is_shut_out(
    session: Callable[..., tuple[ssl.SSLSocket, ssl.SSLSocket]], act: str
) -> None:
    client, server = session(*KINDS[0])
    wire, permit, done, outcomes = wire_for(client), Blocking(), allocate_lock(), []
    done.acquire()
    server.sendall(HEARTBEAT_FRAME)
    wait_until(lambda: wire.unread() > 0)

    def engine() -> None:
        outcomes.append(getattr(wire, act)(permit))
        done.release()

    start_native_thread(engine, permit.go_on.release)
    try:
        assert permit.stopped.acquire(True, LIMIT)
        started = time.monotonic()
        client.sendall(b"client")
        assert client.recv(100) == HEARTBEAT_FRAME
        assert wire.send_heartbeat(always())
        assert time.monotonic() - started < LIMIT / 2
    finally:
        permit.go_on.release()
    assert done.acquire(True, LIMIT)
    # Its call would have been made beside another thread's.
    assert not outcomes[0]
    server.settimeout(LIMIT)
    assert server.recv(100) == b"client"
    assert server.recv(100) == HEARTBEAT_FRAME
    assert wire.send_heartbeat(always())


@pytest.mark.skipif(MODEL != "native", reason="forks beside a native thread")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_dropped_copy_is_not_locked_by_a_thread_of_the_parent(
    session: Callable[..., tuple[ssl.SSLSocket, ssl.SSLSocket]],
) -> None:
    client, _ = session(*KINDS[0])
    wire: Any = wire_for(client)
    inside, ended, gone = allocate_lock(), allocate_lock(), allocate_lock()
    for lock in (inside, ended, gone):
        lock.acquire()

    def stay() -> None:
        with wire._ssl.lock:
            inside.release()
            ended.acquire(True, LIMIT)
        gone.release()

    start_native_thread(stay, ended.release)
    assert inside.acquire(True, LIMIT)
    try:
        pid = os.fork()
        if not pid:
            signal.alarm(int(LIMIT / 2))
            wire.drop()
            client.version()  # any call into the session
            os._exit(42 if wire.closed else 43)
        _, status = os.waitpid(pid, 0)
    finally:
        ended.release()
    assert gone.acquire(True, LIMIT)
    assert os.waitstatus_to_exitcode(status) == 42


@pytest.mark.parametrize("ciphers", ["", "ECDHE-ECDSA-AES256-SHA384"], ids=["default", "CBC"])
def test_idle_connections_to_the_broker_are_drained(
    broker: Broker, tmp_path: Path, ciphers: str
) -> None:
    assert broker.ca_pem
    (tmp_path / "ca.pem").write_text(broker.ca_pem)
    options = {"ca_certs": str(tmp_path / "ca.pem"), "cert_reqs": ssl.CERT_REQUIRED}
    if ciphers:
        options |= {"ciphers": ciphers, "tls_maximum_version": ssl.TLSVersion.TLSv1_2}
    connection = amqp.Connection(
        f"localhost:{broker.tls_port}",
        broker.user,
        broker.password,
        heartbeat=1,
        ssl=options,
    )
    connection.connect()
    assert ciphers in connection.transport.sock.cipher()[0]
    hbshim.keep_alive(connection)
    counted = service.current().metrics.snapshot
    before = counted().get("heartbeats_drained", 0)
    wait_until(lambda: counted().get("heartbeats_drained", 0) >= before + 6, LIMIT)
    connection.channel().queue_declare("", exclusive=True)
    connection.close()
