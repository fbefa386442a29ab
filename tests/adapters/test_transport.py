"""The transport beneath the messaging drivers, over a pair of sockets."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import NoReturn

import pytest

from hbshim.adapters.transport import Transport
from hbshim.options import Options
from hbshim.protocol.frames import joined
from tests.waiting import wait_until

FRAME = joined((1, 1, b"a payload"))


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        peer, _ = listener.accept()
    client.setblocking(False)
    peer.settimeout(10)
    with client, peer:
        yield client, peer


def read(transport: Transport) -> list[tuple[int, int, bytes]]:
    """Read what is under way."""
    got = []
    wait_until(lambda: got.extend(transport.read()) or got, 10)
    return got


@pytest.fixture
def transport(pair: tuple[socket.socket, socket.socket]) -> Iterator[Transport]:
    made = Transport(pair[0])
    made.keep_alive(0, Options(), lambda: None)
    yield made
    made.end()


def drain(peer: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count:
        got += peer.recv(count - len(got))
    return got


def test_frames_go_out_and_come_in(
    transport: Transport, pair: tuple[socket.socket, socket.socket]
) -> None:
    transport.send(FRAME)
    assert drain(pair[1], len(FRAME)) == FRAME
    assert transport.read() == []
    pair[1].sendall(FRAME + FRAME[:5])
    assert read(transport) == [(1, 1, b"a payload")]
    pair[1].sendall(FRAME[5:])
    assert read(transport) == [(1, 1, b"a payload")]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, MemoryError])
def test_an_interrupted_write_ends_the_stream(
    transport: Transport, pair: tuple[socket.socket, socket.socket], error: type[Exception]
) -> None:
    write = transport._write

    def interrupted(data: memoryview) -> int:
        write(data[:3])
        raise error

    transport._write = interrupted
    with pytest.raises(error):
        transport.send(FRAME)
    transport._write = write
    assert not transport.alive
    with pytest.raises(OSError):
        transport.send(FRAME)
    assert b"".join(iter(lambda: pair[1].recv(100), b"")) == FRAME[:3]


def full(_data: object) -> NoReturn:
    raise BlockingIOError


def test_what_was_not_begun_is_taken_back(
    transport: Transport,
    pair: tuple[socket.socket, socket.socket],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write = transport._write
    monkeypatch.setattr(transport, "_write", full)
    transport.send(FRAME)
    assert transport.unsent
    assert transport.unqueue(transport.queued)
    assert not transport.unsent
    transport._write = write
    transport.send(FRAME)
    assert transport.sent == transport.queued == len(FRAME)


def test_a_frame_that_is_out_in_part_is_not_taken_back(
    transport: Transport, pair: tuple[socket.socket, socket.socket]
) -> None:
    transport.send(FRAME)
    write = transport._write
    transport._write = lambda data: write(data[:3]) if len(data) == len(FRAME) else full(data)
    transport.send(FRAME)
    assert transport.unsent
    assert not transport.unqueue(transport.queued)
    transport._write = write
    transport.flush()
    assert drain(pair[1], 2 * len(FRAME)) == 2 * FRAME


def test_the_end_of_the_stream(
    transport: Transport, pair: tuple[socket.socket, socket.socket]
) -> None:
    pair[1].shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionResetError):
        read(transport)
    transport.end()
    for call in (transport.read, lambda: transport.send(FRAME)):
        with pytest.raises(ConnectionError, match="has ended"):
            call()
