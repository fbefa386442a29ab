"""The named deployments, and settings that contradict each other: errors at start."""

from __future__ import annotations

from typing import Any

import pytest

from hbshim import messaging
from hbshim.errors import OptionError
from hbshim.messaging.hybrid.deployments import Backend, check

RABBIT = Backend("hbpika", "nova", False, {})
ROUTER = Backend("hbamqp", "nova", False, {}, profile="auto")
ZMQ = Backend("hbzmq", "", False, {})


def differing(backend: Backend, **changes: Any) -> Backend:
    import dataclasses

    return dataclasses.replace(backend, **changes)


@pytest.mark.parametrize(
    ("rpc", "notifications", "deployment"),
    [
        (RABBIT, None, None),
        (RABBIT, None, "rabbitmq"),
        (RABBIT, RABBIT, "rabbitmq"),
        # RabbitMQ 4 speaks AMQP 1.0, too.
        (ROUTER, None, "rabbitmq"),
        (ROUTER, RABBIT, "hybrid"),
        (ROUTER, RABBIT, None),
        (differing(ROUTER, direct_notifications=True, profile="router"), None, "router"),
        (differing(ROUTER, profile="router"), RABBIT, "hybrid"),
        # ZeroMQ has neither virtual hosts nor TLS.
        (ZMQ, differing(RABBIT, tls=True), None),
        (RABBIT, differing(ROUTER, profile="rabbitmq"), "rabbitmq"),
        (
            differing(ROUTER, tls=True, tls_options={"cafile": "/one.pem"}),
            differing(RABBIT, tls=True, tls_options={"cafile": "/other.pem", "verify": True}),
            "hybrid",
        ),
    ],
)
def test_deployments_that_are_whole(
    rpc: Backend, notifications: Backend | None, deployment: Any
) -> None:
    check(rpc, notifications, deployment)


@pytest.mark.parametrize(
    ("rpc", "notifications", "deployment", "text"),
    [
        (ZMQ, None, "rabbitmq", "RPC over RabbitMQ, and the URL for RPC is hbzmq://"),
        (ZMQ, RABBIT, "rabbitmq", "the URL for RPC is hbzmq://"),
        (ZMQ, RABBIT, "hybrid", "RPC over a router, and the URL for RPC is hbzmq://"),
        (ZMQ, None, "router", "RPC over a router, and the URL for RPC is hbzmq://"),
        (RABBIT, ZMQ, "rabbitmq", "notifications over RabbitMQ, and notifications= is hbzmq://"),
        (ROUTER, ZMQ, "hybrid", "notifications over RabbitMQ, and notifications= is hbzmq://"),
        (
            ROUTER,
            differing(ROUTER, profile="router", direct_notifications=True),
            "hybrid",
            "notifications= is hbamqp:// with addressing_profile=router; use the URL of RabbitMQ",
        ),
        (differing(ROUTER, profile="rabbitmq"), RABBIT, "hybrid", "addressing_profile=rabbitmq"),
        (differing(ROUTER, profile="legacy"), None, "rabbitmq", "addressing_profile=legacy"),
        (
            differing(ROUTER, profile="rabbitmq", direct_notifications=True),
            None,
            "router",
            "addressing_profile=rabbitmq",
        ),
        (RABBIT, None, "hybrid", "hbpika://; use hbamqp:// or hbamqps://"),
        (RABBIT, None, "router", "hbpika://; use hbamqp:// or hbamqps://"),
        (ROUTER, None, "hybrid", "name it with notifications="),
        (ROUTER, None, "router", "set direct_notifications=true"),
        (ROUTER, RABBIT, "router", "use messaging_backend=hybrid"),
        (ROUTER, RABBIT, "both", "use one of rabbitmq, router, hybrid"),
        (
            differing(ROUTER, profile="router"),
            None,
            "rabbitmq",
            "the URL for RPC is hbamqp:// with address",
        ),
        (differing(ROUTER, profile="router"), None, None, "name a broker with notifications="),
        (RABBIT, differing(ROUTER, profile="router"), None, "name a broker with notifications="),
        (ROUTER, differing(RABBIT, virtual_host="/"), None, "virtual host 'nova' and the one"),
        (differing(ROUTER, tls=True), RABBIT, None, "for RPC uses TLS and the one for notif"),
        (ROUTER, differing(RABBIT, tls=True), None, "for notifications uses TLS and the one"),
        (
            differing(ROUTER, tls=True, tls_options={"verify": False}),
            differing(RABBIT, tls=True),
            None,
            "differ in verify of TLS: False for RPC, True for notifications",
        ),
        (
            differing(ROUTER, tls=True, tls_options={"version": "tlsv1_3"}),
            differing(RABBIT, tls=True),
            None,
            "differ in version of TLS",
        ),
    ],
)
def test_contradictions_name_what_to_change(
    rpc: Backend, notifications: Backend | None, deployment: Any, text: str
) -> None:
    with pytest.raises(OptionError, match=text.replace("(", "\\(")):
        check(rpc, notifications, deployment)


SECRET = "pa55word-of-nova"


@pytest.mark.parametrize(
    ("url", "more"),
    [
        (f"hbamqp://nova:{SECRET}@r1/nova", {"notifications": f"hbpika://n:{SECRET}@mq/glance"}),
        (f"hbamqp://nova:{SECRET}@r1/", {"notifications": f"hbpika://n:{SECRET}@mq/?ssl=1"}),
        (f"hbpika://nova:{SECRET}@r1/", {"messaging_backend": "hybrid"}),
        (f"hbpika://nova:{SECRET}@r1/", {"listen_also": f"hbpika://n:{SECRET}@mq/"}),
        (f"hbpika://nova:{SECRET}@r1/", {"listen_also": [f"hbpika://n:{SECRET}/@mq/"]}),
        # The same backend twice.
        (f"hbpika://nova:{SECRET}@r1/", {"listen_also": [f"hbkombu://n:{SECRET}@mq,n@r1/"]}),
        (f"hbpika://nova:{SECRET}@r1/", {"notifications": f"nothing://n:{SECRET}@mq/"}),
        (f"hbpika://nova:{SECRET}@r1/", {"notifications": f"hbrabbit://n:{SECRET}@mq/"}),
        (f"hbpika://nova:{SECRET}@r1/", {"notifications": f"hbpika://n:{SECRET}@mq/?no=1"}),
    ],
)
def test_urls_are_compared_before_anything_connects_and_not_shown(
    url: str, more: dict[str, Any]
) -> None:
    with pytest.raises(OptionError) as caught:
        messaging.connect(url, **more)
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value)
