"""The kernel's view, on real sockets."""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
import time
from collections.abc import Iterator
from typing import NoReturn

import pytest

from hbshim.adapters.sockets import native_socket
from hbshim.heartbeat import wire as wire_module
from hbshim.heartbeat.syscalls import Calls, gil_keeping_calls
from hbshim.heartbeat.wire import HEARTBEAT_FRAME, DescriptorReusedError, Wire, acting
from hbshim.runtime.unpatched import original
from tests.concurrency import MODEL
from tests.full_queues import fill
from tests.interrupts import interrupt_everywhere
from tests.permits import always
from tests.waiting import wait_until

linux = pytest.mark.skipif(sys.platform != "linux", reason="TCP_INFO is Linux's")


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    server = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(server.getsockname())
    peer, _ = server.accept()
    server.close()
    yield client, peer
    client.close()
    peer.close()


@pytest.mark.parametrize("calls", [gil_keeping_calls(), None], ids=["ctypes", "socket"])
def test_a_heartbeat_is_eight_bytes_of_amqp(
    pair: tuple[socket.socket, socket.socket], calls: Calls | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hbshim.heartbeat.wire.gil_keeping_calls", lambda: calls)
    client, peer = pair
    assert Wire(native_socket(client)).send_heartbeat(always())
    # frame type 8, channel 0, size 0, frame-end 0xCE: AMQP 0-9-1, 4.2.7
    assert peer.recv(100) == b"\x08\x00\x00\x00\x00\x00\x00\xce" == HEARTBEAT_FRAME


def test_nothing_waits_until_a_byte_or_the_end_is_here(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    client, peer = pair
    wire = Wire(native_socket(client))
    assert wire.nothing_waits()
    peer.sendall(b"x")
    wait_until(lambda: not wire.nothing_waits())
    assert client.recv(10) == b"x"
    assert wire.nothing_waits()
    peer.close()
    wait_until(lambda: not wire.nothing_waits())
    client.close()
    assert not wire.nothing_waits()


@linux
def test_ages_come_from_the_kernel_and_count_unread_bytes(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    client, peer = pair
    wire = Wire(native_socket(client))
    assert wire.has_tcp_info
    wait_until(lambda: wire.kernel_view().sent_ago > 0.05)
    peer.sendall(b"unread")
    wait_until(lambda: wire.unread() == 6)
    assert wire.kernel_view().received_ago < wire.kernel_view().sent_ago
    wire.send_heartbeat(always())
    assert wire.kernel_view().sent_ago < 0.05


@linux
def test_the_queue_is_empty_once_the_peer_has_acknowledged(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    client, peer = pair
    wire = Wire(native_socket(client))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    fill(client)
    assert wire.kernel_view().queued > 0
    assert wire.queued() > 0
    peer.settimeout(5)
    while wire.queued():
        peer.recv(1 << 20)
    wait_until(lambda: wire.kernel_view().queued == 0)


@linux
def test_little_that_waits_unread_cannot_have_closed_the_window(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    client, peer = pair
    wire = Wire(native_socket(client))
    assert wire.unread_in_the_way() == 0
    peer.sendall(b"unread")
    wait_until(lambda: wire.unread() == 6)
    assert wire.unread_in_the_way() == 0
    fill(peer)
    wait_until(lambda: wire.unread_in_the_way() > 6)


@linux
def test_a_small_receive_buffer_may_be_closed_by_anything(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    client, peer = pair
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    wire = Wire(native_socket(client))
    peer.sendall(b"unread")
    wait_until(lambda: wire.unread_in_the_way() == 6)


@pytest.mark.parametrize("calls", [gil_keeping_calls(), None], ids=["ctypes", "socket"])
def test_whole_heartbeats_are_taken_and_everything_else_is_left(
    pair: tuple[socket.socket, socket.socket], calls: Calls | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hbshim.heartbeat.wire.gil_keeping_calls", lambda: calls)
    client, peer = pair
    wire = Wire(native_socket(client))
    frame = b"\x01\x00\x01\x00\x00\x00\x00\xce"
    peer.sendall(HEARTBEAT_FRAME * 3 + frame + HEARTBEAT_FRAME)
    wait_until(lambda: wire.unread() == 40)
    assert wire.take_heartbeats(always()) == 3
    assert wire.take_heartbeats(always()) == 0
    assert client.recv(100) == frame + HEARTBEAT_FRAME


def test_half_a_heartbeat_is_left_where_it_is(pair: tuple[socket.socket, socket.socket]) -> None:
    client, peer = pair
    wire = Wire(native_socket(client))
    peer.sendall(HEARTBEAT_FRAME + HEARTBEAT_FRAME[:5])
    wait_until(lambda: wire.unread() == 13)
    assert wire.take_heartbeats(always()) == 1
    assert client.recv(100) == HEARTBEAT_FRAME[:5]


@pytest.mark.parametrize("calls", [gil_keeping_calls(), None], ids=["ctypes", "socket"])
def test_taking_never_blocks_even_on_a_socket_with_a_timeout(
    pair: tuple[socket.socket, socket.socket], calls: Calls | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hbshim.heartbeat.wire.gil_keeping_calls", lambda: calls)
    client, _ = pair
    client.settimeout(30)
    assert Wire(native_socket(client)).take_heartbeats(always()) == 0


@pytest.mark.parametrize("calls", [gil_keeping_calls(), None], ids=["ctypes", "socket"])
def test_a_heartbeat_on_a_full_queue_is_put_off_and_on_a_lost_connection_fails(
    pair: tuple[socket.socket, socket.socket], calls: Calls | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hbshim.heartbeat.wire.gil_keeping_calls", lambda: calls)
    client, _ = pair
    wire = Wire(native_socket(client))
    fill(wire.native)
    assert wire.send_heartbeat(always()) is False
    wire.shut_both()
    with pytest.raises(OSError):
        wire.send_heartbeat(always())


@linux
@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
def test_a_closed_peer_is_seen_without_reading(
    pair: tuple[socket.socket, socket.socket], reset: bool
) -> None:
    client, peer = pair
    wire = Wire(native_socket(client))
    if reset:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    peer.close()
    wait_until(lambda: wire.kernel_view().peer_closed)


def test_shut_write_fails_the_next_write_and_keeps_the_last_words(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    client, peer = pair
    peer.sendall(b"connection.close")
    peer.shutdown(socket.SHUT_WR)
    wire = Wire(native_socket(client))
    wait_until(lambda: wire.unread() == 16)
    wire.shut_write()
    with pytest.raises(BrokenPipeError):
        client.send(b"publish")
    assert client.recv(100) == b"connection.close"


def test_dropping_a_copy_sends_nothing_to_the_peer(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    client, peer = pair
    copy = socket.socket(fileno=os.dup(client.fileno()))
    wire = Wire(native_socket(copy))
    wire.drop()
    assert wire.closed
    client.sendall(b"still here")
    assert peer.recv(100) == b"still here"


def test_without_tcp_info_a_closed_peer_is_still_seen(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    client, peer = pair
    wire = Wire(native_socket(client), tcp_info=False)
    assert not wire.has_tcp_info
    assert not wire.peer_closed()
    peer.close()
    wait_until(wire.peer_closed)


@pytest.fixture(params=[True, False], ids=["cookie", "inode"])
def reused(
    request: pytest.FixtureRequest,
    pair: tuple[socket.socket, socket.socket],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[tuple[Wire, socket.socket]]:
    """A wire whose descriptor's number was given to another connection, and that one's peer."""
    if not request.param:
        monkeypatch.setattr(wire_module, "_SO_COOKIE", None)
    client, _ = pair
    copy = socket.socket(fileno=os.dup(client.fileno()))
    wire = Wire(native_socket(copy))
    assert not wire.reused
    ours, peer = socket.socketpair()
    os.dup2(ours.fileno(), copy.fileno())  # closes the number, and gives it away
    ours.close()
    peer.setblocking(False)
    yield wire, peer
    copy.close()
    peer.close()


def test_nothing_is_written_to_read_from_or_done_to_what_has_the_number_now(
    reused: tuple[Wire, socket.socket],
) -> None:
    wire, peer = reused
    assert wire.reused
    with pytest.raises(DescriptorReusedError):
        wire.send_heartbeat(always())
    peer.send(HEARTBEAT_FRAME)
    with pytest.raises(DescriptorReusedError):
        wire.take_heartbeats(always())
    wire.shut_write()
    wire.shut_both()
    number = wire.native.fileno()
    wire.drop()
    assert wire.closed
    with pytest.raises(BlockingIOError):
        peer.recv(1)
    with socket.socket(fileno=number) as other:
        assert other.recv(100) == HEARTBEAT_FRAME
        other.sendall(b"still whole")
    assert peer.recv(100) == b"still whole"


def test_a_number_that_was_only_closed_is_not_used_either(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    client, _ = pair
    copy = socket.socket(fileno=os.dup(client.fileno()))
    wire = Wire(native_socket(copy))
    # gevent's own puts it off until its hub runs.
    original("os", "close")(copy.fileno())
    assert wire.reused
    wire.drop()
    assert wire.closed
    assert not wire.reused


@linux
def test_tcp_info_that_is_not_filled_in_is_not_believed(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, _ = pair
    assert not Wire(native_socket(client)).tcp_info_unusable

    def without_segment_sizes(sock: socket.socket, level: int, option: int, size: int) -> bytes:
        answer = bytearray(sock.getsockopt(level, option, size))
        answer[16:20] = answer[60:64] = answer[84:88] = bytes(4)
        return bytes(answer)

    class Answering:
        getsockopt = staticmethod(without_segment_sizes)

    monkeypatch.setattr(wire_module, "NativeSocket", Answering)
    wire = Wire(native_socket(client))
    assert not wire.has_tcp_info
    assert wire.tcp_info_unusable


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTTY, errno.EBADF])
def test_a_kernel_that_does_not_know_a_question_is_no_closed_connection(
    pair: tuple[socket.socket, socket.socket], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, _ = pair

    def refuse(*_: object) -> NoReturn:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.ioctl", refuse)
    wire = Wire(native_socket(client))
    if code == errno.EBADF:
        with pytest.raises(OSError, match="descriptor"):
            wire.queued()
        return
    assert (wire.queued(), wire.unread()) == (0, 1)


@linux
def test_memory_in_use_of_nothing_is_no_answer_while_bytes_wait(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, peer = pair
    wire = Wire(native_socket(client))
    peer.sendall(b"unread")
    wait_until(lambda: wire.unread() == 6)
    assert wire.unread_in_the_way() == 0

    class Unfilled:
        size = 36

        @staticmethod
        def unpack(_answer: object) -> tuple[int, int]:
            return 0, 1 << 20

    monkeypatch.setattr(wire_module, "_MEMINFO", Unfilled)
    assert wire.unread_in_the_way() == 6


@linux
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_what_ended_the_connection_is_not_guessed(
    pair: tuple[socket.socket, socket.socket], reset: bool
) -> None:
    client, peer = pair
    wire = Wire(native_socket(client))
    if reset:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    wait_until(lambda: wire.kernel_view().peer_closed)
    assert wire.why_closed().startswith(
        "the connection was reset, by the broker or" if reset else "the broker closed"
    )


@linux
def test_a_network_that_does_not_deliver_is_not_taken_for_the_broker(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, _ = pair
    wire = Wire(native_socket(client))
    answers = {wire_module._TCP_INFO_OPTION: bytes([7]), socket.SO_ERROR: errno.ETIMEDOUT}
    monkeypatch.setattr(wire_module, "_getsockopt", lambda _, __, option, *___: answers[option])
    assert "the network did not deliver" in wire.why_closed()
    answers[socket.SO_ERROR] = 0  # as after a call of the client's that raised it
    assert "broker" not in wire.why_closed()


@linux
def test_the_limit_for_acknowledgements_in_seconds(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    client, _ = pair
    wire = Wire(native_socket(client))
    assert wire.user_timeout == 0
    wire.user_timeout = 2.5
    assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 2500
    assert wire.user_timeout == 2.5
    client.close()
    assert wire.user_timeout is None
    wire.user_timeout = 1.0


@pytest.mark.skipif(MODEL != "native", reason="a signal handler of Python's own")
def test_no_exception_at_any_instant_leaves_a_system_call_under_way() -> None:
    """Each later write would wait for its end, and no heartbeat would be sent."""
    permit = always()

    def after() -> None:
        assert acting(permit, lambda: "called") == "called"

    assert interrupt_everywhere(lambda: acting(permit, time.monotonic), after)
