"""Requests after their exchange was deleted, and the bindings of the servers' queues with it."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

import hbshim
from hbshim.messaging.amqp.driver import AmqpDriver
from hbshim.messaging.rpc import Client
from hbshim.messaging.server import Server
from hbshim.messaging.target import Target
from tests.messaging.conftest import LIMIT, delete_exchange, unique
from tests.messaging.endpoints import Endpoint
from tests.waiting import wait_until
from wsgi_harness.stack.broker import Broker

Serve = Callable[..., Server]


@pytest.fixture
def endpoint() -> Endpoint:
    return Endpoint()


def new_target() -> Target:
    return Target(unique("topic"), server="server", exchange=unique("exchange"))


def test_a_call_is_sent_again(
    drivers: Callable[..., AmqpDriver], serve: Serve, endpoint: Endpoint, broker: Broker
) -> None:
    """The broker has dropped it for certain: it closes the channel over it."""
    driver, target = drivers(), new_target()
    serve(driver, target, endpoint)
    assert target.exchange is not None
    client = Client(driver, target, timeout=4 * LIMIT)
    assert client.call("echo", value=1) == 1
    for number in (2, 3):
        delete_exchange(broker, target.exchange)
        hbshim.take_events()
        started = time.monotonic()
        assert client.call("echo", value=number) == number
        assert time.monotonic() - started < LIMIT
        assert [event for event in hbshim.take_events() if event.kind == "channel-closed"]
    assert endpoint.asked == [1, 2, 3]


def test_other_queues_of_the_exchange_are_bound_again_by_their_first_request(
    drivers: Callable[..., AmqpDriver], serve: Serve, endpoint: Endpoint, broker: Broker
) -> None:
    driver, exchange = drivers(), unique("exchange")
    one, other = (Target(unique("topic"), server="server", exchange=exchange) for _ in range(2))
    for target in (one, other):
        serve(driver, target, endpoint)
        Client(driver, target, timeout=LIMIT).call("echo", value=target.topic)
    delete_exchange(broker, exchange)
    for target in (one, other):
        Client(driver, target, timeout=LIMIT).call("echo", value=target.topic)


def test_casts_after_the_one_that_was_lost_arrive(
    drivers: Callable[..., AmqpDriver], serve: Serve, endpoint: Endpoint, broker: Broker
) -> None:
    driver, target = drivers(), new_target()
    serve(driver, target, endpoint)
    assert target.exchange is not None
    client = Client(driver, target, timeout=LIMIT)
    client.cast("echo", value=1)
    client.cast("echo", value=2)
    wait_until(lambda: endpoint.asked == [1, 2], LIMIT)
    delete_exchange(broker, target.exchange)
    hbshim.take_events()
    client.cast("echo", value="lost")
    events: list[str] = []

    def is_reported() -> bool:
        client.cast("echo", value=3)
        events.extend(event.kind for event in hbshim.take_events())
        return "channel-closed" in events

    wait_until(is_reported, LIMIT)
    wait_until(lambda: 3 in endpoint.asked, LIMIT)


def test_submitted_and_mandatory_requests_arrive(
    drivers: Callable[..., AmqpDriver], serve: Serve, endpoint: Endpoint, broker: Broker
) -> None:
    driver, target = drivers(), new_target()
    serve(driver, target, endpoint)
    assert target.exchange is not None
    client = Client(driver, target, timeout=LIMIT)
    assert client.submit("echo", value=1).result(LIMIT) == 1
    delete_exchange(broker, target.exchange)
    assert client.submit("echo", value=2).result(LIMIT) == 2
    delete_exchange(broker, target.exchange)
    assert client.prepare(mandatory=True).call("echo", value=3) == 3
