"""The way without Linux's TCP_INFO and SIOCOUTQ, with a double of macOS's socket options.

The double stands for the C type beneath the sockets and answers ``SO_NWRITE``, the bytes in the
send buffer, from Linux's own count; it refuses every other question, as macOS does.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import sys
import termios
import time
import types
from _socket import socket as native_type
from typing import Any

import pytest

from hbshim.adapters.sockets import native_socket
from hbshim.heartbeat import wire as wire_module
from hbshim.heartbeat.link import Link
from hbshim.heartbeat.state import State
from hbshim.heartbeat.wire import HEARTBEAT_FRAME, Wire
from hbshim.metrics import Metrics
from tests.waiting import wait_until

#: <sys/socket.h> of macOS.
SO_NWRITE = 0x1024

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the double asks Linux")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The socket options that were asked for, on a process that takes itself for macOS."""
    questions = []

    class Double(native_type):
        @staticmethod
        def getsockopt(  # type: ignore[override]  # as the engine calls it: on the class
            sock: socket.socket, level: int, option: int, *size: object
        ) -> int:
            questions.append((level, option))
            if (level, option) != (socket.SOL_SOCKET, SO_NWRITE):
                raise OSError(errno.ENOPROTOOPT, os.strerror(errno.ENOPROTOOPT))
            answer = fcntl.ioctl(native_type.fileno(sock), termios.TIOCOUTQ, struct.pack("i", 0))
            return struct.unpack("i", answer)[0]

    monkeypatch.setattr(wire_module, "NativeSocket", Double)
    monkeypatch.setattr(wire_module, "_getsockopt", Double.getsockopt)
    monkeypatch.setattr(wire_module, "sys", types.SimpleNamespace(platform="darwin"))
    for name in ("_USER_TIMEOUT", "_SIOCOUTQ", "_SO_MEMINFO", "_SO_COOKIE"):
        monkeypatch.setattr(wire_module, name, None)
    return questions


@pytest.fixture
def link(asked: list[Any], connected: tuple[socket.socket, socket.socket]) -> Link:
    client, _ = connected
    return Link(Wire(native_socket(client)), 8, "test", Metrics())


def test_nothing_of_linux_is_asked_for(link: Link, asked: list[Any]) -> None:
    assert not link.wire.has_tcp_info
    assert not link.wire.tcp_info_unusable, "reported as a broken Linux"
    link.check(time.monotonic() + 4)
    assert set(asked) == {(socket.SOL_SOCKET, SO_NWRITE)}


def test_a_heartbeat_goes_out_after_half_of_t_as_the_guard_counts_it(
    link: Link, connected: tuple[socket.socket, socket.socket]
) -> None:
    _, peer = connected
    now = time.monotonic()
    assert link.check(now + 1) <= now + 4.5  # type: ignore[operator]
    assert link.heartbeats_sent == 0
    link.check(now + 4.5)
    assert link.heartbeats_sent == 1
    assert peer.recv(100) == HEARTBEAT_FRAME


def test_no_heartbeat_joins_a_queue_that_is_not_empty(
    link: Link, connected: tuple[socket.socket, socket.socket]
) -> None:
    client, peer = connected
    client.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            client.send(bytes(65536))
    assert link.wire.queued() > 0
    now = time.monotonic()
    link.check(now + 4.5)
    assert link.heartbeats_sent == 0
    peer.setblocking(False)

    def drained() -> bool:
        try:
            while peer.recv(1 << 20):
                pass
        except BlockingIOError:
            return link.wire.queued() == 0
        return False

    wait_until(drained)
    link.check(now + 5)
    assert link.heartbeats_sent == 1
    assert peer.recv(100) == HEARTBEAT_FRAME


def test_a_peer_that_closed_is_seen(
    link: Link, connected: tuple[socket.socket, socket.socket]
) -> None:
    _, peer = connected
    peer.close()
    wait_until(link.wire.peer_closed)
    link.check(time.monotonic() + 1)
    assert link.state is State.LOST


def test_a_peer_that_is_silent_for_2_t_is_dead(link: Link) -> None:
    now = time.monotonic()
    for seconds in (4.5, 9, 13.5):
        link.check(now + seconds)
        assert link.state is State.ALIVE
    link.check(now + 16.5)
    assert link.state is State.LOST


def test_a_descriptor_that_another_socket_has_now_is_noticed(
    link: Link, connected: tuple[socket.socket, socket.socket]
) -> None:
    ours, other = socket.socketpair()
    with ours, other:
        os.dup2(ours.fileno(), connected[0].fileno())
        assert link.wire.reused
        link.check(time.monotonic() + 4.5)
        assert link.heartbeats_sent == 0
