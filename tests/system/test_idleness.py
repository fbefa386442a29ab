"""Days of idleness, accelerated: a client that reads nothing must not look dead, nor die.

The broker's heartbeats pile up unread until the receive window closes; then the
broker cannot speak any more, and after some time gives up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.system.conftest import CommandError, RemoteClient
from tests.waiting import holds_at_some_scale, wait_until
from wsgi_harness.observe import observer
from wsgi_harness.stack.broker import Broker
from wsgi_harness.wire.relay import Relay

# A dozen clients and a relay that sends sixty times what a broker does.
pytestmark = pytest.mark.alone

T = 1
#: The kernel doubles it.
SMALL = 4096
WINDOWS = 3 * 2 * SMALL


@pytest.fixture
def hurrying_relay(broker: Broker) -> Iterator[Relay]:
    """Each heartbeat of the broker is followed by many more."""
    with Relay(broker.host, broker.amqp_port, send_buffer=4096) as relay:
        relay.repeat_heartbeats(60)
        yield relay


@pytest.mark.extended
def test_publishers_that_do_not_read(everywhere: list[RemoteClient], hurrying_relay: Relay) -> None:
    for client in everywhere:
        client.open(hurrying_relay, heartbeat=T, receive_buffer=SMALL)

    def drained() -> list[int]:
        counters = [client.do("report")["counters"] for client in everywhere]
        return [8 * counter.get("heartbeats_drained", 0) for counter in counters]

    wait_until(lambda: min(drained()) > WINDOWS, 90)
    assert hurrying_relay.seen("closed") == []
    for client in everywhere:
        assert client.wait_until_at_broker()
        assert client.link["state"] == "alive", client.name
        client.do("publish")
        client.wait_for_messages(1)


def test_without_draining_the_window_closes(
    start: Callable[..., RemoteClient], hurrying_relay: Relay
) -> None:
    clients = [start("native", library) for library in ("kombu", "pika")]
    for client in clients:
        client.open(hurrying_relay, heartbeat=T, receive_buffer=SMALL)
        client.do("stop_draining")
    for client in clients:
        wait_until(lambda client=client: client.link["received_ago"] > 2 * T, 30)  # type: ignore[misc]
        # Not the broker's silence: its bytes are here, unread.
        assert client.link["unread"] > 0, client.name


def test_consumers_whose_callback_takes_10_t_with_their_queue_full(
    start: Callable[..., RemoteClient],
) -> None:
    """At more than one T: a machine on which a process does not run for T ends its connection."""

    def check(t: float) -> None:
        clients_are_kept(start, int(t))

    holds_at_some_scale(check, T, 3 * T)


def clients_are_kept(start: Callable[..., RemoteClient], t: int) -> None:
    cells = [("native", "block"), ("native", "cpu"), ("eventlet", "hub"), ("gevent", "hub")]
    clients = [
        (start(model, library), how) for model, how in cells for library in ("kombu", "pika")
    ]
    for client, _ in clients:
        client.open(heartbeat=t, receive_buffer=SMALL)
        client.send("publish", size=1000, times=2000)
    for client, _ in clients:
        client.answer()
        client.wait_for_messages(2000)
    names = {client: client.wait_until_at_broker() for client, _ in clients}
    for client, how in clients:
        client.send("consume", callback=10 * t, total=2000, how=how)
    for client, name in names.items():
        assert answer_or_evidence(client) == 2000, client.name
        assert client.wait_until_at_broker() == name
        assert client.link["state"] == "alive", client.name


def answer_or_evidence(client: RemoteClient) -> Any:
    """Return the client's answer; where it has lost its connection, show both sides of that."""
    try:
        return client.answer()
    except CommandError as error:
        log = observer.without_colour(client.broker.log())
        last = [number for number, line in enumerate(log) if client.name in line][-1:]
        about = log[last[0] - 10 : last[0] + 20] if last else log[-40:]
        raise AssertionError("\n".join([str(error), str(client.do("report")), *about])) from error
