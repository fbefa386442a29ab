"""Each option of the messaging drivers has its effect, at the broker wherever it shows there."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import pytest

from hbshim.errors import ConnectError, PoolTimeoutError, RejectedError
from hbshim.heartbeat import service
from hbshim.messaging import backoff
from hbshim.messaging.amqp.connection import Connection
from hbshim.messaging.amqp.driver import AmqpDriver
from hbshim.messaging.base import Payload
from hbshim.messaging.hosts import Host
from hbshim.messaging.rpc import Client
from hbshim.messaging.server import Server
from hbshim.messaging.target import Target
from hbshim.options import DEFAULT
from tests.messaging.conftest import LIMIT, connections_of, unique
from tests.messaging.endpoints import Endpoint
from tests.waiting import wait_until
from wsgi_harness.stack.broker import Broker

Drivers = Callable[..., AmqpDriver]
Opened = Callable[..., Connection]

NOTHING = Payload(b"{}")


def test_what_is_negotiated(broker: Broker, opened: Opened, library: str) -> None:
    """Three connections at once: the broker's list of them is up to five seconds old."""
    sent = "AMQPLAIN" if library == "kombu" else "PLAIN"
    limited = {"channel_max": 7, "frame_max": 16384, "timeout": 1}
    silent = {"timeout": 0, "auth_mechanism": sent}
    usual = opened()
    first = opened(channel_max=7, frame_max=16384, heartbeat_interval=1)
    second = opened(heartbeat_interval="off", login_method="AMQPLAIN")

    def counted() -> list[int]:
        """How many of this process's the broker shows so, of each kind."""
        shown = connections_of(os.getpid(), broker)
        return [sum(kind.items() <= each.items() for each in shown) for kind in (limited, silent)]

    wait_until(lambda: counted() == [1, 1], LIMIT)
    assert usual.is_open
    assert first.is_open
    assert second.is_open


def test_a_connection_without_heartbeats_works(opened: Opened) -> None:
    connection = opened(heartbeat_interval="off")
    assert connection.queue_exists(unique("nothing")) is False
    assert connection.is_open


def test_a_login_by_certificate_is_asked_for(
    opened: Opened, host: Host, tmp_path: Any, broker: Broker
) -> None:
    """The broker of the tests offers none, and reports that."""
    with pytest.raises(ConnectError, match="EXTERNAL"):
        opened(host, login_method="EXTERNAL", ssl_options={"certfile": "/unused"})


def consumers(broker: Broker, word: str) -> list[int]:
    """The prefetch counts of the consumers of queues whose names hold `word`."""
    found: list[int] = []

    def there() -> bool:
        found[:] = [
            each["prefetch_count"]
            for each in broker.management.get("consumers/%2F")
            if word in each["queue"]["name"]
        ]
        return bool(found)

    wait_until(there, LIMIT)
    return found


def test_the_prefetch_counts(broker: Broker, drivers: Drivers) -> None:
    driver = drivers(rpc_prefetch_count=7, notification_prefetch_count=8)
    topic, news = unique("topic"), unique("news")
    server = driver.listen(Target(topic, server="one"))
    listener = driver.listen_for_notifications([(Target(news), "info"), (Target(news), "warn")])
    assert server.open(LIMIT)
    assert listener.open(LIMIT)
    # Of the topic, of the server, and of fanouts.
    wait_until(lambda: consumers(broker, topic) == [7, 7, 7], LIMIT)
    wait_until(lambda: consumers(broker, news) == [8, 8], LIMIT)


DEFAULT_TYPE = ("x-queue-type", "classic")


def arguments(broker: Broker, driver: AmqpDriver, topic: str) -> dict[str, Any]:
    """The arguments of the RPC queue of a topic."""
    driver.declare_queue(Target(topic), DEFAULT)
    name = f"{driver.options.default_rpc_exchange}.{topic}"
    found: dict[str, Any] = broker.management.get(f"queues/%2F/{name}")["arguments"]
    driver.delete_queue(Target(topic))
    # RabbitMQ 4 adds the default where the client asks for no type.
    return {name: value for name, value in found.items() if (name, value) != DEFAULT_TYPE}


def test_the_arguments_of_queues(broker: Broker, drivers: Drivers) -> None:
    topic = unique("topic")
    assert arguments(broker, drivers(), topic) == {"x-expires": 30_000}
    assert arguments(broker, drivers(rpc_queue_expiration=44), topic) == {"x-expires": 44_000}
    assert arguments(broker, drivers(rpc_queue_expiration="never"), topic) == {}
    quorum = drivers(
        quorum_queues=True,
        rpc_queue_expiration="never",
        quorum_delivery_limit=5,
        quorum_max_memory_length=6,
        quorum_max_memory_bytes=7,
    )
    assert arguments(broker, quorum, topic) == {
        "x-queue-type": "quorum",
        "x-delivery-limit": 5,
        "x-max-in-memory-length": 6,
        "x-max-in-memory-bytes": 7,
    }


