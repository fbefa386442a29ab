"""pyngus, with which oslo.messaging 14 drives proton; its user has the socket and the loop."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pyngus
import pytest

import hbshim
from hbshim.heartbeat.state import State
from tests.adapters.amqp1_peer import EMPTY_FRAME, Peer, is_kind, serving, split
from tests.concurrency import MODEL
from tests.native_fork import fork_in_c
from tests.waiting import wait_until

#: What the peer advertises, in milliseconds. It closes after twice that time.
T = 500


class Socket(socket.socket):
    """A socket whose call to send is interrupted after it has sent, on demand."""

    interrupts = False

    def send(self, data: Any, *flags: int) -> int:
        sent = super().send(data, *flags)
        if self.interrupts:
            raise KeyboardInterrupt
        return sent


class Client:
    """A connection with its socket, as oslo.messaging's driver has it."""

    def __init__(self, peer: Peer, **properties: Any) -> None:
        url = urlsplit(peer.url)
        self.socket = Socket()
        self.socket.connect((url.hostname, url.port))
        self.socket.setblocking(False)
        self.connection: Any = pyngus.Container("client").create_connection(
            "connection", pyngus.ConnectionEventHandler(), properties
        )
        self.connection.open()
        wait_until(lambda: self.run() or self.connection.active)
        self.run()

    @property
    def link(self) -> Any:
        guarded = self.connection.__dict__.get("hbshim_socket")
        return None if guarded is None else guarded.link

    @property
    def advertised(self) -> float:
        """What proton's own check is set to, in seconds."""
        return float(self.connection.pn_transport.idle_timeout)

    def run(self) -> None:
        """Send and receive what there is."""
        while select.select([self.socket], [], [], 0)[0]:
            if pyngus.read_socket_input(self.connection, self.socket) <= 0:
                break
        self.connection.process(time.monotonic())
        while self.connection.has_output > 0:
            if pyngus.write_socket_output(self.connection, self.socket) <= 0:
                break

    def close(self) -> None:
        with contextlib.closing(self.socket):
            self.connection.close()
            self.run()
            self.connection.destroy()


@pytest.fixture
def peer() -> Iterator[Peer]:
    with serving(Peer(T)) as peer:
        yield peer


@pytest.fixture
def connect() -> Iterator[Callable[..., Client]]:
    opened: list[Client] = []

    def connect(peer: Peer, **properties: Any) -> Client:
        opened.append(Client(peer, **properties))
        return opened[-1]

    yield connect
    for client in opened:
        with contextlib.suppress(Exception):
            client.close()


Connect = Callable[..., Client]


def test_the_control_is_closed_while_its_loop_stands_still(connect: Connect, peer: Peer) -> None:
    client = connect(peer)
    wait_until(lambda: peer.closed_after is not None)
    assert client.link is None


def test_a_connection_is_kept_alive_while_its_loop_stands_still(
    connect: Connect, peer: Peer
) -> None:
    hbshim.install()
    client = connect(peer)
    wait_until(lambda: client.link.heartbeats_sent >= 6)
    assert (peer.closed_after, client.link.state) == (None, State.ALIVE)
    client.close()
    assert client.link.state is State.CLOSED
    wait_until(lambda: is_kind(split(peer.received)[0][-1], 0x18))
    frames, rest = split(peer.received)
    assert (rest, set(frames[2:-1])) == (b"", {EMPTY_FRAME})


def test_a_closed_socket_ends_its_link(connect: Connect, peer: Peer) -> None:
    hbshim.install()
    client = connect(peer)
    link = client.link
    client.socket.close()
    wait_until(lambda: link.state is State.CLOSED)


@pytest.mark.parametrize(("own", "silence"), [(None, 8.0), (30, 30.0)])
def test_the_option_heartbeat_is_advertised_for_who_advertises_nothing(
    connect: Connect, own: int | None, silence: float
) -> None:
    hbshim.install(heartbeat=4)
    with serving(Peer(2000)) as peer:
        client = connect(peer, **({} if own is None else {"idle-time-out": own}))
        assert (client.link.timeout, client.link.silence) == (2.0, silence)
        # proton would count the pause of the application as the peer's.
        assert client.advertised == 0
        client.close()


def test_a_close_by_the_peer_is_known_before_the_next_write(connect: Connect) -> None:
    hbshim.install()
    with serving(Peer(60_000)) as peer:
        client = connect(peer)
        peer.connection.shutdown(socket.SHUT_RDWR)
        guard, view = client.link.guard, client.link.wire.kernel_view
        wait_until(lambda: view().peer_closed and time.monotonic() - guard.last_write > 0.2)
        client.connection.create_sender("source", "target").open()
        with pytest.raises(OSError):
            pyngus.write_socket_output(client.connection, client.socket)
        assert client.link.state is State.LOST


def test_a_write_that_is_broken_off_ends_the_stream(connect: Connect, peer: Peer) -> None:
    hbshim.install()
    client = connect(peer)
    client.connection.create_sender("source", "target").open()
    client.socket.interrupts = True
    with pytest.raises(KeyboardInterrupt):
        pyngus.write_socket_output(client.connection, client.socket)
    assert (client.link.guard.torn, client.link.state) == (True, State.LOST)
    client.socket.interrupts = False


@pytest.mark.skipif(MODEL != "native", reason="forks beside a native thread")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("fork", [os.fork, fork_in_c])
def test_a_child_that_uses_the_connection_is_told_and_the_parent_goes_on(
    connect: Connect, peer: Peer, fork: Callable[[], int]
) -> None:
    hbshim.install()
    client = connect(peer)
    reads, writes = os.pipe()
    pid = fork()
    if not pid:
        signal.alarm(20)
        client.connection.create_sender("source", "target").open()
        for io in (pyngus.write_socket_output, pyngus.read_socket_input):
            try:
                io(client.connection, client.socket)
                os.write(writes, b"done ")
            except OSError as error:
                os.write(writes, b"told " if "before a fork" in str(error) else b"other ")
        os._exit(0)
    os.close(writes)
    with open(reads, "rb") as answers:
        assert answers.read() == b"told told "
    assert os.waitpid(pid, 0)[1] == 0
    sent = client.link.heartbeats_sent
    wait_until(lambda: client.link.heartbeats_sent >= sent + 3)
    assert (peer.closed_after, client.link.state) == (None, State.ALIVE)
    assert set(split(peer.received)[0][2:]) == {EMPTY_FRAME}
