"""RabbitMQ's drivers, NOTIFY: their queues; the rest is in tests/messaging/contract/."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import requests

from hbshim.messaging.amqp.driver import AmqpDriver
from hbshim.messaging.amqp.retries import dead_letter_name
from hbshim.messaging.base import PRIORITIES
from hbshim.messaging.notify import (
    Notification,
    NotificationServer,
    Notifier,
)
from tests.messaging.conftest import LIMIT, unique
from tests.waiting import wait_until
from wsgi_harness.stack.broker import Broker


class Endpoint:
    """Notes what arrives."""

    def __init__(self) -> None:
        self.payloads: list[Any] = []

    def info(self, notification: Notification) -> None:
        self.payloads.append(notification.payload)

    def error(self, notification: Notification) -> None:
        self.payloads.append(notification.payload)


@pytest.fixture
def topic() -> str:
    return unique("events")


def test_each_priority_has_a_queue_of_its_own(topic: str, driver: AmqpDriver) -> None:
    notifier = Notifier(driver, topic, "service.host", timeout=LIMIT)
    for priority in PRIORITIES:
        getattr(notifier, priority)("event", priority)
    endpoint = Endpoint()
    with NotificationServer(driver, [topic], [endpoint]):
        wait_until(lambda: len(endpoint.payloads) == 2, LIMIT)
    exchange = driver.options.default_notification_exchange
    left = [
        driver._sender.with_connection(
            lambda found, priority=priority: found.connection.delete_queue(  # type: ignore[misc]
                f"{exchange}.{topic}.{priority}"
            ),
            time.monotonic() + LIMIT,
        )
        for priority in PRIORITIES
        if priority not in ("info", "error")
    ]
    assert left == [1, 1, 1, 1, 1]
    assert sorted(endpoint.payloads) == ["error", "info"]


class Failing:
    """Fails on "bad", each time."""

    def __init__(self) -> None:
        self.got: list[Any] = []

    def info(self, notification: Notification) -> None:
        self.got.append(notification.payload)
        if notification.payload == "bad":
            raise ValueError("bad")


@pytest.mark.parametrize("quorum", [False, True], ids=["classic", "quorum"])
def test_one_that_always_fails_ends_in_the_dead_letter_queue(
    quorum: bool,
    drivers: Callable[..., AmqpDriver],
    topic: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After so many attempts, not before; the queues in between go by themselves."""
    driver = drivers(
        quorum_queues=quorum, notification_retry_attempts=3, notification_retry_delay=0.05
    )
    endpoint, errors = Failing(), list[BaseException]()
    name = f"{driver.options.default_notification_exchange}.{topic}.info"
    with NotificationServer(driver, [topic], [endpoint], on_error=errors.append):
        notifier = Notifier(driver, topic, "service.host", timeout=LIMIT)
        for payload in ("bad", "good"):
            notifier.info("event", payload)
        wait_until(lambda: "is in the dead-letter queue" in caplog.text, LIMIT)
    assert sorted(endpoint.got) == ["bad", "bad", "bad", "good"]
    assert [str(error) for error in errors] == ["bad"] * 3
    assert deleted(driver, dead_letter_name(name)) == 1
    assert deleted(driver, name) == 0


def deleted(driver: AmqpDriver, name: str) -> int:
    """How many messages go with a queue."""
    return driver._sender.with_connection(
        lambda sending: sending.connection.delete_queue(name), time.monotonic() + LIMIT
    )


def test_an_exchange_that_was_deleted_is_declared_again(
    drivers: Callable[..., AmqpDriver], broker: Broker, topic: str
) -> None:
    """With the queue and its binding, for the message over which the broker refused it."""
    exchange = unique("exchange")
    driver = drivers(default_notification_exchange=exchange)
    notifier = Notifier(driver, topic, publisher_id="test")
    notifier.info("event", 1)
    account = (broker.user, broker.password)
    url = f"{broker.management_url}/api/exchanges/%2F/{exchange}"
    requests.delete(url, auth=account, timeout=LIMIT).raise_for_status()
    notifier.info("event", 2)
    notifier.info("event", 3)
    endpoint = Endpoint()
    server = NotificationServer(driver, [topic], [endpoint])
    assert server.start(LIMIT)
    wait_until(lambda: endpoint.payloads == [1, 2, 3], LIMIT)
    server.stop(LIMIT)
