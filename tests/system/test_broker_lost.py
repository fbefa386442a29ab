"""The broker closes or restarts: the next publish must fail, and the same object reconnect."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.system.conftest import RemoteClient
from tests.waiting import wait_until
from wsgi_harness.stack.broker import Broker

T = 2


@pytest.fixture
def broker(own_broker: Broker) -> Broker:
    """In place of the one that others use."""
    return own_broker


@pytest.fixture
def restart(rabbitmqctl: Callable[..., None]) -> Callable[[Callable[[], None]], None]:
    """Stop the broker, do something, start it again."""

    def around(meanwhile: Callable[[], None]) -> None:
        rabbitmqctl("stop_app")
        try:
            meanwhile()
        finally:
            rabbitmqctl("start_app")
            rabbitmqctl("await_online_nodes", "1")

    return around


def test_closed_by_an_operator(everywhere: list[RemoteClient], broker: Broker) -> None:
    for client in everywhere:
        client.open(heartbeat=T)
        client.do("publish")
    for client in everywhere:
        broker.management.close_connection(client.wait_until_at_broker())
    for client in everywhere:
        # The broker sends Connection.Close, and waits for an answer before it hangs up.
        wait_until(lambda client=client: client.at_broker is None, 30)  # type: ignore[misc]
        client.wait_until_lost(30)
        assert client.fails("publish").recoverable, client.name
        client.do("reopen")
        client.do("publish")


def test_restarted(
    everywhere: list[RemoteClient], restart: Callable[[Callable[[], None]], None]
) -> None:
    for client in everywhere:
        client.open(heartbeat=T)
        client.do("publish")

    def while_down() -> None:
        for client in everywhere:
            client.wait_until_lost(4 * T)
            assert client.fails("publish").recoverable, client.name

    restart(while_down)
    for client in everywhere:
        client.do("reopen")
        client.do("publish")
        assert client.link["state"] == "alive", client.name


def test_restarted_while_the_hub_is_blocked(
    start: Callable[..., RemoteClient], restart: Callable[[Callable[[], None]], None]
) -> None:
    """Both together hung a deployed fix: a native thread had touched green locks."""
    clients = [start(model, lib) for model in ("eventlet", "gevent") for lib in ("kombu", "pika")]
    for client in clients:
        client.open(heartbeat=T)
        client.do("publish")

    def while_down() -> None:
        for client in clients:
            client.send("wait", seconds=4 * T, how="block")

    restart(while_down)
    for client in clients:
        client.answer()
        assert client.fails("publish").recoverable, client.name
        client.do("wait", seconds=0.1, how="hub")
        client.do("reopen")
        client.do("publish")
        assert client.link["state"] == "alive", client.name
