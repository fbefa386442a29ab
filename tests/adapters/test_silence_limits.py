"""How long each client library waits for a silent broker by itself, and how long with hbshim.

hbshim must not end a connection that the stock library would keep. The stock limits are those of
open stock connections, not of their documentation.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiormq
import amqp
import kombu
import pika
import pytest
from amqp.exceptions import ConnectionForced
from proton import ConnectionException
from proton.utils import BlockingConnection

import hbshim
from tests.adapters.amqp1_peer import Peer, serving
from tests.concurrency import MODEL
from wsgi_harness.stack.broker import Broker

#: Seconds on both sides of a limit at which a stock library is checked.
NEAR = 0.5

DOCS = Path(__file__).parents[2] / "docs" / "usage.md"


def limit_of(closes_after: Callable[[float], bool], expected: float) -> float:
    """Return `expected` if a stock library closes after it and not before."""
    assert not closes_after(expected - NEAR)
    assert closes_after(expected + NEAR)
    return expected


def of_pyamqp(broker: Broker, timeout: int) -> tuple[float, float]:
    host = f"{broker.host}:{broker.amqp_port}"
    connection = amqp.Connection(host, broker.user, broker.password, heartbeat=timeout)
    connection.connect()
    return of_ticking(connection, connection.heartbeat_tick, connection)


def of_kombu(broker: Broker, timeout: int) -> tuple[float, float]:
    connection = kombu.Connection(broker.amqp_url(), heartbeat=timeout)
    connection.connect()
    return of_ticking(connection.connection, connection.heartbeat_check, connection)


def of_ticking(beneath: Any, check: Callable[[], None], connection: Any) -> tuple[float, float]:
    def closes_after(silence: float) -> bool:
        beneath.prev_sent, beneath.prev_recv = beneath.bytes_sent, beneath.bytes_recv
        beneath.last_heartbeat_received = time.monotonic() - silence
        try:
            check()
        except ConnectionForced:
            return True
        return False

    # The shorter of what both sides want.
    stock = limit_of(closes_after, 2 * beneath.heartbeat)
    hbshim.keep_alive(connection)
    link = beneath.transport.hbshim_link
    connection.close()
    return stock, link.silence


def of_pika(broker: Broker, timeout: int) -> tuple[float, float]:
    connection = pika.BlockingConnection(pika.URLParameters(broker.amqp_url(heartbeat=timeout)))
    # A connection that receives nothing between two of these checks is closed.
    stock = connection._impl._heartbeat_checker._check_interval
    assert stock == timeout + 5
    hbshim.keep_alive(connection)
    silence = connection._impl._heartbeat_checker._link.silence
    connection.close()
    return stock, silence


def of_aiormq(broker: Broker, timeout: int) -> tuple[float, float]:
    async def main() -> tuple[float, float]:
        connection = await aiormq.connect(broker.amqp_url(heartbeat=timeout))

        def closes_after(silence: float) -> bool:
            connection._Connection__last_frame_time = connection.loop.time() - silence
            return bool(connection.is_connection_was_stuck)

        stock = limit_of(closes_after, 3 * (timeout + 1))
        hbshim.keep_alive(connection)
        silence = connection.hbshim_link.silence
        await connection.close()
        return stock, silence

    return asyncio.run(main())


STOCK = {"py-amqp": of_pyamqp, "kombu": of_kombu, "pika": of_pika, "aiormq": of_aiormq}

#: Where hbshim is earlier, and why is in docs/usage.md.
EARLIER = [("pika", 1), ("pika", 4)]


@pytest.mark.parametrize("timeout", [1, 4, 5, 60])
@pytest.mark.parametrize("library", STOCK)
def test_a_silent_broker_is_waited_for_as_long_as_by_the_stock_library(
    broker: Broker, library: str, timeout: int
) -> None:
    if library == "aiormq" and MODEL != "native":
        pytest.skip("asyncio runs on an unpatched library")
    stock, kept = STOCK[library](broker, timeout)
    if (library, timeout) in EARLIER:
        assert kept == 2 * timeout < stock
    else:
        assert kept >= stock


def test_a_silent_peer_of_amqp_1_0_is_waited_for_as_long_as_by_stock_proton() -> None:
    limit = 0.6
    with serving(Peer(60_000, closes=False)) as peer:
        stock = BlockingConnection(peer.url, timeout=10, sasl_enabled=False, heartbeat=limit)
        began = time.monotonic()
        with pytest.raises(ConnectionException):
            stock.wait(lambda: False, timeout=10)
        assert time.monotonic() - began >= limit - 0.1
        with contextlib.suppress(ConnectionException):
            stock.close()
    with serving(Peer(60_000, closes=False)) as peer:
        kept = BlockingConnection(peer.url, timeout=10, sasl_enabled=False, heartbeat=limit)
        hbshim.keep_alive(kept)
        assert kept.conn.transport._selectable.hbshim_link.silence == limit
        kept.close()


def test_the_docs_have_each_limit() -> None:
    text = DOCS.read_text()
    for row in (
        "| py-amqp, kombu, Celery | 2 T | 2 T |",
        "| pika | T + 5 s to 2 T + 10 s | 2 T: earlier where T is below 5 s |",
        "| aiormq, aio-pika | 3 (T + 1 s) | 3 (T + 1 s) |",
        "| proton, pyngus | its argument `heartbeat` | the same |",
    ):
        assert row in text
