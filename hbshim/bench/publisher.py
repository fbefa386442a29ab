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

#: A connection; publishes so many messages on it; waits for the broker; closes it.
Publisher = tuple[Any, Callable[[int], object], Callable[[], object], Callable[[], object]]


def repeated(publish: Callable[[], object]) -> Callable[[int], object]:
    """Return what calls `publish` so many times."""

    def burst(messages: int) -> None:
        for _ in range(messages):
            publish()

    return burst


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
        repeated(lambda: channel.basic_publish(message, routing_key=ROUTING_KEY)),
        lambda: channel.basic_qos(0, 1, False),
        connection.close,
    )


def open_kombu(url: str) -> Publisher:
    """A publisher on a kombu producer."""
    import kombu

    connection = kombu.Connection(url, heartbeat=60)
    connection.connect()
    producer = connection.Producer()
    return (
        connection,
        repeated(
            lambda: producer.publish(
                BODY,
                routing_key=ROUTING_KEY,
                content_type="application/octet-stream",
                content_encoding="binary",
            )
        ),
        lambda: producer.channel.basic_qos(0, 1, False),
        connection.close,
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
        repeated(lambda: channel.basic_publish("", ROUTING_KEY, BODY)),
        lambda: channel.basic_qos(prefetch_count=1),
        connection.close,
    )


def open_aio_pika(url: str) -> Publisher:
    """A publisher on aio-pika, in an event loop of its own that runs during a burst."""
    import asyncio

    import aio_pika

    async def open_both() -> tuple[Any, Any]:
        connection = await aio_pika.connect(f"{url.partition('?')[0]}?heartbeat=60")
        return connection, await connection.channel(publisher_confirms=False)

    loop = asyncio.new_event_loop()
    connection, channel = loop.run_until_complete(open_both())
    exchange, message = channel.default_exchange, aio_pika.Message(BODY)

    async def burst(messages: int) -> None:
        for _ in range(messages):
            await exchange.publish(message, ROUTING_KEY, mandatory=False)

    def close() -> None:
        loop.run_until_complete(connection.close())
        loop.close()

    return (
        connection,
        lambda messages: loop.run_until_complete(burst(messages)),
        lambda: loop.run_until_complete(channel.set_qos(prefetch_count=1)),
        close,
    )


LIBRARIES: dict[str, Callable[[str], Publisher]] = {
    "py-amqp": open_amqp,
    "kombu": open_kombu,
    "pika": open_pika,
    "aio-pika": open_aio_pika,
}


def main(library: str, kind: str) -> None:
    """Answer bursts until standard input ends."""
    url = os.environ[BROKER_VARIABLE]
    connection, burst, wait_for_broker, close = LIBRARIES[library](url)
    # Both kinds have the engine and its thread; only the connection differs.
    other, *_, close_other = LIBRARIES[library](url)
    hbshim.keep_alive(connection if kind == "kept" else other, heartbeat_in_pthread=True)
    for line in sys.stdin:
        messages = int(line)
        wait_for_broker()
        begin, cpu_begin = time.perf_counter(), time.thread_time()
        burst(messages)
        cpu, taken = time.thread_time() - cpu_begin, time.perf_counter() - begin
        sys.stdout.write(f"{taken} {cpu}\n")
        sys.stdout.flush()
    close()
    close_other()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
