"""Joint listening in every concurrency model: `make green` runs this file in eventlet and gevent.

Without relays, whose event loop does not run where everything is patched.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable, Iterator

import pytest

from hbshim import messaging
from tests.brokers import virtual_host
from tests.messaging.conftest import LIMIT, at_once
from tests.messaging.endpoints import Endpoint
from tests.messaging.hybrid.conftest import wait_until_served
from tests.waiting import wait_until
from wsgi_harness.stack.broker import Broker

PAIRS = [("hbpika", "hbkombu"), ("hbkombu", "hbamqp")]


@pytest.fixture(params=PAIRS, ids="-".join)
def urls(request: pytest.FixtureRequest, broker: Broker) -> Iterator[list[str]]:
    """Two backends that know nothing of each other."""
    with (
        virtual_host(broker, f"test-{secrets.token_hex(6)}") as first,
        virtual_host(broker, f"test-{secrets.token_hex(6)}") as second,
    ):
        yield [
            broker.amqp_url(vhost=vhost).replace("amqp://", f"{scheme}://")
            for scheme, vhost in zip(request.param, (first, second), strict=True)
        ]


def test_several_workers_serve_both_and_stop(
    urls: list[str],
    connect: Callable[..., messaging.Driver],
    start: Callable[..., messaging.Server],
    topic: messaging.Target,
) -> None:
    endpoint = Endpoint()
    server = start(connect(urls[0], listen_also=urls[1:]), topic.to(server="one"), endpoint)
    clients = [messaging.Client(connect(url), topic, timeout=LIMIT) for url in urls]
    for client in clients:
        wait_until_served(client)
    calls = [
        functools.partial(client.call, "echo", value=number)
        for number in range(20)
        for client in clients
    ]
    assert at_once(*calls) == [number for number in range(20) for _ in clients]
    # Idle, all workers wait; then one of them is woken up by either.
    for client in (*clients, *reversed(clients)):
        assert client.call("echo", value="again") == "again"
    server.pause()
    server.resume()
    for client in clients:
        wait_until_served(client)
    assert server.stop(LIMIT)


def test_no_more_is_taken_than_workers_are_free(
    urls: list[str],
    connect: Callable[..., messaging.Driver],
    start: Callable[..., messaging.Server],
    topic: messaging.Target,
) -> None:
    endpoint = Endpoint()
    start(connect(urls[0], listen_also=urls[1:]), topic.to(server="one"), endpoint, workers=2)
    clients = [messaging.Client(connect(url), topic, timeout=LIMIT) for url in urls]
    for number in range(4):
        for client in clients:
            client.cast("hold", value=number)
    wait_until(lambda: len(endpoint.asked) == 2, LIMIT)
    endpoint.release.set()
    wait_until(lambda: len(endpoint.asked) == 8, LIMIT)
    assert endpoint.most == 2
