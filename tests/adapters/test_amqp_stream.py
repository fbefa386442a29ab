"""The stream of a connection without heartbeats, which no guard watches."""

import socket

import pytest

from hbshim.adapters.pyamqp.heartbeat import StalledError
from hbshim.adapters.pyamqp.transport import Transport


class Waits:
    def __init__(self, sock):
        self.sock = sock

    def dial(self):
        self.sock.setblocking(False)
        return self.sock

    def readable(self, timeout):
        return True

    def writable(self, timeout):
        return True


@pytest.fixture
def stream():
    client, peer = socket.socketpair()
    peer.settimeout(10)
    transport = Transport("127.0.0.1", Waits(client))
    with client, peer:
        transport.connect()
        assert peer.recv(8) == b"AMQP\x00\x00\x09\x01"
        yield transport, peer


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, MemoryError])
def test_an_interrupted_write_ends_the_stream(stream, error):
    transport, peer = stream
    send = transport.sock.send

    def interrupted(data):
        send(data[:3])
        raise error

    transport._send = interrupted
    with pytest.raises(error):
        transport.write(b"a frame")
    transport._send = send
    assert not transport.connected
    with pytest.raises(OSError):
        transport.write(b"another")
    assert b"".join(iter(lambda: peer.recv(100), b"")) == b"a f"


def test_a_stream_that_only_stalled_goes_on(stream):
    transport, peer = stream
    transport.write_by = 0.0

    def full(_data):
        raise BlockingIOError

    send, transport._send = transport._send, full
    with pytest.raises(StalledError):
        transport.write(b"a frame")
    transport._send = send
    assert transport.connected
    transport.write(b"a frame")
    assert peer.recv(100) == b"a frame"
