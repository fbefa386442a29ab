"""One publisher in a process of its own: ``python -m hbshim.bench.publisher LIBRARY kept|bare``.

A bare and a kept connection that publish in one process would share the
interpreter's inline caches, and each would slow the other down. The broker's URL comes from the
environment; each line read asks for a burst and is answered with its seconds, of the clock
and of CPU time of the publishing thread.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit

import hbshim

BROKER_VARIABLE = "HBSHIM_BROKER_URL"
BODY = b"x" * 1024
#: No queue is bound to it, so the broker routes and drops: the client is what is measured.
ROUTING_KEY = "hbshim-bench-unbound"

Publish = Callable[[], object]
#: A connection, how to publish one message on it, and how to wait for the broker.
Publisher = tuple[Any, Publish, Callable[[], object]]


def open_amqp(url: str) -> Publisher:
    """A publisher on py-amqp alone."""
    import amqp

    parts = urlsplit(url)
    connection = amqp.Connection(
        f"{parts.hostname}:{parts.port or 5672}",
        unquote(parts.username or "guest"),
        unquote(parts.password or "guest"),
        heartbeat=60,
    )
    connection.connect()
    channel, message = connection.channel(), amqp.Message(BODY)
    return (
        connection,
        lambda: channel.basic_publish(message, routing_key=ROUTING_KEY),
        lambda: channel.basic_qos(0, 1, False),
    )


def open_kombu(url: str) -> Publisher:
    """A publisher on a kombu producer."""
    import kombu

    connection = kombu.Connection(url, heartbeat=60)
    connection.connect()
    producer = connection.Producer()
    return (
        connection,
        lambda: producer.publish(
            BODY,
            routing_key=ROUTING_KEY,
            content_type="application/octet-stream",
            content_encoding="binary",
        ),
        lambda: producer.channel.basic_qos(0, 1, False),
    )


def open_pika(url: str) -> Publisher:
    """A publisher on a pika ``BlockingConnection``."""
    import pika

    parameters = pika.URLParameters(url)
    parameters.heartbeat = 60
    connection = pika.BlockingConnection(parameters)
    channel = connection.channel()
    return (
        connection,
        lambda: channel.basic_publish("", ROUTING_KEY, BODY),
        lambda: channel.basic_qos(prefetch_count=1),
    )


LIBRARIES: dict[str, Callable[[str], Publisher]] = {
    "py-amqp": open_amqp,
    "kombu": open_kombu,
    "pika": open_pika,
}


def main(library: str, kind: str) -> None:
    """Answer bursts until standard input ends."""
    url = os.environ[BROKER_VARIABLE]
    connection, publish, wait_for_broker = LIBRARIES[library](url)
    # Both kinds have the engine and its thread; only the connection differs.
    other = LIBRARIES[library](url)[0]
    hbshim.keep_alive(connection if kind == "kept" else other, heartbeat_in_pthread=True)
    for line in sys.stdin:
        messages = range(int(line))
        wait_for_broker()
        begin, cpu_begin = time.perf_counter(), time.thread_time()
        for _ in messages:
            publish()
        cpu, taken = time.thread_time() - cpu_begin, time.perf_counter() - begin
        sys.stdout.write(f"{taken} {cpu}\n")
        sys.stdout.flush()
    connection.close()
    other.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
