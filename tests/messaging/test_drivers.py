"""A URL's scheme names the client library; nothing is connected before it is used."""

from __future__ import annotations

import socket
import time
from types import SimpleNamespace
from typing import Any

import pytest

from hbshim.errors import ConnectError, MessagingError, OptionError, PayloadError
from hbshim.messaging import (
    AmqpOptions,
    Client,
    NotificationServer,
    Notifier,
    Server,
    Target,
    connect,
)
from hbshim.messaging.amqp.factory import PIKA
from hbshim.messaging.hosts import Host


@pytest.mark.parametrize("scheme", ["hbkombu", "hbpika"])
def test_a_driver_is_made_for_several_hosts_of_ipv6(scheme: str) -> None:
    driver: Any = connect(f"{scheme}://one,[::1]:5673/vhost?pool_max_size=3", pool_stale=9)
    assert (driver.options.pool_max_size, driver.options.pool_stale) == (3, 9)
    driver.close()


@pytest.mark.parametrize("url", ["amqp://u:s3cret@host/", "rabbit://u:s3cret@[host/", "host", ""])
def test_a_url_of_no_driver_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(OptionError, match="begin it with hbkombu:// or hbpika://") as caught:
        connect(url)
    assert "s3cret" not in str(caught.value)


def tried(**own: Any) -> list[int]:
    """The ports of eight hosts that refuse, in the order in which a driver tries them."""
    bound = []
    try:
        # Bound and not listening: every connection is refused.
        for _ in range(8):
            sock = socket.socket()
            bound.append(sock)
            sock.bind(("127.0.0.1", 0))
        ports = [sock.getsockname()[1] for sock in bound]
        options = AmqpOptions(socket_timeout=10, connection_retry_attempts=1, **own)
        driver = PIKA.open([Host("127.0.0.1", port) for port in ports], options)
        with pytest.raises(ConnectError) as caught:
            driver.delete_queue(Target("nothing"))
        driver.close()
    finally:
        for sock in bound:
            sock.close()
    said = str(caught.value)
    return sorted(range(8), key=lambda number: said.index(f":{ports[number]}"))


def test_hosts_are_tried_in_their_order_where_that_is_asked_for() -> None:
    assert tried(hosts_shuffle=False) == list(range(8))


def test_hosts_are_tried_in_a_random_order() -> None:
    """By chance the same order four times: once in 6e13."""
    assert len({tuple(tried()) for _ in range(4)}) > 1


def test_several_hosts_have_quorum_queues_or_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    def quorum(hosts: str, **options: Any) -> tuple[bool | None, int]:
        driver: Any = connect(f"hbpika://{hosts}/", **options)
        driver.close()
        return driver.options.quorum_queues, len(caplog.records)

    assert quorum("one") == (None, 0)
    assert quorum("one", quorum_queues=True) == (True, 0)
    assert quorum("one,two") == (True, 0)
    assert quorum("one,two", quorum_queues=True) == (True, 0)
    assert quorum("one,two", quorum_queues=False) == (False, 1)
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("hbshim.messaging", "WARNING")
    assert "RabbitMQ does not replicate" in record.message


@pytest.mark.parametrize("pattern", ["call", "cast", "submit", "notify"])
def test_the_limit_of_a_driver_holds_for_whatever_is_sent_over_it(pattern: str) -> None:
    driver = connect("hbpika://host/", payload_limit=200)
    sends = {
        "notify": lambda: Notifier(driver, "topic", "here").info("event", "x" * 200),
        **{
            name: lambda name=name: getattr(Client(driver, Target("topic")), name)("m", a="x" * 200)  # type: ignore[misc]
            for name in ("call", "cast", "submit")
        },
    }
    with pytest.raises(PayloadError, match="payload_limit is 200"):
        sends[pattern]()
    driver.close()


def test_the_limit_of_a_driver_holds_for_what_servers_reply() -> None:
    driver = connect("hbpika://host/", payload_limit=200)
    server = Server(driver, Target("t"), [])
    listener = NotificationServer(driver, ["t"], [SimpleNamespace(info=print)])
    assert server._handler._encoding.limit == listener._handler._encoding.limit == 200
    driver.close()


def test_a_call_that_names_no_time_has_the_drivers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        driver: Any = connect(f"hbpika://127.0.0.1:{port}/", rpc_timeout=0.5, socket_timeout=50)
        began = time.monotonic()
        with pytest.raises(MessagingError):
            Client(driver, Target("topic")).call("anything")
        assert time.monotonic() - began < 20, "the time was not the driver's"
        driver.close()
