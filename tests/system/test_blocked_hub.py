"""A hub that stands still for several T: the links must move to the native thread."""

from __future__ import annotations

from collections.abc import Callable

from tests.system.conftest import RemoteClient
from wsgi_harness.wire.relay import Relay

CELLS = [
    ("eventlet", "kombu", 2),
    ("eventlet", "pika", 2),
    ("eventlet", "kombu", 4),
    ("gevent", "pika", 3),
    ("gevent", "kombu", 2),
    ("gevent", "pika", 4),
]


def test_blocked_for_8_seconds(start: Callable[..., RemoteClient], relay: Relay) -> None:
    clients = [start(model, library) for model, library, _ in CELLS]
    for client, (_, _, timeout) in zip(clients, CELLS, strict=True):
        client.open(relay, heartbeat=timeout)
        # The hub runs, and so the heartbeats start there.
        client.do("wait", seconds=0.1, how="hub")
        client.send("wait", seconds=8, how="block")
    for client in clients:
        client.answer()
        assert client.wait_until_at_broker()
        client.do("publish")
        client.wait_for_messages(1)
        report = client.do("report")
        assert report["workers"] == ["greenthread", "pthread"], client.name
        assert report["counters"]["event:worker-moved"] == 1, client.name
    assert relay.seen("closed") == []


def test_a_green_thread_that_the_user_insists_on_is_not_moved_and_dies(
    start: Callable[..., RemoteClient], relay: Relay
) -> None:
    clients = [start("eventlet", library) for library in ("kombu", "pika")]
    for client in clients:
        client.open(relay, heartbeat=2, options={"worker": "greenthread"})
        client.send("wait", seconds=8, how="block")
    relay.wait_for("rst", "server", count=len(clients))
    for client in clients:
        client.answer()
        report = client.do("report")
        assert report["counters"]["event:worker-late"] >= 1
        assert "event:worker-moved" not in report["counters"]
