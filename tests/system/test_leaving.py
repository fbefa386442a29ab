"""A connection that the application closes leaves nothing behind; one that it reopens is kept."""

from __future__ import annotations

from collections.abc import Callable

from tests.system.conftest import RemoteClient
from tests.waiting import wait_until
from wsgi_harness.wire.relay import Relay

T = 1


def test_close_leaves_no_descriptor_no_reference_and_no_wakeup(
    everywhere: list[RemoteClient],
) -> None:
    for client in everywhere:
        before = client.do("remains")
        client.open(heartbeat=T)
        client.do("publish")
        first = client.do("bury")
        client.open(heartbeat=T)  # so that what the first open started is not counted
        client.do("bury")
        after = client.do("remains")
        assert first is None
        assert after["objects"] == [], client.name
        # At most the engine, a hub or a pool keep some of their own, and only once.
        client.open(heartbeat=T)
        client.do("bury")
        again = client.do("remains")
        assert again["descriptors"] == after["descriptors"], (client.name, before)
    # A green thread ends at its next slice.
    all_wait(everywhere, 0.5)
    wakeups = {client: client.do("remains")["wakeups"] for client in everywhere}
    all_wait(everywhere, 2 * T)
    for client in everywhere:
        assert client.do("remains")["wakeups"] == wakeups[client], client.name


def all_wait(clients: list[RemoteClient], seconds: float) -> None:
    """Let time pass in every client, side by side."""
    for client in clients:
        client.send("wait", seconds=seconds, how="hub")
    for client in clients:
        client.answer()


def test_the_same_object_reconnects_and_is_kept(
    everywhere: list[RemoteClient], relay: Relay
) -> None:
    for client in everywhere:
        client.open(relay, heartbeat=T)
        client.do("publish")
    relay.stop()
    for client in everywhere:
        client.wait_until_lost(10)
        assert client.fails("publish").recoverable, client.name
    relay.accept()
    for client in everywhere:
        client.do("reopen")
    seen = len(relay.seen("heartbeat", "client"))
    # 3 T for each of them.
    relay.wait_for("heartbeat", "client", count=seen + 6 * len(everywhere))
    for client in everywhere:
        client.do("publish")
        assert client.link["state"] == "alive", client.name


def test_several_timeouts(start: Callable[..., RemoteClient], relay: Relay) -> None:
    clients = [(t, start("native", lib)) for t in (1, 2, 5) for lib in ("kombu", "pika")]
    for timeout, client in clients:
        client.open(relay, heartbeat=timeout)
        client.do("publish")
    last = clients[-1][1]
    wait_until(lambda: last.link["heartbeats_sent"] >= 5, 30)
    for timeout, client in clients:
        # About as many as halves of T have passed, no more: a heartbeat per half T of silence.
        assert 12.5 / timeout <= client.link["heartbeats_sent"] <= 80 / timeout, (
            timeout,
            client.name,
        )
        assert client.wait_until_at_broker()
    assert relay.seen("closed") == []
