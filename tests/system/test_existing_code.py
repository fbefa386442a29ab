"""Programs that call their library's own heartbeat functions go on working, and need not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.system.conftest import RemoteClient
from tests.waiting import wait_until
from wsgi_harness.wire.relay import Relay

T = 1


@pytest.mark.parametrize("shim", ["install", "keep_alive"])
def test_calls_that_keep_alive_are_harmless(
    everywhere: list[RemoteClient], relay: Relay, shim: str
) -> None:
    for client in everywhere:
        client.open(relay, heartbeat=T, shim=shim)
        client.do("publish")
    rounds = 0

    def tick_everywhere() -> bool:
        nonlocal rounds
        rounds += 1
        for client in everywhere:
            client.do("tick")
        return rounds >= 20 and len(relay.seen("heartbeat", "client")) >= 8 * len(everywhere)

    wait_until(tick_everywhere, 60)
    assert relay.seen("closed") == relay.errors == []
    for client in everywhere:
        client.do("publish")
        client.wait_for_messages(2)


def test_a_consumer_that_waits_for_a_message_is_kept_alive(
    everywhere: list[RemoteClient], relay: Relay, start: Callable[..., RemoteClient]
) -> None:
    for client in everywhere:
        client.open(relay, heartbeat=T)
    queues = [client.do("queue") for client in everywhere]
    for client in everywhere:
        client.send("consume", callback=0, total=1)
    relay.wait_for("heartbeat", "client", count=8 * len(everywhere))
    witness = start("native", "pika")
    witness.open(heartbeat=60)
    for client, queue in zip(everywhere, queues, strict=True):
        witness.do("publish", queue=queue)
        assert client.answer() == 1, client.name
    assert relay.seen("closed") == relay.errors == []


def test_a_platform_without_tcp_info(everywhere: list[RemoteClient], relay: Relay) -> None:
    """The guard counts instead: idle, silent and broken links are distinguished all the same."""
    for client in everywhere:
        client.open(relay, heartbeat=T)
        client.do("without_tcp_info")
        client.do("publish")
    relay.wait_for("heartbeat", "client", count=8 * len(everywhere))
    for client in everywhere:
        client.do("publish")
        client.wait_for_messages(2)
        assert client.link["state"] == "alive", client.name
    assert relay.seen("closed") == relay.errors == []
    relay.deaf(swallow=True)
    for client in everywhere:
        client.wait_until_lost(15)
        assert client.fails("publish").recoverable, client.name
