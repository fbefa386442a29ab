"""qpid-proton, with a peer of the tests and with RabbitMQ 4."""

from __future__ import annotations

import contextlib
import gc
import math
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import proton
import pytest
from proton import ConnectionException, Endpoint
from proton._handlers import IOHandler
from proton.handlers import MessagingHandler
from proton.reactor import Container
from proton.utils import BlockingConnection

import hbshim
from hbshim.adapters.proton.io import SHORTEST_TIMEOUT
from hbshim.errors import AttachError
from hbshim.heartbeat import service
from hbshim.heartbeat.state import State
from tests.adapters.amqp1_peer import EMPTY_FRAME, Peer, serving, split
from tests.waiting import wait_until

#: What the peer advertises, in milliseconds. It closes after twice that time.
T = 500
Connect = Callable[..., Any]


def link_of(connection: Any) -> Any:
    return connection.conn.transport._selectable.__dict__.get("hbshim_link")


@pytest.fixture
def peer() -> Iterator[Peer]:
    with serving(Peer(T)) as peer:
        yield peer


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Open a connection of proton, without SASL."""
    opened: list[Any] = []

    def connect(peer: Peer, **options: Any) -> Any:
        options = {"url": peer.url, **options}
        connection = BlockingConnection(timeout=10, sasl_enabled=False, **options)
        opened.append(connection)
        return connection

    yield connect
    for connection in opened:
        connection.timeout = 0.1  # proton waits for the Close of a peer that is gone
        with contextlib.suppress(Exception):
            connection.close()


def use(connection: Any) -> None:
    """Let proton read what has arrived."""
    with contextlib.suppress(proton.Timeout):
        connection.wait(lambda: False, timeout=0.1)


def sleep_for(periods: float, peer: Peer) -> None:
    """Do nothing for some of the peer's idle times, as a worker between two requests."""
    until = time.monotonic() + periods * (peer.idle_time_out or 0) / 1000
    wait_until(lambda: time.monotonic() > until)


def test_the_control_is_closed_while_it_sleeps(connect: Connect, peer: Peer) -> None:
    connection = connect(peer)
    wait_until(lambda: peer.closed_after is not None)
    assert peer.heartbeats == 0
    with pytest.raises(ConnectionException):
        connection.create_sender("queue")


def test_a_sleeping_connection_is_kept_alive(connect: Connect, peer: Peer) -> None:
    connection = connect(peer)
    assert hbshim.keep_alive(connection) is connection
    sleep_for(6, peer)
    use(connection)
    assert peer.closed_after is None
    assert peer.heartbeats >= 4
    frames, rest = split(peer.received)
    assert (rest, set(frames[2:])) == (b"", {EMPTY_FRAME})


def test_install_reaches_connections_opened_from_now_on(connect: Connect, peer: Peer) -> None:
    with serving(Peer(60_000)) as other:
        before = connect(other)
        hbshim.install(heartbeat=10)
        connection = connect(peer)
        hbshim.uninstall()
        use(before)
        assert link_of(before) is None
        assert before.conn.transport.idle_timeout == 0
        before.close()
    link = link_of(connection)
    wait_until(lambda: link.heartbeats_sent >= 3)
    connection.close()
    assert link.state is State.CLOSED
    later = connect(peer)
    assert link_of(later) is None
    later.close()


@pytest.mark.parametrize(("heartbeat", "wanted"), [(10, 5.0), (None, None)])
def test_status_shows_the_protocol_and_both_idle_times(
    connect: Connect, heartbeat: float | None, wanted: float | None
) -> None:
    with serving(Peer(2000, closes=False)) as peer:
        connection = connect(peer, heartbeat=heartbeat)
        hbshim.keep_alive(connection)
        name = link_of(connection).name
        (link,) = [link for link in hbshim.status().links if link.name == name]
        found = (link.protocol, link.heartbeat_timeout, link.peer_timeout, link.route)
        assert found == ("AMQP 1.0", 2.0, wanted, "plain")
        connection.close()


NEVER = 2**32 - 1


@pytest.mark.parametrize(
    ("theirs", "heartbeat", "timeout", "silence"),
    [
        (2000, 10, 2.0, 10.0),
        (2000, None, 2.0, math.inf),
        # The peer wants nothing: at our own interval, for what lies between.
        (None, 10, 5.0, 10.0),
        (0, 10, 5.0, 10.0),
        (NEVER, 10, 5.0, 10.0),
        (900, 1.8, 0.9, 1.8),
        (100, None, SHORTEST_TIMEOUT, math.inf),
        (1, None, SHORTEST_TIMEOUT, math.inf),
        (3_600_000, 7200, 3600.0, 7200.0),
    ],
)
def test_the_two_idle_times(
    connect: Connect, theirs: int | None, heartbeat: float | None, timeout: float, silence: float
) -> None:
    with serving(Peer(theirs, closes=False)) as peer:
        connection = connect(peer, heartbeat=heartbeat)
        hbshim.keep_alive(connection)
        link = link_of(connection)
        assert (link.timeout, link.silence) == (timeout, silence)
        # proton would count the pause of the application as the peer's.
        assert connection.conn.transport.idle_timeout == 0
        connection.close()


