"""Targets of every name work, and none of them is taken for another."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hbshim.errors import CallTimeoutError, UnroutableError
from hbshim.messaging.amqp.driver import AmqpDriver
from hbshim.messaging.notify import Notification, NotificationServer, Notifier
from hbshim.messaging.rpc import Client
from hbshim.messaging.server import Server
from hbshim.messaging.target import Target
from tests.messaging.conftest import LIMIT, unique
from tests.messaging.endpoints import Endpoint
from tests.waiting import wait_until

Serve = Callable[..., Server]


@pytest.mark.parametrize("server", ["s" * 300, "a.b*~%", "ünïcode"])
def test_names(driver: AmqpDriver, serve: Serve, server: str) -> None:
    target = Target(unique("topic") + "." * 100, server=server, exchange=unique("e" * 240))
    endpoint = Endpoint()
    serve(driver, target, endpoint)
    client = Client(driver, target, timeout=LIMIT)
    assert client.prepare(mandatory=True).call("echo", value=1) == 1
    client.prepare(target=target.to(server=None)).call("echo", value=2)
    client.prepare(target=target.to(server=None, fanout=True)).cast("echo", value=3)
    wait_until(lambda: endpoint.asked == [1, 2, 3], LIMIT)


def test_a_server_is_no_topic(driver: AmqpDriver, serve: Serve, target: Target) -> None:
    serve(driver, target.to(topic=f"{target.topic}.one"), Endpoint())
    to_the_server = Client(driver, target.to(server="one"), timeout=1)
    with pytest.raises(CallTimeoutError):
        to_the_server.call("echo", value=1)
    with pytest.raises(UnroutableError):
        to_the_server.prepare(mandatory=True).call("echo", value=1)


def test_a_pool_is_no_topic(driver: AmqpDriver) -> None:
    class Audit:
        def __init__(self) -> None:
            self.got: list[object] = []

        def info(self, notification: Notification) -> None:
            self.got.append(notification.payload)

    topic, pool, long_pool = unique("topic"), unique("pool"), "p" * 300
    plain, pooled, long_pooled = Audit(), Audit(), Audit()
    servers = [
        NotificationServer(driver, [f"{pool}.{topic}"], [plain]),
        NotificationServer(driver, [topic], [pooled], pool=pool),
        NotificationServer(driver, [topic], [long_pooled], pool=long_pool),
    ]
    try:
        for server in servers:
            assert server.start(LIMIT)
        Notifier(driver, f"{pool}.{topic}", "here", timeout=LIMIT).info("event", "plain")
        Notifier(driver, topic, "here", timeout=LIMIT).info("event", "pooled")
        wait_until(lambda: plain.got and pooled.got and long_pooled.got, LIMIT)
    finally:
        for server in servers:
            server.stop(LIMIT)
    assert (plain.got, pooled.got, long_pooled.got) == (["plain"], ["pooled"], ["pooled"])
