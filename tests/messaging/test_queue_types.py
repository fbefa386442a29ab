"""A queue that exists keeps its type: what is not replicated is reported, and used."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

import hbshim
from hbshim.errors import TopologyError
from hbshim.messaging import connect
from hbshim.messaging.amqp.connection import Queue
from hbshim.messaging.amqp.driver import AmqpDriver
from hbshim.messaging.amqp.topology import Subscription
from hbshim.messaging.notify import Notification, NotificationServer, Notifier
from hbshim.messaging.rpc import Client
from hbshim.messaging.server import Server
from hbshim.messaging.target import Target
from hbshim.protocol.reply_codes import topology_refused
from tests.messaging.conftest import LIMIT, unique
from tests.messaging.endpoints import Endpoint
from tests.waiting import wait_until
from wsgi_harness.stack.broker import Broker

Drivers = Callable[..., AmqpDriver]


class Connection:
    """Declares queues; those that exist already can be declared as they are alone."""

    def __init__(self, *existing: Queue) -> None:
        self.existing = {queue.name: queue for queue in existing}
        self.bound: list[str] = []

    def declare_exchange(self, *_arguments: Any) -> None:
        return None

    def declare_queue(self, queue: Queue, _deadline: float | None = None) -> None:
        there = self.existing.setdefault(queue.name, queue)
        if there != queue:
            differs = "x-queue-type" if there.quorum != queue.quorum else "x-expires"
            raise TopologyError(f"inequivalent arg {differs!r}", 406)

    def bind(self, queue: str, *_arguments: Any) -> None:
        self.bound.append(queue)


def declare(connection: Connection, queue: Queue) -> list[str]:
    """Declare a queue, and return the events that this causes."""
    hbshim.take_events()
    Subscription(queue, "exchange", "key").declare(connection)
    assert connection.bound == [queue.name]
    return [event.kind for event in hbshim.take_events()]


def test_a_classic_queue_is_used_and_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    name = unique("queue")
    wanted = Queue(name, expires=60, quorum=True, arguments={"x-delivery-limit": 3})
    with caplog.at_level(logging.WARNING, "hbshim.messaging"):
        assert declare(Connection(Queue(name, expires=60)), wanted) == ["queue-not-replicated"]
        assert declare(Connection(Queue(name, expires=60)), wanted) == []
    assert caplog.text.count(name) == 2, "as its name, and in the command that deletes it"


def test_a_quorum_queue_is_used() -> None:
    name = unique("queue")
    assert declare(Connection(Queue(name, quorum=True)), Queue(name)) == []


def test_other_properties_are_refused() -> None:
    connection = Connection(Queue("q", expires=60))
    for wanted in (Queue("q", expires=30), Queue("q", expires=30, quorum=True)):
        # Also where the type differs as well: a listener takes over the lifetime.
        with pytest.raises(TopologyError, match="x-expires"):
            Subscription(wanted, "exchange", "key").declare(connection)
    assert connection.bound == []


def test_what_to_do_where_a_node_is_down() -> None:
    text = "NOT_FOUND - home node 'rabbit@n1' of durable queue 'q' is down or inaccessible"
    assert "quorum_queues=true" in str(topology_refused("declare", 404, text))
    assert "declare it first" in str(topology_refused("bind", 404, "NOT_FOUND - no queue 'q'"))


@pytest.mark.parametrize("library", ["hbkombu", "hbpika"])
def test_several_hosts_without_replication_are_reported(library: str) -> None:
    hbshim.take_events()
    connect(f"{library}://one,two/?quorum_queues=false").close()
    connect(f"{library}://one,two/").close()
    connect(f"{library}://one/").close()
    (event,) = hbshim.take_events()
    assert event.kind == "queue-not-replicated"


def test_services_go_on_with_the_queues_that_exist(
    broker: Broker, drivers: Drivers, target: Target
) -> None:
    """As they do when a second host is added to their URL."""

    class Audit:
        def __init__(self) -> None:
            self.got: list[object] = []

        def info(self, notification: Notification) -> None:
            self.got.append(notification.payload)

    topic, audit = unique("events"), Audit()
    drivers(quorum_queues=False).declare_queue(target, expires=600)
    for number, quorum in enumerate((False, True)):
        driver = drivers(quorum_queues=quorum)
        servers = [
            Server(driver, target, [Endpoint()]),
            NotificationServer(driver, [topic], [audit]),
        ]
        for server in servers:
            assert server.start(LIMIT)
        Notifier(driver, topic, "here", timeout=LIMIT).info("event", number)
        assert Client(driver, target, timeout=LIMIT).call("echo", value=number) == number
        wait_until(lambda expected=number + 1: len(audit.got) == expected, LIMIT)  # type: ignore[misc]
        for server in servers:
            server.stop(LIMIT)
    name = f"openstack_notification.{topic}.info"
    assert broker.management.get(f"queues/%2F/{name}")["type"] == "classic"


def refusing(connection: Any, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Have every question of `connection` refused with 404."""

    def refuse(doing: str, *_arguments: Any, **_named: Any) -> None:
        raise topology_refused(doing, 404, f"NOT_FOUND - {text}")

    monkeypatch.setattr(connection, "_call", refuse)


def test_a_queue_whose_node_is_down_is_not_taken_for_a_missing_one(
    connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is there again with its node, and so are the results that are in it."""
    refusing(connection, monkeypatch, "no queue 'q' in vhost '/'")
    assert connection.queue_exists("q") is False
    assert connection.delete_queue("q") == 0
    refusing(
        connection,
        monkeypatch,
        "home node 'rabbit@n1' of durable queue 'q' is down or inaccessible",
    )
    with pytest.raises(TopologyError, match="start that node"):
        connection.queue_exists("q")
    with pytest.raises(TopologyError, match="start that node"):
        connection.delete_queue("q")
