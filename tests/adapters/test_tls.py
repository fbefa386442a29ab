"""Heartbeats through real TLS sessions: sent, taken off, and never anything else lost."""

import contextlib
import socket
import ssl
import threading
import time

import amqp
import pytest
import trustme

import hbshim
from hbshim.adapters.sockets import wire_for
from hbshim.heartbeat import service
from hbshim.heartbeat.wire import HEARTBEAT_FRAME
from hbshim.runtime.unpatched import allocate_lock, start_native_thread
from tests.waiting import wait_until

OTHER = b"\x01\x00\x01\x00\x00\x00\x00\xce"  # eight octets, and no heartbeat


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A key and a certificate for 127.0.0.1, valid while the tests run."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    directory = tmp_path_factory.mktemp("tls")
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    issued.private_key_and_cert_chain_pem.write_to_path(str(directory / "server.pem"))
    return directory


@pytest.fixture
def session(certificate):
    """Open the two ends of a session."""
    with contextlib.ExitStack() as stack:

        def open_session(version, ciphers, options=0):
            listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            server_context.load_cert_chain(certificate / "server.pem")
            server_context.minimum_version = server_context.maximum_version = version
            server_context.options |= options
            if ciphers:
                server_context.set_ciphers(ciphers)
            accepted = []

            def accept():
                raw, _ = listening.accept()
                accepted.append(server_context.wrap_socket(raw, server_side=True))

            thread = threading.Thread(target=accept)
            thread.start()
            context = ssl.create_default_context(cafile=certificate / "ca.pem")
            if ciphers:
                context.set_ciphers(ciphers)
            raw = socket.create_connection(listening.getsockname(), 10)
            client = stack.enter_context(context.wrap_socket(raw, server_hostname="127.0.0.1"))
            thread.join(10)
            server = stack.enter_context(accepted[0])
            # The tickets of TLS 1.3 come first, and go with the first read.
            server.sendall(b"first")
            assert client.recv(5) == b"first"
            return client, server

        yield open_session


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


@pytest.mark.parametrize("kind", [*KINDS, *PADDED])
def test_heartbeats_are_taken_and_the_rest_is_left(session, kind):
    client, server = session(*kind)
    wire = wire_for(client)
    for _ in range(3):
        server.sendall(HEARTBEAT_FRAME)
    server.sendall(b"a frame of the application")
    server.sendall(HEARTBEAT_FRAME)
    wait_until(wire.unread)
    taken = 0

    def all_taken():
        nonlocal taken
        taken += wire.take_heartbeats()
        return taken == 3

    wait_until(all_taken)
    assert wire.take_heartbeats() == 0
    assert client.recv(100) == b"a frame of the application"
    wait_until(lambda: wire.take_heartbeats() == 1)
    assert wire.unread() == 0


@pytest.mark.parametrize(("version", "ciphers"), KINDS)
def test_eight_other_octets_reach_the_client(session, version, ciphers):
    client, server = session(version, ciphers)
    wire = wire_for(client)
    server.sendall(HEARTBEAT_FRAME)
    server.sendall(OTHER)
    server.sendall(b"more")
    wait_until(lambda: wire.take_heartbeats() == 1 or client.pending())
    wait_until(lambda: wire.take_heartbeats() == 0 and client.pending() == len(OTHER))
    assert client.recv(3) == OTHER[:3]
    buffer = bytearray(100)
    assert client.recv_into(buffer) == 5
    assert bytes(buffer[:5]) == OTHER[3:]
    assert client.recv(100) == b"more"


def test_a_record_that_is_not_there_whole_is_left(session):
    client, server = session(*KINDS[0])
    wire = wire_for(client)
    server.sendall(b"x" * 500)
    wait_until(wire.unread)
    assert wire.take_heartbeats() == 0
    assert client.recv(1) == b"x"
    # The rest of that record is decrypted and waits: no boundary of a record.
    server.sendall(HEARTBEAT_FRAME)
    wait_until(wire.unread)
    assert wire.take_heartbeats() == 0


