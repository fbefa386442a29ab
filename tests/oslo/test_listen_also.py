"""Servers of oslo.messaging that receive from two transports."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.stress.oslo.processes import ProgramError, Service
from tests.waiting import wait_until

#: Concurrency model, own scheme and its group, and the other one: the old side, or the new one.
CASES = [
    ("native", "hbpika", "oslo_messaging_pika", "rabbit"),
    ("native", "hbrabbit", "oslo_messaging_rabbit", "hbamqp"),
    ("green", "hbamqp", "oslo_messaging_amqp", "hbrabbit"),
]


@pytest.mark.parametrize(("model", "own", "group", "other"), CASES)
def test_a_server_answers_over_the_transport_that_asked(
    service: Callable[..., Service],
    url: Callable[..., str],
    request: pytest.FixtureRequest,
    vhost: str,
    model: str,
    own: str,
    group: str,
    other: str,
) -> None:
    topic, there = request.node.name, url(other, vhost=vhost)
    server = service(model, f"[{group}]", f"listen_also = {there}")
    client = service(model)
    server.send("serve", url=url(own), topic=topic)
    for each in (server, client):
        each.answer()
    server.answer()
    for name, over in (("near", url(own)), ("far", there)):
        client.do("open", url=over, topic=topic)
        assert client.do("call", value=name) == name
        client.do("cast", value=f"{name} cast")
        with pytest.raises(ProgramError, match="a bad one"):
            client.do("fail", text="a bad one")
    wait_until(lambda: {"near cast", "far cast"} <= set(server.do("heard")), 30)


def test_a_transport_that_cannot_be_used_is_named_without_its_url(
    service: Callable[..., Service], url: Callable[..., str]
) -> None:
    secret = "pa55word-of-nova"
    server = service(
        "native", "[oslo_messaging_pika]", f"listen_also = nothing://nova:{secret}@host/"
    )
    server.send("serve", url=url("hbpika"), topic="never")
    server.answer()
    with pytest.raises(ProgramError, match=r"listen_also of .* cannot be used") as raised:
        server.answer()
    assert secret not in str(raised.value)