@pytest.mark.parametrize("theirs", [None, 0, NEVER])
def test_without_any_idle_time_there_is_nothing_to_keep(
    connect: Connect, theirs: int | None, events: Callable[[], list[str]]
) -> None:
    with serving(Peer(theirs)) as peer:
        connection = connect(peer)
        with pytest.raises(AttachError, match="no heartbeat"):
            hbshim.keep_alive(connection)
        connection.close()
        hbshim.install()
        assert link_of(connect(peer)) is None
        assert "not-negotiated" in events()


def test_the_option_heartbeat_is_advertised_for_who_advertises_nothing(connect: Connect) -> None:
    hbshim.install(heartbeat=4)
    with serving(Peer(None)) as peer:
        connection = connect(peer)
        link = link_of(connection)
        assert (link.timeout, link.silence) == (4.0, 8.0)
        assert b"\x70" + (4000).to_bytes(4, "big") in split(peer.received)[0][1]
        connection.close()
        connection = connect(peer, heartbeat=30)
        assert link_of(connection).silence == 30


def test_a_peer_that_wants_more_than_can_be_done_gets_what_can_be_done(connect: Connect) -> None:
    with serving(Peer(100, closes=False)) as peer:
        connection = connect(peer)
        hbshim.keep_alive(connection)
        link, began = link_of(connection), time.monotonic()
        wait_until(lambda: link.heartbeats_sent >= 10)
        # Not in a busy loop.
        assert link.heartbeats_sent <= 2 + 2 * (time.monotonic() - began) / (SHORTEST_TIMEOUT / 2)


def test_a_silent_peer_is_known_within_twice_what_we_advertised(
    connect: Connect, events: Callable[[], list[str]]
) -> None:
    with serving(Peer(60_000)) as peer:
        connection = connect(peer, heartbeat=1)  # proton advertises 0.5 s
        hbshim.keep_alive(connection)
        link, began = link_of(connection), time.monotonic()
        wait_until(lambda: link.state is State.LOST)
        assert time.monotonic() - began < 5
        # Recorded after the state is set, and the socket is shut down.
        wait_until(lambda: "link-silent" in events())
        with pytest.raises(ConnectionException):
            connection.create_sender("queue")


def test_a_pause_of_the_application_is_not_a_silence_of_the_peer(connect: Connect) -> None:
    """The control is proton's own check, which counts the pause."""
    with serving(Peer(60_000, every=0.2)) as peer:
        control = connect(peer, heartbeat=1)
        until = time.monotonic() + 2
        wait_until(lambda: time.monotonic() > until)
        with pytest.raises(ConnectionException, match="local-idle-timeout expired"):
            control.create_sender("queue")
    with serving(Peer(60_000, every=0.2)) as peer:
        connection = connect(peer, heartbeat=1)
        hbshim.keep_alive(connection)
        until = time.monotonic() + 2
        wait_until(lambda: time.monotonic() > until)
        use(connection)
        assert link_of(connection).state is State.ALIVE
        assert connection.conn.transport is not None


def test_a_peer_that_was_asked_for_nothing_may_be_quiet(connect: Connect, peer: Peer) -> None:
    connection = connect(peer)
    hbshim.keep_alive(connection)
    link = link_of(connection)
    wait_until(lambda: link.wire.kernel_view().received_ago > 3 * link.timeout)
    assert link.state is State.ALIVE


def test_nothing_is_taken_off_the_receive_queue(connect: Connect) -> None:
    with serving(Peer(200, closes=False, every=0.05)) as peer:
        connection = connect(peer, heartbeat=60)
        hbshim.keep_alive(connection)
        link = link_of(connection)
        wait_until(lambda: link.heartbeats_sent >= 20)
        assert link.wire.unread() >= 8 * 10
        use(connection)
        assert link.wire.unread() < 8 * 10


def test_a_close_by_the_peer_is_known_before_the_next_write(
    connect: Connect, events: Callable[[], list[str]]
) -> None:
    with serving(Peer(60_000)) as peer:
        connection = connect(peer)
        hbshim.keep_alive(connection)
        link = link_of(connection)
        peer.connection.shutdown(2)
        wait_until(lambda: link.wire.kernel_view().peer_closed)
        with pytest.raises(ConnectionException):
            connection.create_sender("queue")
        assert link.state in (State.LOST, State.CLOSED)


@pytest.mark.parametrize("way", ["install", "keep_alive"])
def test_a_connection_that_its_container_opens_again_is_kept_alive(way: str) -> None:
    if way == "install":
        hbshim.install()
    with serving(Peer(2000)) as peer:
        open_again(peer, way)


