"""A memory alarm: RabbitMQ reads nothing more from publishers, and continues to send heartbeats.

Measured on RabbitMQ 3.10 and held here: while it blocks a publisher, its own
heartbeats keep coming every T/2 and it expects none. So a peer that closed its
window and still acknowledges needs no excuse from the dead-peer rule.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.system.conftest import MODELS, RemoteClient
from wsgi_harness.stack.broker import Broker
from wsgi_harness.wire.relay import Relay

T = 2
BODY = 100_000
#: More than every buffer on the way holds.
BODIES = 150


@pytest.fixture
def broker(own_broker: Broker) -> Broker:
    """In place of the shared one, where an alarm would block every publisher."""
    return own_broker


def test_a_writer_stuck_for_several_t(
    start: Callable[..., RemoteClient], broker: Broker, memory_alarm: Callable[[], None]
) -> None:
    cells = [(model, library) for model in MODELS for library in ("kombu", "pika")]
    with Relay(broker.host, broker.amqp_port) as relay:
        clients = [start(*cell) for cell in cells]
        for number, client in enumerate(clients, 1):
            # Without its own timeout of a second, py-amqp lives to see the end.
            client.open(relay, heartbeat=T, patient=True)
            client.send("publish", size=BODY, times=BODIES)
            relay.wait_for("blocked", "server", count=number)
        since = len(relay.seen("heartbeat", "server"))
        # As many heartbeats as 4 T take, while nothing is read from anybody.
        relay.wait_for("heartbeat", "server", count=since + 8 * len(clients), limit=60)
        assert relay.seen("closed") == []
        memory_alarm()
        for client in clients:
            client.answer()
            client.wait_for_messages(BODIES)
            assert client.link["state"] == "alive", client.name
        assert relay.seen("closed") == relay.errors == []


def test_py_amqp_gives_up_by_itself_after_a_second(
    start: Callable[..., RemoteClient], memory_alarm: Callable[[], None]
) -> None:
    """Not hbshim's doing: py-amqp sets TCP_USER_TIMEOUT, and the kernel obeys."""
    client = start("native", "kombu")
    client.open(heartbeat=60, shim="none")
    assert client.fails("publish", size=BODY, times=BODIES).recoverable
