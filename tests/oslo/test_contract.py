"""oslo.messaging's contract for drivers, held to by hbshim's and, as a control, by its own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.stress.oslo.processes import ProgramError, Service
from tests.stress.oslo.schemes import STOCK, ours
from tests.waiting import wait_until
from wsgi_harness.stack.broker import Broker
from wsgi_harness.wire.relay import Relay

#: What a client logs once a driver that counted its own limits would have given up.
STILL_TRYING = {STOCK: "is unreachable", "hbrabbit": "is unreachable"}
LIMIT = 60


@pytest.mark.parametrize("scheme", [STOCK, *ours()])
def test_unlimited_retries_outlast_the_outage(
    service: Callable[..., Service],
    url: Callable[..., str],
    broker: Broker,
    request: pytest.FixtureRequest,
    scheme: str,
) -> None:
    """`retry=-1` and None: a notification and a cast wait for the broker, and arrive."""
    topic = request.node.name
    server, client = service("native"), service("native")
    own = {} if scheme in STILL_TRYING else {"rpc_timeout": 2, "socket_timeout": 5}
    trying = STILL_TRYING.get(scheme, "not sent yet")
    with Relay(broker.host, broker.amqp_port) as relay:
        server.send("serve", url=url(scheme), topic=topic)
        client.send("open", url=url(scheme, relay.port, **own), topic=topic, news_retry=-1)
        for each in (server, client):
            each.answer()
            each.answer()
        commands = ("notify", "cast")
        for command in commands:
            client.do(command, value=f"{command} before")
            logged = client.log().count(trying)
            relay.stop()
            client.send(command, value=f"{command} during")
            wait_until(lambda logged=logged: client.log().count(trying) > logged, LIMIT)  # type: ignore[misc]
            relay.accept()
            client.answer(LIMIT)
        expected = [f"{command} {when}" for command in commands for when in ("before", "during")]
        wait_until(lambda: sorted(server.do("heard")) == sorted(expected), LIMIT)


@pytest.mark.parametrize("scheme", ["hbkombu", "hbpika"])
def test_n_retries_are_n(
    service: Callable[..., Service],
    url: Callable[..., str],
    broker: Broker,
    request: pytest.FixtureRequest,
    scheme: str,
) -> None:
    """However long they take; each is logged, and the error is oslo.messaging's."""
    client = service("native")
    client.answer()
    with Relay(broker.host, broker.amqp_port) as relay:
        there = url(scheme, relay.port, rpc_timeout=2, socket_timeout=5)
        client.do("open", url=there, topic=request.node.name, retry=2, news_retry=2)
        relay.stop()
        with pytest.raises(ProgramError) as raised:
            client.do("cast", value="lost")
        assert raised.value.kind == "oslo_messaging.exceptions.MessageDeliveryFailure"
        assert client.log().count("not sent yet") == 2
        # The notifier logs what it cannot send, and goes on.
        client.do("notify", value="lost")
        assert client.log().count("not sent yet") == 4


@pytest.mark.parametrize("scheme", [STOCK, *ours()])
def test_a_batch_is_as_large_as_it_is_asked_for(
    service: Callable[..., Service],
    url: Callable[..., str],
    request: pytest.FixtureRequest,
    scheme: str,
) -> None:
    """More than hbshim's prefetch count; that many are waiting, and none is missing."""
    topic, size = request.node.name, 150
    one = service("native")
    one.answer()
    one.do("open", url=url(scheme), topic=topic)
    for number in range(size):
        one.do("notify", value=number)
    one.do("serve_batches", url=url(scheme), topic=topic, size=size)
    wait_until(lambda: one.do("heard") == [size], LIMIT)
