"""Publish throughput with the guard and without it, as a ratio.

Two connections of each library, one kept alive and one not, publish in turn on
one broker: only the ratio within a pair means anything on a noisy machine.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit

import hbshim

BODY = b"x" * 1024
#: No queue is bound to it, so the broker routes and drops: the client is what is measured.
ROUTING_KEY = "hbshim-bench-nobody"
PAIRS = 40
MESSAGES = 1000

Publish = Callable[[], object]


def run(broker_url: str, *, quick: bool) -> list[dict[str, Any]]:
    """Measure py-amqp, kombu and pika."""
    pairs, messages = (10, 300) if quick else (PAIRS, MESSAGES)
    return [
        {"library": name, **compare(open_publisher, broker_url, pairs, messages)}
        for name, open_publisher in (("py-amqp", _amqp), ("kombu", _kombu), ("pika", _pika))
    ]


def compare(
    open_publisher: Callable[[str], tuple[Any, Publish]], url: str, pairs: int, messages: int
) -> dict[str, Any]:
    """The ratio kept/bare for each of `pairs` interleaved pairs of `messages` publishes."""
    bare_connection, bare = open_publisher(url)
    kept_connection, kept = open_publisher(url)
    hbshim.keep_alive(kept_connection, heartbeat_in_pthread=True)
    ratios, rates = [], []
    for pair in range(pairs):
        # Whoever goes second finds warmer caches and a fuller broker: take turns.
        order = (bare, kept) if pair % 2 else (kept, bare)
        taken = {publish: _time(publish, messages) for publish in order}
        ratios.append(taken[bare] / taken[kept])
        rates.append(messages / taken[bare])
    bare_connection.close()
    kept_connection.close()
    return {
        "pairs": pairs,
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "bare_per_second": statistics.median(rates),
    }


def _time(publish: Publish, messages: int) -> float:
    begin = time.perf_counter()
    for _ in range(messages):
        publish()
    return time.perf_counter() - begin


def _amqp(url: str) -> tuple[Any, Publish]:
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
    return connection, lambda: channel.basic_publish(message, routing_key=ROUTING_KEY)


def _kombu(url: str) -> tuple[Any, Publish]:
    import kombu

    connection = kombu.Connection(url, heartbeat=60)
    connection.connect()
    producer = connection.Producer()
    return connection, lambda: producer.publish(
        BODY,
        routing_key=ROUTING_KEY,
        content_type="application/octet-stream",
        content_encoding="binary",
    )


def _pika(url: str) -> tuple[Any, Publish]:
    import pika

    parameters = pika.URLParameters(url)
    parameters.heartbeat = 60
    connection = pika.BlockingConnection(parameters)
    channel = connection.channel()
    return connection, lambda: channel.basic_publish("", ROUTING_KEY, BODY)