def test_several_hosts_have_quorum_queues(broker: Broker, drivers: Drivers, host: Host) -> None:
    topic = unique("topic")
    assert arguments(broker, drivers(host, host), topic)["x-queue-type"] == "quorum"
    assert "x-queue-type" not in arguments(broker, drivers(host), topic)
    classic = drivers(host, host, quorum_queues=False)
    assert "x-queue-type" not in arguments(broker, classic, topic)


def test_the_exchange_of_replies(
    broker: Broker, drivers: Drivers, serve: Callable[..., Server]
) -> None:
    """Declared for a client that waits for replies, with a queue of its own for late ones."""
    name, target = unique("replies"), Target(unique("topic"), server="one")
    driver = drivers(rpc_reply_exchange=name)
    serve(driver, target, Endpoint())
    assert Client(driver, target, timeout=LIMIT).call("echo", value=1) == 1
    assert broker.management.get(f"exchanges/%2F/{name}")["type"] == "direct"
    bindings = broker.management.get(f"exchanges/%2F/{name}/bindings/source")
    assert [each["destination"].startswith(f"{name}.") for each in bindings] == [True]


def test_the_wait_for_a_connection_of_the_pool(drivers: Drivers) -> None:
    driver = drivers(pool_max_size=1, pool_max_overflow=0, pool_timeout=0.2)
    target = Target(unique("topic"))
    driver.cast(target, NOTHING, LIMIT)
    began = time.monotonic()
    with driver._sender.pool.lease(), pytest.raises(PoolTimeoutError):
        driver.cast(target, NOTHING, 20 * LIMIT)
    assert 0.2 <= time.monotonic() - began < LIMIT
    driver.cast(target, NOTHING, LIMIT)


def test_the_lifetime_of_a_connection_of_the_pool(drivers: Drivers) -> None:
    target = Target(unique("topic"))
    for lifetime, recycled in ((None, 0), (600, 0), (0.001, 1)):
        driver = drivers(pool_recycle=lifetime)
        driver.cast(target, NOTHING, LIMIT)
        time.sleep(0.002)
        driver.cast(target, NOTHING, LIMIT)
        assert driver.statistics().recycled == recycled, lifetime


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between attempts, which take no time."""
    pauses: list[float] = []
    monkeypatch.setattr(backoff, "_sleep", pauses.append)
    return pauses


def check_pauses(slept: list[float], delay: float, count: int) -> None:
    """Random ones below bounds that double."""
    bounds = [min(delay * 2**number, backoff.MAXIMUM) for number in range(count)]
    assert len(slept) == count
    assert all(0 <= pause <= bound for pause, bound in zip(slept, bounds, strict=True)), slept
    # By chance all of them tiny: once in 1e8 for two pauses of 7 and 14 s, far less for more.
    assert (max(slept) > 0.001) == (delay > 0)


@pytest.mark.parametrize("delay", [0, 3])
def test_the_pauses_between_attempts_to_connect(
    drivers: Drivers, slept: list[float], delay: float
) -> None:
    driver = drivers(
        Host("127.0.0.1", 1),
        connection_retry_attempts=8,
        connection_retry_delay=delay,
        rpc_timeout=100_000,
    )
    with pytest.raises(ConnectError):
        driver.delete_queue(Target("nothing"))
    # The second attempt follows the first at once.
    check_pauses(slept, delay, 6)


@pytest.mark.parametrize("delay", [0, 3])
def test_the_pauses_between_attempts_that_the_broker_rejects(
    broker: Broker, drivers: Drivers, slept: list[float], delay: float
) -> None:
    topic = unique("full")
    driver = drivers(
        rejected_message_retry_attempts=8,
        rejected_message_retry_delay=delay,
        connection_retry_attempts=1,
    )
    full = {"max-length": 1, "overflow": "reject-publish"}
    broker.management.set_queue_policy(topic, f"\\.{topic}\\.", full)
    try:
        driver.notify(Target(topic), NOTHING, "info", LIMIT)
        with pytest.raises(RejectedError):
            # It takes one more than its length, which is in memory already.
            for _ in range(10):
                slept.clear()
                driver.notify(Target(topic), NOTHING, "info", 100_000)
    finally:
        broker.management.delete_policy(topic)
    assert len(slept) >= 6
    check_pauses(slept, delay, len(slept))


def test_a_connection_opens_although_the_configuration_is_gone(
    opened: Opened, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As at a reconnection, when the process has dropped its privileges."""
    monkeypatch.setenv("HBSHIM_CONFIG", str(tmp_path / "gone.ini"))
    service.current().metrics.take_events()
    connection = opened()
    assert connection.is_open
    kinds = [event.kind for event in service.current().metrics.take_events()]
    assert "not-kept-alive" in kinds
