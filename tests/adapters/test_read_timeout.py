"""py-amqp's own ``read_timeout`` and ``write_timeout`` end what they end without hbshim."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import amqp
import pytest

import hbshim
from tests.concurrency import MODEL
from wsgi_harness.stack.broker import Broker
from wsgi_harness.wire.relay import Relay

# py-amqp leaves both to the kernel, and a green socket never waits in the kernel: a read that
# nothing ends goes on for ever there, with hbshim and without.
pytestmark = pytest.mark.skipif(MODEL != "native", reason="the kernel's timeouts of a socket")

#: Seconds. More than half of T, so that heartbeats of the broker come in between.
READ_TIMEOUT = 3.0
T = 4


def outcome(call: Callable[[], Any]) -> tuple[str, float]:
    """What `call` raises, and after how many seconds."""
    began = time.monotonic()
    try:
        call()
    except Exception as error:
        return type(error).__name__, time.monotonic() - began
    return "nothing", time.monotonic() - began


@pytest.fixture
def opened(broker: Broker) -> Iterator[Callable[..., Any]]:
    made: list[Any] = []

    def connect(**options: Any) -> Any:
        host = f"{broker.host}:{broker.amqp_port}"
        connection = amqp.Connection(host, broker.user, broker.password, **options)
        connection.connect()
        made.append(connection)
        return connection

    yield connect
    for connection in made:
        connection.collect()


@pytest.mark.parametrize("heartbeat", [0, T])
def test_a_read_ends_as_without_hbshim(opened: Callable[..., Any], heartbeat: int) -> None:
    """Shorter than the time between two heartbeats of the broker."""
    stock = opened(read_timeout=1.0, heartbeat=heartbeat)
    kept = opened(read_timeout=1.0, heartbeat=T)
    hbshim.keep_alive(kept)
    expected, seconds = outcome(stock.drain_events)
    assert (expected, seconds >= 1.0) == ("TimeoutError", True)
    assert outcome(kept.drain_events)[0] == expected
    # Both can be used after it.
    for connection in (stock, kept):
        assert connection.channel().is_open


def test_heartbeats_that_hbshim_asks_for_do_not_extend_it(opened: Callable[..., Any]) -> None:
    """Without hbshim there were none. The alarm ends what would go on for ever."""
    stock = opened(read_timeout=READ_TIMEOUT)
    hbshim.install(heartbeat=T)
    try:
        kept = opened(read_timeout=READ_TIMEOUT)
    finally:
        hbshim.uninstall()
    assert kept.heartbeat == T
    alarm = threading.Timer(60, lambda: kept._transport.sock.shutdown(socket.SHUT_RDWR))
    alarm.daemon = True
    alarm.start()
    try:
        found, seconds = outcome(kept.drain_events)
    finally:
        alarm.cancel()
    assert found == outcome(stock.drain_events)[0] == "TimeoutError"
    assert seconds >= READ_TIMEOUT
    assert kept.channel().is_open


def test_heartbeats_that_the_application_asks_for_extend_it_as_without_hbshim(
    opened: Callable[..., Any],
) -> None:
    stock = opened(read_timeout=READ_TIMEOUT, heartbeat=T)
    kept = opened(read_timeout=READ_TIMEOUT, heartbeat=T)
    hbshim.keep_alive(kept)
    found: list[str] = []

    def read(connection: Any) -> None:
        found.append(outcome(connection.drain_events)[0])

    # The broker closes the one that sends no heartbeats; the other one goes on.
    threads = [threading.Thread(target=read, args=(each,), daemon=True) for each in (stock, kept)]
    for thread in threads:
        thread.start()
    threads[0].join(60)
    assert not threads[0].is_alive()
    assert threads[1].is_alive()
    kept._transport.sock.shutdown(socket.SHUT_RDWR)
    threads[1].join(60)
    assert len(found) == 2
    assert "TimeoutError" not in found


@pytest.mark.parametrize("kept", [False, True], ids=["stock", "kept alive"])
def test_a_write_ends_as_without_hbshim(broker: Broker, kept: bool) -> None:
    """To a peer that reads nothing: the kernel's timer, which the application has set."""
    with Relay(broker.host, broker.amqp_port) as relay:
        host = f"127.0.0.1:{relay.port}"
        connection = amqp.Connection(
            host,
            broker.user,
            broker.password,
            write_timeout=1.0,
            # Else py-amqp's own second for this one may be over first.
            socket_settings={socket.TCP_USER_TIMEOUT: 60_000},
        )
        connection.connect()
        sock = connection._transport.sock
        try:
            if kept:
                connection.heartbeat = 60
                hbshim.keep_alive(connection)
            channel = connection.channel()
            relay.deaf()
            body = amqp.Message(b"x" * 64 * 1024 * 1024)
            found, seconds = outcome(lambda: channel.basic_publish(body, "", "nowhere"))
            assert (found, seconds >= 1.0) == ("BlockingIOError", True)
        finally:
            connection.collect()
            # After an error of its own py-amqp lets go of it without closing it.
            sock.close()
