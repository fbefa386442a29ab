"""The transport URLs of RPC and of notifications: what contradicts itself is an error at start."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import hbshim
from tests.stress.oslo.processes import ProgramError, Service
from tests.waiting import wait_until
from wsgi_harness.stack.broker import Broker

SECRET = "pa55word-of-nova"
NOTIFICATIONS = f"hbrabbit://nova:{SECRET}@127.0.0.1:1/nova"


@pytest.mark.parametrize(
    ("rpc", "text"),
    [
        (f"hbamqp://nova:{SECRET}@127.0.0.1:1/glance", "virtual host 'glance' and the one"),
        (f"hbamqp://nova:{SECRET}@127.0.0.1:1/nova?ssl=1", "for RPC uses TLS and the one"),
    ],
)
def test_contradictions_are_named_without_a_password(
    service: Callable[..., Service], rpc: str, text: str
) -> None:
    client = service("native", "[oslo_messaging_notifications]", f"transport_url = {NOTIFICATIONS}")
    client.send("open", url=rpc, topic="never")
    client.answer()
    with pytest.raises(ProgramError, match=text) as raised:
        client.answer()
    assert SECRET not in str(raised.value)


def test_a_pair_that_fits_is_accepted(
    service: Callable[..., Service], url: Callable[..., str]
) -> None:
    client = service(
        "native", "[oslo_messaging_notifications]", f"transport_url = {url('hbrabbit')}"
    )
    client.answer()
    client.do("open", url=url("hbamqp"), topic="fits")


def test_servers_of_hbrabbit_announce_hbshims_version(
    service: Callable[..., Service], url: Callable[..., str], broker: Broker, vhost: str
) -> None:
    server = service("native")
    server.answer()
    server.do("serve", url=url("hbrabbit", vhost=vhost), topic="announced")

    def announced() -> list[str | None]:
        return [
            each.get("client_properties", {}).get("hbshim_version")
            for each in broker.management.connections()
            if each.get("vhost") == vhost
        ]

    wait_until(lambda: set(announced()) == {hbshim.__version__}, 30)
