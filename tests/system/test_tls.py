"""TLS: heartbeats go through the session under load, and a silent peer is noticed.

Idle connections: test_tls_silence.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.conftest import RemoteClient
from wsgi_harness.stack.broker import Broker
from wsgi_harness.wire.relay import Relay

T = 1


@pytest.fixture
def ca_file(broker: Broker, tmp_path: Path) -> str:
    file = tmp_path / "ca.pem"
    assert broker.ca_pem
    file.write_text(broker.ca_pem)
    return str(file)


@pytest.fixture
def tls_relay(broker: Broker) -> Iterator[Relay]:
    assert broker.tls_port
    with Relay(broker.host, broker.tls_port) as relay:
        yield relay


def test_forced_heartbeats_under_load(
    everywhere: list[RemoteClient], tls_relay: Relay, ca_file: str
) -> None:
    """A session that is written by two threads at once breaks: the peer sees a bad record."""
    for client in everywhere:
        client.open(tls_relay, heartbeat=T, ca_file=ca_file)
        client.do("force_heartbeats")
        client.send("publish", size=50_000, times=60, pause=0.01)
    for client in everywhere:
        client.answer()
        client.wait_for_messages(60)
        client.do("publish", size=10, times=20, pause=0.02)
        client.wait_for_messages(80)
    assert tls_relay.seen("closed") == []


def test_consumers_are_kept_alive_while_they_read(
    everywhere: list[RemoteClient], tls_relay: Relay, ca_file: str
) -> None:
    for client in everywhere:
        client.open(tls_relay, heartbeat=T, ca_file=ca_file)
        client.do("publish", size=20_000, times=200)
        client.wait_for_messages(200)
        client.do("force_heartbeats")
    before = sum(client.link["heartbeats_sent"] for client in everywhere)
    for client in everywhere:
        client.send("consume", callback=0, total=200)
    for client in everywhere:
        assert client.answer() == 200, client.name
        assert client.link["state"] == "alive", client.name
    assert sum(client.link["heartbeats_sent"] for client in everywhere) > before


def test_silence(everywhere: list[RemoteClient], tls_relay: Relay, ca_file: str) -> None:
    for client in everywhere:
        client.open(tls_relay, heartbeat=T, ca_file=ca_file)
        client.do("publish")
    tls_relay.deaf()
    for client in everywhere:
        client.do("wait", seconds=0.1, how="hub")
    for client in everywhere:
        client.wait_until_lost(15)
        assert client.fails("publish").recoverable, client.name
