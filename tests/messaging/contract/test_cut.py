"""The contract of the drivers: what holds when connections break, and when they cannot be had."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from hbshim.errors import CallTimeoutError, MessagingError
from hbshim.messaging import (
    REQUEUE,
    Client,
    Driver,
    Notification,
    NotificationServer,
    Notifier,
    Server,
    StoringDriver,
    Target,
)
from tests.messaging.conftest import LIMIT, at_once
from tests.messaging.contract.laboratory import Laboratory, require_features
from tests.messaging.endpoints import Endpoint
from tests.waiting import wait_until

Serve = Callable[..., Server]


class Events:
    """Notes each notification; requeues those that ask for it."""

    def __init__(self, *requeue: str) -> None:
        self.got: list[str] = []
        self._requeue = set(requeue)

    def info(self, notification: Notification) -> object:
        self.got.append(notification.payload)
        if notification.payload in self._requeue:
            self._requeue.remove(notification.payload)
            return REQUEUE
        return None


def test_nothing_is_connected_before_it_is_used(laboratory: Laboratory, driver: Driver) -> None:
    assert laboratory.count() == 0
    with pytest.raises(CallTimeoutError):
        Client(driver, Target("nothing"), timeout=0.5).call("echo", value=1)
    assert laboratory.count() >= 1


def test_calls_share_connections(laboratory: Laboratory, client: Client) -> None:
    assert client.call("echo", value=0) == 0
    before = laboratory.count()
    outcomes = at_once(
        *(lambda number=number: client.call("echo", value=number) for number in range(20))
    )
    assert outcomes == list(range(20))
    # Those that the server replies over may grow in number; each call has none of its own.
    assert laboratory.count() - before < 20


def test_a_call_that_runs_is_answered_after_its_connection_was_cut(
    laboratory: Laboratory, client: Client, endpoint: Endpoint
) -> None:
    def cut() -> None:
        wait_until(lambda: endpoint.asked, LIMIT)
        before = laboratory.count()
        laboratory.cut()
        wait_until(lambda: laboratory.count() > before, LIMIT)
        endpoint.release.set()

    answer, _ = at_once(lambda: client.call("hold", value="held"), cut)
    assert answer == "held"
    assert endpoint.asked == ["held"]


def test_calls_are_answered_after_only_the_clients_connection_was_cut(
    laboratory: Laboratory, driver: Driver, target: Target, serve: Serve, endpoint: Endpoint
) -> None:
    """Their replies come while the client is not connected, or later."""
    serve(laboratory.start_uncut(), target, endpoint, workers=8)
    client = Client(driver, target, timeout=LIMIT)

    def cut() -> None:
        wait_until(lambda: len(endpoint.asked) == 5, LIMIT)
        laboratory.cut()
        # RabbitMQ's drivers have a second route for replies that are later than half a second.
        time.sleep(0.6)
        endpoint.release.set()

    calls = [lambda number=number: client.call("hold", value=number) for number in range(5)]
    *outcomes, _ = at_once(*calls, cut)
    assert outcomes == list(range(5))
    assert client.call("echo", value="next") == "next"


def test_calls_and_casts_go_on_after_a_cut(
    laboratory: Laboratory, client: Client, endpoint: Endpoint
) -> None:
    for number in range(5):
        assert client.call("echo", value=number) == number
        laboratory.cut()
    assert client.call("echo", value="after") == "after"
    client.cast("echo", value="cast")
    wait_until(lambda: "cast" in endpoint.asked, LIMIT)


def test_without_a_connection_every_way_fails_in_time_and_later_works(
    laboratory: Laboratory, client: Client, endpoint: Endpoint
) -> None:
    assert client.call("echo", value=1) == 1
    laboratory.disconnect()
    brief = client.prepare(timeout=0.5)
    for send in (brief.call, brief.cast):
        with pytest.raises(MessagingError):
            send("echo", value="lost")
    with pytest.raises(MessagingError):
        Notifier(client.driver, client.target.topic, "here", timeout=0.5).info("event", "lost")
    laboratory.reconnect()
    assert client.call("echo", value=2) == 2
    assert "lost" not in endpoint.asked


def test_a_server_that_starts_without_a_connection_serves_once_there_is_one(
    laboratory: Laboratory, driver: Driver, target: Target, endpoint: Endpoint
) -> None:
    laboratory.disconnect()
    server = Server(driver, target, [endpoint], on_error=lambda _error: None)
    assert not server.start(0.2)
    laboratory.reconnect()
    client = Client(driver, target, timeout=1)

    def is_served() -> bool:
        # A call before the server is there may be lost.
        try:
            return bool(client.call("echo", value=1) == 1)
        except CallTimeoutError:
            return False

    wait_until(is_served, LIMIT)
    assert server.stop(LIMIT)


def test_notifications_are_handled_though_their_connections_are_cut(
    laboratory: Laboratory, driver: Driver, target: Target
) -> None:
    events = Events()
    notifier = Notifier(driver, target.topic, "here", timeout=LIMIT)
    with NotificationServer(driver, [target.topic], [events], on_error=lambda _error: None):
        for number in range(6):
            notifier.info("event", f"{number}")
            if number % 2:
                laboratory.cut()
        wait_until(lambda: {*map(str, range(6))} <= set(events.got), LIMIT)


def test_a_notification_that_is_requeued_is_handled_again(driver: Driver, target: Target) -> None:
    require_features(driver, "requeues")
    events = Events("again")
    with NotificationServer(driver, [target.topic], [events], on_error=lambda _error: None):
        Notifier(driver, target.topic, "here", timeout=LIMIT).info("event", "again")
        wait_until(lambda: events.got == ["again", "again"], LIMIT)


def test_pools_each_get_all_of_them(driver: Driver, target: Target) -> None:
    require_features(driver, "pools")
    one, two = Events(), Events()
    servers = [
        NotificationServer(driver, [target.topic], [events], pool=pool)
        for events, pool in ((one, "a"), (two, "b"))
    ]
    for server in servers:
        assert server.start(LIMIT)
    for number in range(5):
        Notifier(driver, target.topic, "here", timeout=LIMIT).info("event", f"{number}")
    wait_until(lambda: len(one.got) == len(two.got) == 5, LIMIT)
    assert one.got == two.got == [*map(str, range(5))]
    for server in servers:
        assert server.stop(LIMIT)


def test_what_is_stored_outlasts_the_connection(
    laboratory: Laboratory, storing: StoringDriver, target: Target, serve: Serve, endpoint: Endpoint
) -> None:
    storing.declare_queue(target, 30)
    task = Client(storing, target, timeout=LIMIT).submit("count", to=3)
    laboratory.cut()
    serve(storing, target, endpoint)
    assert list(task.progress(LIMIT)) == [0, 1, 2]
    laboratory.cut()
    assert task.result(LIMIT) == "counted"
    assert storing.delete_queue(target) == 0


def test_a_closed_driver_says_so(driver: Driver, target: Target) -> None:
    driver.close()
    with pytest.raises(MessagingError, match="closed"):
        Client(driver, target, timeout=1).call("echo", value=1)
