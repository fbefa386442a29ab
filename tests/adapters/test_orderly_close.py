"""A connection that its program closes is not reported as closed by the peer.

The peer ends the stream once it has answered Close, a moment before the client closes its socket.
Each test has a check of the link in that moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import aiormq
import amqp
import kombu
import pytest
from proton.utils import BlockingConnection

import hbshim
from hbshim import messaging
from hbshim.heartbeat.link import Link
from hbshim.heartbeat.state import WATCHED, State
from tests.adapters.connecting import connect_pika
from tests.concurrency import needs_os_threads
from tests.waiting import wait_until
from wsgi_harness.stack.broker import Broker

pytestmark = needs_os_threads

T = 20

#: What answers Close: in AMQP 0-9-1 a frame of the method 10, 51; in AMQP 1.0 the end of a frame's
#: header, and the performative.
ANSWERS = (b"\x01\x00\x00\x00\x00\x00\x04\x00\x0a\x00\x33\xce", b"\x02\x00\x00\x00\x00\x53\x18")

_close = Link.close


def forward(source: socket.socket, target: socket.socket) -> None:
    """Forward what `source` sends; end the stream after what answers Close."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
            if any(answer in data for answer in ANSWERS):
                break
        target.shutdown(socket.SHUT_WR)


@pytest.fixture
def at_once(broker: Broker) -> Iterator[Broker]:
    """The broker, behind a proxy that ends each stream with the answer to Close.

    RabbitMQ by itself takes some seconds if the client does not end its side.
    """
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((broker.host, 0)))

        def accept() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                server = socket.create_connection((broker.host, broker.amqp_port))
                stack.enter_context(client)
                stack.enter_context(server)
                for way in ((client, server), (server, client)):
                    threading.Thread(target=forward, args=way, daemon=True).start()

        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        yield dataclasses.replace(broker, amqp_port=listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join()


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[Link]:
    """Check each link when its peer has ended the stream, before the client closes its socket."""
    found: list[Link] = []

    def close(link: Link) -> None:
        if link.state in WATCHED and not link.wire.closed:
            wait_until(lambda: link.wire.kernel_view().peer_closed, 20)
            link.check(time.monotonic())
            found.append(link)
        _close(link)

    monkeypatch.setattr(Link, "close", close)
    return found


def with_pyamqp(broker: Broker) -> None:
    connection = amqp.Connection(
        f"{broker.host}:{broker.amqp_port}", broker.user, broker.password, heartbeat=T
    )
    connection.connect()
    connection.close()


def with_kombu(broker: Broker) -> None:
    with kombu.Connection(broker.amqp_url(), heartbeat=T) as connection:
        connection.connect()


def with_pika(broker: Broker) -> None:
    connect_pika(broker, T, None).close()


def with_aiormq(broker: Broker) -> None:
    async def main() -> None:
        connection = await aiormq.connect(broker.amqp_url(heartbeat=T))
        await connection.close()

    asyncio.run(main())


def with_proton(broker: Broker) -> None:
    BlockingConnection(
        f"amqp://{broker.host}:{broker.amqp_port}",
        timeout=20,
        user=broker.user,
        password=broker.password,
        virtual_host="vhost:/",
    ).close()


def with_driver(scheme: str) -> Callable[[Broker], None]:
    def connect(broker: Broker) -> None:
        url = broker.amqp_url().replace("amqp://", f"{scheme}://")
        with contextlib.closing(messaging.connect(url)) as driver:
            target = messaging.Target(topic="orderly-close", fanout=True)
            messaging.Client(driver, target).cast("nothing")

    return connect


WAYS: dict[str, Callable[[Broker], None]] = {
    "amqp": with_pyamqp,
    "kombu": with_kombu,
    "pika": with_pika,
    "aiormq": with_aiormq,
    "proton": with_proton,
    "hbkombu": with_driver("hbkombu"),
    "hbpika": with_driver("hbpika"),
    "hbamqp": with_driver("hbamqp"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_check_between_the_answer_and_the_end_of_the_socket(
    way: str, at_once: Broker, checked: list[Link], events: Callable[..., Any]
) -> None:
    hbshim.install()
    WAYS[way](at_once)
    assert {link.state for link in checked} == {State.CLOSED}
    assert "peer-closed" not in events()
