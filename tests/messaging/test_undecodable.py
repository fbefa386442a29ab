"""A message that cannot be decoded is neither lost in silence nor delivered again and again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

import hbshim
from hbshim.errors import PayloadError
from hbshim.messaging import Client, NotificationServer, Notifier, Server
from hbshim.messaging.amqp.connection import Queue
from hbshim.messaging.amqp.driver import AmqpDriver
from hbshim.messaging.target import Target
from hbshim.protocol.messages import Message
from tests.messaging.conftest import LIMIT, unique
from tests.messaging.endpoints import Endpoint
from tests.waiting import wait_until
from wsgi_harness.stack.broker import Broker

#: Content types, bodies and headers of messages that no sender of hbshim's sends.
HOSTILE: dict[str, tuple[str, bytes, dict[str, Any]]] = {
    "not JSON": ("application/json", b"{", {}),
    "not UTF-8": ("application/json", b'"\xff"', {}),
    "deep": ("application/json", b"[" * 100_000, {}),
    "a list": ("application/json", b"[1, 2]", {}),
    "empty": ("application/json", b"", {}),
    "unknown type": ("application/x-of-tomorrow", b"{}", {}),
    "attempts": (
        "application/json",
        b"null",
        {"x-hbshim-attempts": -(2**62), "x-delivery-count": "many", "x-hbshim-renewed": [1]},
    ),
}


class Listening:
    """Notes the payloads of notifications."""

    def __init__(self) -> None:
        self.payloads: list[Any] = []

    def info(self, notification: Any) -> None:
        self.payloads.append(notification.payload)


@pytest.fixture(autouse=True)
def _no_events() -> None:
    hbshim.take_events()


def rejected() -> int:
    return sum(event.kind == "message-rejected" for event in hbshim.take_events())


@pytest.fixture
def dead_letters(broker: Broker) -> Iterator[Callable[[str, str], None]]:
    """Give queues of a prefix a dead-letter exchange: the default one, and a queue of it."""
    made: list[str] = []
    api, account = f"{broker.management_url}/api", (broker.user, broker.password)

    def configure(pattern: str, to: str) -> None:
        made.append(unique("dead-letters"))
        policy = {
            "pattern": pattern,
            "apply-to": "queues",
            "definition": {"dead-letter-exchange": "", "dead-letter-routing-key": to},
        }
        url = f"{api}/policies/%2F/{made[-1]}"
        requests.put(url, json=policy, auth=account, timeout=LIMIT).raise_for_status()

    yield configure
    for name in made:
        requests.delete(f"{api}/policies/%2F/{name}", auth=account, timeout=LIMIT)


def send(driver: AmqpDriver, exchange: str, key: str) -> None:
    """Send one of each hostile message, where a queue of the server's gets it."""
    for content_type, body, headers in HOSTILE.values():
        message = Message(
            body, exchange, key, content_type=content_type, headers=headers, message_id=unique("id")
        )
        driver._sender.send_confirmed(message, None, time.monotonic() + LIMIT, None)


def count(driver: AmqpDriver, queue: str) -> int:
    """Delete a queue; return how many messages were in it."""
    return driver._sender.with_connection(
        lambda found: found.connection.delete_queue(queue), time.monotonic() + LIMIT
    )


def declare(driver: AmqpDriver, queue: str) -> None:
    driver._sender.with_connection(
        lambda found: found.connection.declare_queue(Queue(queue)), time.monotonic() + LIMIT
    )


@pytest.mark.parametrize("dead_lettered", [True, False])
def test_notifications(
    driver: AmqpDriver, dead_letters: Callable[[str, str], None], dead_lettered: bool
) -> None:
    topic, dead = unique("events"), unique("dead")
    exchange = driver.options.default_notification_exchange
    name = f"{exchange}.{topic}.info"
    declare(driver, dead)
    if dead_lettered:
        dead_letters(topic, dead)
    errors: list[BaseException] = []
    endpoint = Listening()
    with NotificationServer(driver, [topic], [endpoint], on_error=errors.append):
        send(driver, "", name)
        Notifier(driver, topic, "service.host", timeout=LIMIT).info("event", "good")
        wait_until(lambda: endpoint.payloads and len(errors) >= len(HOSTILE), LIMIT)
    assert endpoint.payloads == ["good"]
    assert [type(error) for error in errors] == [PayloadError] * len(HOSTILE)
    assert rejected() == len(HOSTILE)
    assert count(driver, name) == 0
    assert count(driver, dead) == (len(HOSTILE) if dead_lettered else 0)


@pytest.mark.parametrize("acknowledge", ["before", "after"])
def test_requests(
    driver: AmqpDriver,
    dead_letters: Callable[[str, str], None],
    target: Target,
    acknowledge: Any,
) -> None:
    """One that is acknowledged before it is decoded cannot be dead-lettered."""
    dead = unique("dead")
    declare(driver, dead)
    dead_letters(target.topic, dead)
    errors: list[BaseException] = []
    server = Server(
        driver,
        target.to(server="one"),
        [Endpoint()],
        acknowledge=acknowledge,
        on_error=errors.append,
    )
    with server:
        exchange = driver.options.default_rpc_exchange
        send(driver, exchange, target.topic)
        assert Client(driver, target, timeout=LIMIT).call("echo", value="good") == "good"
        wait_until(lambda: len(errors) >= len(HOSTILE), LIMIT)
    assert [type(error) for error in errors] == [PayloadError] * len(HOSTILE)
    assert rejected() == len(HOSTILE)
    assert count(driver, dead) == (len(HOSTILE) if acknowledge == "after" else 0)
