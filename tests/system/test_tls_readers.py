"""A consumer over TLS that reads all the time and writes nothing must be kept alive all the same.

The heartbeat needs the SSL object, and the consumer is nearly always inside it: each read
lingers there.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from pathlib import Path

import pika
import pytest

from tests.system.conftest import MODELS, RemoteClient
from wsgi_harness.observe import observer
from wsgi_harness.stack.broker import Broker

# A fleet of processes on two cores.
pytestmark = pytest.mark.alone

T = 1
LIBRARIES = ("amqp", "pika")
#: RabbitMQ closes between 2 and 3 T after the last byte from the client.
SECONDS = 6 * T
LINGER = 0.002
BODY = bytes(20_000)


def test_consumers_that_only_read_are_kept_alive(
    broker: Broker, start: Callable[..., RemoteClient], tmp_path: Path
) -> None:
    ca_file = tmp_path / "ca.pem"
    assert broker.ca_pem
    ca_file.write_text(broker.ca_pem)
    clients = [start(model, library, "tls_agent.py") for model in MODELS for library in LIBRARIES]
    for client in clients:
        opening = {
            "host": "127.0.0.1",
            "port": broker.tls_port,
            "user": broker.user,
            "password": broker.password,
            "heartbeat": T,
            "ca_file": str(ca_file),
            "name": client.name,
        }
        client.send("open_all", openings=[opening], options={"worker": "pthread"}, linger=LINGER)
    queues = [client.answer()[0]["queue"] for client in clients]
    over = threading.Event()
    publisher = threading.Thread(target=publish_until, args=(over, broker, queues))
    publisher.start()
    try:
        for client in clients:
            client.send("listen_all", seconds=SECONDS)
        results = [client.answer()[0] for client in clients]
    finally:
        over.set()
        publisher.join(30)
    log = observer.read_log(observer.without_colour(broker.log()))
    for client, result in zip(clients, results, strict=True):
        assert result["error"] is None, (client.name, result)
        assert result["consumed"] > SECONDS, client.name
        assert not log[client.name].missed_heartbeats, client.name
        link = client.link
        assert link["state"] == "alive", client.name
        # Half of those that were due, for a busy machine.
        assert link["heartbeats_sent"] >= SECONDS / T, client.name


def publish_until(over: threading.Event, broker: Broker, queues: list[str]) -> None:
    """Keep every queue filled, from a connection of the test's own."""
    url = broker.amqp_url(heartbeat=0)
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        for queue in itertools.cycle(queues):
            if over.is_set():
                return
            channel.basic_publish("", queue, BODY)