def open_again(peer: Peer, way: str) -> None:
    container = Container(MessagingHandler())
    container.timeout = 0.05
    container.start()
    connection = container.connect(peer.url, sasl_enabled=False, reconnect=[0.0, 0.1, 0.1])

    def is_open() -> bool:
        container.process()
        both = Endpoint.LOCAL_ACTIVE | Endpoint.REMOTE_ACTIVE
        return bool(connection.state == both and connection.remote_container)

    wait_until(is_open)
    if way == "keep_alive":
        hbshim.keep_alive(connection)
    links: list[Any] = []
    while len(links) < 3:
        wait_until(lambda: is_open() and peer.opened == len(links) + 1)
        links.append(connection.transport._selectable.hbshim_link)
        wait_until(lambda: links[-1].heartbeats_sent >= 1)
        # proton fails if its deadline passes together with the connection.
        container.process()
        if len(links) < 3:
            peer.connection.shutdown(2)
    assert [link.state for link in links] == [State.CLOSED, State.CLOSED, State.ALIVE]
    assert peer.closed_after is None
    connection.close()
    wait_until(lambda: not container.process())
    assert links[-1].state is State.CLOSED


def test_a_deadline_that_passes_as_the_connection_ends_is_no_error() -> None:
    """proton calls `update` without a transport then, and fails."""
    hbshim.install()
    update: Any = IOHandler.update
    with pytest.raises(AttributeError):
        update.__wrapped__(None, None, 0.0)
    update(None, None, 0.0)


def test_a_closed_connection_leaves_nothing_behind(connect: Connect, peer: Peer) -> None:
    before = set(os.listdir("/proc/self/fd"))
    connection = connect(peer)
    hbshim.keep_alive(connection)
    link = link_of(connection)
    descriptor = link.wire.native.fileno()
    connection.close()
    assert link.state is State.CLOSED
    assert link not in service.current().links()
    assert link.wire.native.fileno() == -1
    assert str(descriptor) not in set(os.listdir("/proc/self/fd")) - before
    frames, rest = split(peer.received)
    assert frames[-1][8:11] == b"\x00\x53\x18"
    assert rest == b""


def test_it_is_collected_as_without_hbshim(connect: Connect, peer: Peer) -> None:
    import weakref

    connection = BlockingConnection(peer.url, timeout=10, sasl_enabled=False)
    hbshim.keep_alive(connection)
    alive = [weakref.ref(link_of(connection)), weakref.ref(connection.conn.transport._selectable)]
    connection.close()
    del connection

    def is_collected() -> bool:
        gc.collect()
        return not any(reference() for reference in alive)

    # A check of the link that runs just now refers to it.
    wait_until(is_collected)


def test_what_is_not_open_is_refused(connect: Connect, peer: Peer) -> None:
    connection = connect(peer)
    connection.close()
    with pytest.raises(AttachError, match="not open"):
        hbshim.keep_alive(connection)


def test_a_connection_that_was_reset_is_refused(connect: Connect, peer: Peer) -> None:
    connection = connect(peer)
    peer.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.connection.close()

    def is_reset() -> bool:
        with contextlib.suppress(OSError):
            connection.conn.transport._selectable._delegate.getpeername()
            return False
        return True

    wait_until(is_reset)
    with pytest.raises(AttachError, match="has ended"):
        hbshim.keep_alive(connection)


def test_options_of_an_open_connection_can_be_changed(connect: Connect, peer: Peer) -> None:
    connection = connect(peer)
    hbshim.keep_alive(connection)
    hbshim.keep_alive(connection.conn, liveness_timeout=60)
    assert link_of(connection).liveness_timeout == 60
    assert len([link for link in service.current().links() if link is link_of(connection)]) == 1


@pytest.mark.parametrize("sends", [0, 5, None], ids=["nothing", "a part", "all"])
def test_a_write_that_is_broken_off_ends_the_stream(
    connect: Connect, peer: Peer, events: Callable[[], list[str]], sends: int | None
) -> None:
    """Unless it is known what was sent, nothing may follow, whatever was."""
    connection = connect(peer)
    selectable = connection.conn.transport._selectable
    send = selectable._delegate.send

    def send_and_raise(data: bytes) -> int:
        send(data[:sends])
        raise KeyboardInterrupt

    selectable.send = send_and_raise
    hbshim.keep_alive(connection)
    link = link_of(connection)
    with pytest.raises(KeyboardInterrupt):
        connection.create_sender("queue")
    assert (link.state, link.guard.torn) == (State.LOST, True)
    assert "write-broken-off" in events()
    sent = link.heartbeats_sent
    with pytest.raises(ConnectionException):
        connection.create_sender("queue")
    assert link.heartbeats_sent == sent


def test_a_socket_that_takes_nothing_is_not_torn(connect: Connect, peer: Peer) -> None:
    connection = connect(peer)
    selectable = connection.conn.transport._selectable

    def refuse(_data: bytes) -> int:
        raise BlockingIOError

    selectable.send = refuse
    hbshim.keep_alive(connection)
    link = link_of(connection)
    with pytest.raises(ConnectionException):  # as without hbshim
        connection.create_sender("queue")
    assert not link.guard.torn
