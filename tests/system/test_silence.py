"""Behind a relay that becomes deaf, the next publish must fail instead of being swallowed."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.system.conftest import CommandError, RemoteClient
from wsgi_harness.wire.relay import Relay

T = 1


@pytest.mark.parametrize("swallow", [False, True], ids=["deaf", "swallowing"])
def test_next_publish_raises_the_librarys_own_error(
    start: Callable[..., RemoteClient], everywhere: list[RemoteClient], relay: Relay, swallow: bool
) -> None:
    clients = [*everywhere, start("native", "amqp")]
    for client in clients:
        client.open(relay, heartbeat=T)
        client.do("publish")
    relay.deaf(swallow=swallow)
    for client in clients:
        client.wait_until_lost(15)
        assert client.fails("publish").recoverable, client.name
        assert client.do("report")["counters"]["event:link-silent"] == 1, client.name
    relay.resume()
    for client in clients:
        client.do("reopen")
        client.do("publish")


def test_without_hbshim_it_is_accepted_and_lost(
    start: Callable[..., RemoteClient], relay: Relay
) -> None:
    clients = [start("native", library) for library in ("kombu", "pika")]
    for client in clients:
        client.open(relay, heartbeat=T, shim="none")
        client.do("declare", queue=client.name)
        client.do("publish")
        client.wait_for_messages(1)
    relay.deaf(swallow=True)
    relay.wait_for("rst", "server", count=len(clients))  # the broker has given them up
    for client in clients:
        client.do("publish")
    for client in clients:
        witness = start("native", client.library)
        witness.open(heartbeat=60)
        witness.do("declare", queue=client.name)
        assert witness.do("count") == 1, client.name


def test_a_consumer_at_work_does_not_hide_it(
    start: Callable[..., RemoteClient], relay: Relay
) -> None:
    """A few messages wait unread while a callback runs for 8 T; that is no reason to wait."""
    models = [("native", "block"), ("native", "cpu"), ("eventlet", "hub"), ("gevent", "hub")]
    cells = [(model, how, library) for model, how in models for library in ("kombu", "pika")]
    clients = [start(model, library) for model, _, library in cells]
    for client in clients:
        client.open(relay, heartbeat=T)
        client.do("publish", times=20)
        client.wait_for_messages(20)
    for client, (_, how, _) in zip(clients, cells, strict=True):
        client.send("consume", callback=8 * T, total=20, how=how)
    # The broker has sent them all when it sends heartbeats again, as on any idle connection.
    seen = len(relay.seen("heartbeat", "server"))
    relay.wait_for("heartbeat", "server", count=seen + len(clients))
    relay.deaf()
    since = time.time()
    ends = relay.wait_for("fin", "client", count=len(clients))
    known = [end.at - since for end in ends]
    print(f"known after {max(known):.2f} s at most, T = {T} s")  # noqa: T201 - the measurement
    assert max(known) <= 2 * T + 1
    relay.resume()
    for client in clients:
        with pytest.raises(CommandError) as caught:
            client.answer()
        assert caught.value.recoverable, client.name
