"""What the driver does when its connection is gone, and how `hbrabbit://` connects at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.oslo.conftest import MODELS
from tests.stress.oslo.processes import ProgramError, Service
from tests.waiting import wait_until
from wsgi_harness.stack.broker import Broker
from wsgi_harness.wire.relay import Relay

UNREACHABLE = "is unreachable"
#: So long that the driver's own heartbeat thread, which would notice, does not look meanwhile.
HOUR = 3600


@pytest.fixture
def relay(broker: Broker) -> Iterator[Relay]:
    """A relay before the broker."""
    with Relay(broker.host, broker.amqp_port) as relay:
        yield relay


@pytest.fixture
def through(
    service: Callable[..., Service],
    url: Callable[..., str],
    relay: Relay,
    request: pytest.FixtureRequest,
) -> Callable[..., tuple[Service, Service]]:
    """Start a server at the broker, and a client that reaches it through the relay."""

    def start(model: str, scheme: str, **opening: Any) -> tuple[Service, Service]:
        topic = request.node.name
        server, client = service(model, heartbeat=HOUR), service(model, heartbeat=HOUR)
        server.send("serve", url=url(scheme), topic=topic)
        client.send("open", url=url(scheme, relay.port), topic=topic, **opening)
        for each in (server, client):
            each.answer()
            each.answer()
        client.do("cast", value="before")
        wait_until(lambda: server.do("heard") == ["before"], 20)
        return server, client

    return start


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("scheme", ["hbrabbit", "rabbit"])
def test_a_connection_that_is_gone_is_replaced_before_it_is_used(
    through: Callable[..., tuple[Service, Service]], relay: Relay, model: str, scheme: str
) -> None:
    """Stock, the control, runs into the loss, logs an error, and waits for a second."""
    server, client = through(model, scheme)
    relay.reset()
    relay.wait_for("closed")
    client.do("cast", value="after")
    wait_until(lambda: server.do("heard") == ["before", "after"], 20)
    assert (UNREACHABLE in client.log()) == (scheme == "rabbit")
    if scheme == "hbrabbit":
        report = client.do("report")["status"]
        assert report["counters"]["event:dead-in-pool"] == 1
        assert [link["state"] for link in report["links"]] == ["alive"]


@pytest.mark.parametrize("model", MODELS)
def test_a_broker_that_stays_away_is_reported_as_before(
    through: Callable[..., tuple[Service, Service]], relay: Relay, model: str
) -> None:
    server, client = through(model, "hbrabbit", retry=1)
    relay.stop()
    with pytest.raises(ProgramError) as raised:
        client.do("cast", value="lost")
    assert raised.value.kind == "oslo_messaging.exceptions.MessageDeliveryFailure"
    assert UNREACHABLE in client.log()
    relay.accept()
    client.do("cast", value="after")
    wait_until(lambda: server.do("heard") == ["before", "after"], 20)


@pytest.mark.parametrize("model", MODELS)
def test_a_forked_child_opens_a_connection_of_its_own(
    through: Callable[..., tuple[Service, Service]], relay: Relay, model: str
) -> None:
    """And leaves its parent's alone; with stock both write into one stream."""
    server, client = through(model, "hbrabbit")
    opened = len(relay.seen("opened"))
    assert client.do("cast_from_child", value="child") == 0
    assert len(relay.seen("opened")) == opened + 1
    client.do("cast", value="after")
    wait_until(lambda: server.do("heard") == ["before", "child", "after"], 20)
    assert len(relay.seen("opened")) == opened + 1
    assert relay.errors == []


def test_of_several_hosts_one_that_answers_is_taken(
    service: Callable[..., Service],
    broker: Broker,
    url: Callable[..., str],
    request: pytest.FixtureRequest,
) -> None:
    there = url("hbrabbit")
    login = there.partition("://")[2].partition("@")[0]
    several = there.replace("://", f"://{login}@127.0.0.1:1,{login}@127.0.0.1:2,", 1)
    one = service("native")
    one.answer()
    one.do("serve", url=several, topic=request.node.name)
    links = one.do("report")["status"]["links"]
    assert links
    assert {link["peer"] for link in links} == {f"127.0.0.1:{broker.amqp_port}"}


def test_tls(
    service: Callable[..., Service],
    broker: Broker,
    url: Callable[..., str],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    """Set by oslo.messaging's own options, which the scheme does not change."""
    authority = tmp_path / "ca.pem"
    assert broker.ca_pem
    authority.write_text(broker.ca_pem)
    lines = ["ssl = true", f"ssl_ca_file = {authority}"]
    one = service("native", *lines)
    one.answer()
    one.do("serve", url=url("hbrabbit", broker.tls_port), topic=request.node.name)
    assert {link["route"] for link in one.do("report")["status"]["links"]} == {"tls"}


def test_a_bad_value_in_the_file_is_named(
    service: Callable[..., Service], url: Callable[..., str]
) -> None:
    one = service("native", "heartbeat_in_pthread = perhaps")
    one.answer()
    with pytest.raises(ProgramError, match=r"use one of: true \| false \| auto") as raised:
        one.do("open", url=url("hbrabbit"), topic="t")
    assert raised.value.kind == "oslo_messaging.transport.DriverLoadFailure"
    assert "heartbeat_in_pthread" in str(raised.value)
