"""The ways in which the relay breaks a network, on real TCP sockets."""

from __future__ import annotations

import socket
import time

import pytest

from tests.waiting import wait_until
from tests.wsgi_harness.wire.conftest import LIMIT, connected
from wsgi_harness.wire.relay import Relay

#: Long enough for the relay to do what it must not; nothing is waited for that it must do.
NEVER = 0.4


def unacknowledged(sock: socket.socket) -> int:
    """Segments in flight, from TCP_INFO."""
    return int.from_bytes(
        sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[24:28], "little"
    )


def hears_nothing(sock: socket.socket) -> bool:
    sock.settimeout(NEVER)
    try:
        return not sock.recv(1)
    except TimeoutError:
        return True
    finally:
        sock.settimeout(LIMIT)


def test_deaf_one_way_passes_the_other(relay: Relay, listener: socket.socket) -> None:
    with connected(relay.port, listener) as (client, broker):
        relay.deaf(sides=["client"])
        client.sendall(b"AMQP")
        broker.sendall(b"x")
        assert client.recv(1) == b"x"
        assert hears_nothing(broker)
        relay.deaf(sides=["server"])
        broker.sendall(b"y")
        assert broker.recv(4) == b"AMQP"
        assert hears_nothing(client)
        relay.resume()
        assert client.recv(1) == b"y"


def test_deaf_one_way_still_passes_the_brokers_end(relay: Relay, listener: socket.socket) -> None:
    with connected(relay.port, listener) as (client, broker):
        relay.deaf(sides=["client"])
        broker.close()
        assert client.recv(1) == b""


def test_vanished_acknowledges_nothing_and_comes_back(
    relay: Relay, listener: socket.socket
) -> None:
    with connected(relay.port, listener) as (client, broker):
        relay.vanish()
        client.sendall(b"AMQP")
        broker.sendall(b"x")
        assert hears_nothing(broker)
        assert unacknowledged(client) == 1
        assert hears_nothing(client)
        with pytest.raises(TimeoutError):
            socket.create_connection(("127.0.0.1", relay.port), NEVER)
        relay.resume()
        # The kernels send again what was dropped: nothing is lost by a short absence.
        assert (broker.recv(4), client.recv(1)) == (b"AMQP", b"x")
        wait_until(lambda: unacknowledged(client) == 0)


def test_an_idle_client_is_forgotten_for_good_and_a_busy_one_is_not(
    relay: Relay, listener: socket.socket
) -> None:
    with (
        connected(relay.port, listener) as (idle, _),
        connected(relay.port, listener) as (busy, broker),
    ):
        relay.forget_idle(1.0)
        end = time.monotonic() + 2.0
        while time.monotonic() < end:
            busy.sendall(b"AMQP")
            broker.recv(4)
            time.sleep(0.1)
        assert [event.connection for event in relay.seen("forgotten")] == [1]
        idle.sendall(b"AMQP")
        relay.forget_idle(None)
        relay.resume()
        time.sleep(NEVER)
        assert unacknowledged(idle) == 1
        assert relay.seen("closed") == []


def test_reset_ends_all_and_accepts_anew(relay: Relay, listener: socket.socket) -> None:
    with connected(relay.port, listener) as (client, _):
        relay.reset()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    with connected(relay.port, listener) as (client, broker):
        broker.sendall(b"x")
        assert client.recv(1) == b"x"


def test_a_broker_that_moved(relay: Relay, listener: socket.socket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.settimeout(LIMIT)
        relay.dial_to(*elsewhere.getsockname())
        with connected(relay.port, elsewhere) as (client, broker):
            broker.sendall(b"x")
            assert client.recv(1) == b"x"