@pytest.mark.parametrize("frame", SHORT_FRAMES, ids=["unblocked", "cancel"])
@pytest.mark.parametrize("kind", PADDED)
def test_a_short_frame_that_looks_like_a_heartbeat_reaches_the_client(session, kind, frame):
    client, server = session(*kind)
    wire = wire_for(client)
    server.sendall(HEARTBEAT_FRAME)
    server.sendall(frame)
    server.sendall(HEARTBEAT_FRAME)
    wait_until(lambda: wire.take_heartbeats() == 1)
    assert wire.take_heartbeats() == 0
    # Read already and kept, or, where SHA-1 makes its record longer than a heartbeat's, left.
    assert client.pending() in (0, len(frame))
    assert client.recv(100) == frame
    wait_until(lambda: wire.take_heartbeats() == 1)


@pytest.mark.parametrize("kind", PADDED)
def test_what_a_waiting_client_would_read_by_itself_is_left_to_it(session, kind, monkeypatch):
    client, server = session(*kind)
    wire = wire_for(client)
    ages = iter([0.0, 60.0])
    view = wire.kernel_view
    monkeypatch.setattr(wire, "kernel_view", lambda: view()._replace(received_ago=next(ages)))
    server.sendall(HEARTBEAT_FRAME)
    wait_until(wire.unread)
    assert wire.take_heartbeats() == 0
    assert wire.take_heartbeats() == 1


def test_a_cipher_that_hbshim_does_not_know_is_left_alone(session):
    client, server = session(ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES128-CCM")
    wire = wire_for(client)
    server.sendall(HEARTBEAT_FRAME)
    wait_until(lambda: wire.kernel_view().received_ago > 0.2)
    assert wire.take_heartbeats() == 0
    assert client.recv(8) == HEARTBEAT_FRAME


def test_a_beat_waits_for_a_client_that_is_inside_for_a_moment(session, monkeypatch):
    client, server = session(*KINDS[0])
    wire = wire_for(client)
    inside, ended, read = threading.Event(), threading.Event(), wire._ssl._inner.read

    class Inner:
        def __getattr__(self, name):
            return getattr(inner, name)

        def read(self, *args):
            inside.set()
            time.sleep(0.002)
            return read(*args)

    inner = wire._ssl._inner
    monkeypatch.setattr(wire._ssl, "_inner", Inner())
    client.settimeout(10)

    def read_all_the_time():
        while not ended.is_set():
            client.recv(1)

    def feed():
        while not ended.is_set():
            server.sendall(b"x")
            time.sleep(0.0005)

    threads = [threading.Thread(target=read_all_the_time), threading.Thread(target=feed)]
    for thread in threads:
        thread.start()
    try:
        assert inside.wait(10)
        # Nearly always inside: whoever does not wait seldom finds the session free.
        beaten = sum(wire.beat() for _ in range(50))
    finally:
        ended.set()
        for thread in threads:
            thread.join(10)
    assert beaten >= 40


def test_a_client_that_stays_inside_is_not_waited_for(session):
    client, _ = session(*KINDS[0])
    wire = wire_for(client)
    # Another thread of the operating system, in a patched world too.
    inside, ended, gone = allocate_lock(), allocate_lock(), allocate_lock()
    for lock in (inside, ended, gone):
        lock.acquire()

    def stay():
        with wire._ssl.lock:
            inside.release()
            ended.acquire(True, 10)
        gone.release()

    start_native_thread(stay, ended.release)
    assert inside.acquire(True, 10)
    assert not wire.beat()
    ended.release()
    assert gone.acquire(True, 10)
    assert wire.beat()


@pytest.mark.parametrize("ciphers", ["", "ECDHE-ECDSA-AES256-SHA384"], ids=["default", "CBC"])
def test_idle_connections_to_the_broker_are_drained(broker, tmp_path, ciphers):
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
    wait_until(lambda: counted().get("heartbeats_drained", 0) >= before + 6, 30)
    connection.channel().queue_declare("", exclusive=True)
    connection.close()
