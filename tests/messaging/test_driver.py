"""What RabbitMQ's drivers do beyond the contract of all drivers (tests/messaging/contract/)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hbshim.errors import MessagingError, OptionError, PayloadError
from hbshim.messaging.amqp.driver import AmqpDriver
from hbshim.messaging.drivers import connect
from hbshim.messaging.encoding import MIB
from hbshim.messaging.rpc import Client
from hbshim.messaging.server import Server
from hbshim.messaging.target import Target
from tests.messaging.conftest import LIMIT, at_once
from tests.messaging.endpoints import Endpoint
from tests.waiting import wait_until
from wsgi_harness.stack.broker import Broker

Serve = Callable[..., Server]
Drivers = Callable[..., AmqpDriver]


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    found = Endpoint()
    yield found
    found.release.set()


def test_a_message_that_the_broker_refuses_harms_no_other_caller(
    drivers: Drivers, target: Target, serve: Serve, endpoint: Endpoint, broker: Broker
) -> None:
    """RabbitMQ 4 closes the channel of a message above 16 MiB; RabbitMQ 3.10 takes it."""
    driver = drivers(payload_limit=32 * MIB)
    serve(driver, target, endpoint, workers=8)
    client = Client(driver, target, timeout=LIMIT)
    others: list[Callable[[], object]] = [
        lambda number=number: client.call("hold", value=number)  # type: ignore[misc]
        for number in range(4)
    ]
    value = "x" * (16 * MIB + 1)

    def send() -> list[object]:
        wait_until(lambda: len(endpoint.asked) >= 4, LIMIT)
        outcomes: list[object] = []
        for way in (client.call, client.cast, client.call):
            try:
                outcomes.append(way("length", value=value))
            except MessagingError as error:
                outcomes.append(error)
        endpoint.release.set()
        return outcomes

    *calls, outcomes = at_once(*others, send)
    assert calls == [0, 1, 2, 3]
    if broker.management.overview()["rabbitmq_version"].startswith("3."):
        assert outcomes == [len(value), None, len(value)]
    else:
        assert [type(each) for each in outcomes] == [PayloadError] * 3
        assert all("max_message_size" in str(each) for each in outcomes)


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("hbother://host/", {}),
        ("hbpika://host/?no_such_option=1", {}),
        ("hbpika://host/", {"no_such_option": 1}),
        ("hbpika://host/?pool_max_size=many", {}),
        ("hbpika://host:port/", {}),
    ],
)
def test_what_cannot_be_connected_to(url: str, options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        connect(url, **options)
