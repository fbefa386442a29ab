"""Large bodies through a slow relay, with heartbeats forced whenever the guard allows one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.system.conftest import MODELS, RemoteClient
from wsgi_harness.stack.broker import Broker
from wsgi_harness.wire.relay import Relay

MEBIBYTE = 1 << 20


@pytest.fixture
def narrow_relay(broker: Broker) -> Iterator[Relay]:
    """Small buffers everywhere: writes block in mid-frame, over and over."""
    with Relay(broker.host, broker.amqp_port, receive_buffer=8192, send_buffer=8192) as relay:
        yield relay


@pytest.mark.parametrize("library", ["kombu", "pika"])
@pytest.mark.parametrize("model", MODELS)
def test_no_frame_is_torn(
    start: Callable[..., RemoteClient], narrow_relay: Relay, model: str, library: str
) -> None:
    client = start(model, library)
    client.open(narrow_relay, heartbeat=1, patient=True, send_buffer=8192)
    client.do("force_heartbeats")
    narrow_relay.slow(MEBIBYTE)
    for _ in range(3):
        client.do("publish", size=MEBIBYTE)
        client.do("publish", size=10, times=20, pause=0.02)
    client.wait_for_messages(63)
    heartbeats = client.link["heartbeats_sent"]
    client.do("close")
    narrow_relay.wait_for("closed")
    assert narrow_relay.errors == []
    # Every heartbeat written arrived as a frame of its own; some more before the close.
    assert len(narrow_relay.seen("heartbeat", "client")) >= heartbeats >= 10


@pytest.mark.parametrize("library", ["amqp", "pika"])
def test_without_a_guard_this_test_sees_torn_frames(
    start: Callable[..., RemoteClient], narrow_relay: Relay, library: str
) -> None:
    client = start("native", library)
    client.open(narrow_relay, heartbeat=1, patient=True, send_buffer=8192)
    client.do("blind_guard")
    client.do("force_heartbeats")
    narrow_relay.slow(MEBIBYTE)
    # The broker closes a connection with a torn frame; how that is reported does not matter.
    client.send("publish", size=MEBIBYTE)
    assert narrow_relay.wait_for("malformed", "client")
