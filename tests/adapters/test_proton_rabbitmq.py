"""qpid-proton on RabbitMQ 4, where AMQP 1.0 is native.

The broker's heartbeat is 4 s: it advertises 2 s, and closes after 8 to 12 s of silence.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pika
import proton
import pytest
from proton import ConnectionException, Message, SSLDomain
from proton.handlers import MessagingHandler
from proton.reactor import Container
from proton.utils import BlockingConnection

import hbshim
from hbshim.errors import AttachError
from hbshim.heartbeat.state import State
from tests.adapters.amqp1_peer import has_closed
from tests.concurrency import MODEL
from tests.waiting import wait_until
from wsgi_harness.stack.broker import Broker

Connect = Callable[..., Any]


@pytest.fixture
def queue(broker: Broker) -> Iterator[str]:
    """A queue, by its AMQP 1.0 address."""
    name = f"proton-{secrets.token_hex(6)}"
    # pika sends no heartbeats while a test sleeps.
    own = pika.BlockingConnection(pika.URLParameters(broker.amqp_url(heartbeat=0)))
    with contextlib.closing(own):
        channel = own.channel()
        channel.queue_declare(name)
        yield f"/queues/{name}"
        channel.queue_delete(name)


@pytest.fixture
def connect(broker: Broker) -> Iterator[Connect]:
    opened: list[Any] = []

    def connect(**options: Any) -> Any:
        login = {"user": broker.user, "password": broker.password, "virtual_host": "vhost:/"}
        login["url"] = f"amqp://{broker.host}:{broker.amqp_port}"
        connection = BlockingConnection(timeout=20, **{**login, **options})
        opened.append(connection)
        return connection

    yield connect
    for connection in opened:
        connection.timeout = 0.5
        with contextlib.suppress(Exception):
            connection.close()


def link_of(connection: Any) -> Any:
    return connection.conn.transport._selectable.__dict__.get("hbshim_link")


def test_a_sleeping_client_is_closed_without_hbshim_and_alive_with_it(
    connect: Connect, queue: str
) -> None:
    control, kept = connect(), hbshim.keep_alive(connect())
    senders = [each.create_sender(queue) for each in (control, kept)]
    assert link_of(kept).timeout == 2.0
    wait_until(lambda: has_closed(control.conn.transport._selectable))
    with pytest.raises(ConnectionException):
        senders[0].send(Message("lost"))
    began = time.monotonic()
    senders[1].send(Message("still here"))
    assert time.monotonic() - began < 5
    assert link_of(kept).heartbeats_sent >= 4
    receiver = kept.create_receiver(queue)
    assert receiver.receive(timeout=20).body == "still here"
    receiver.accept()
    kept.close()


def test_large_messages_and_heartbeats_do_not_mix(connect: Connect, queue: str) -> None:
    connection = connect()
    hbshim.keep_alive(connection)
    link = link_of(connection)
    link.timeout = 0.3
    sender, receiver = connection.create_sender(queue), connection.create_receiver(queue)
    body = os.urandom(1_500_000)
    for _ in range(15):
        sender.send(Message(body))
        assert receiver.receive(timeout=20).body == body
        receiver.accept()
    sent = link.heartbeats_sent
    wait_until(lambda: link.heartbeats_sent >= sent + 3)
    sender.send(Message(b"the end"))
    assert link.state is State.ALIVE


class Relay:
    """Passes on what the client sends, and what the broker answers, while it is not paused."""

    def __init__(self, broker: Broker) -> None:
        self.paused = threading.Event()
        self._server = socket.create_server(("127.0.0.1", 0))
        self._broker = (broker.host, broker.amqp_port)
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        client, _ = self._server.accept()
        broker = socket.create_connection(self._broker)
        with self._server, client, broker, contextlib.suppress(OSError):
            while True:
                # Each takes what the other has sent.
                from_client = [] if self.paused.is_set() else [client]
                for ready in select.select([broker, *from_client], [], [], 0.02)[0]:
                    data = ready.recv(4096)
                    (client if ready is broker else broker).sendall(data)
                    if not data:
                        return


@pytest.mark.skipif(MODEL != "native", reason="the relay runs in a thread beside proton's loop")
def test_nothing_is_sent_into_a_message_that_is_sent_in_part(
    connect: Connect, broker: Broker, queue: str
) -> None:
    relay = Relay(broker)
    connection = connect(url=f"amqp://127.0.0.1:{relay.port}")
    hbshim.keep_alive(connection)
    link = link_of(connection)
    sender = connection.create_sender(queue)
    link.timeout = 0.3
    relay.paused.set()
    delivery = sender.link.send(Message(os.urandom(8_000_000)))
    with contextlib.suppress(proton.Timeout):
        connection.wait(lambda: delivery.settled, timeout=1)
    # The rest is in proton, whose loop stands still, and the kernel has no part of it.
    relay.paused.clear()
    wait_until(lambda: not link.wire.queued())
    assert link._half_written()
    sent, until = link.heartbeats_sent, time.monotonic() + 4 * link.timeout
    wait_until(lambda: time.monotonic() > until)
    assert link.heartbeats_sent == sent
    connection.wait(lambda: delivery.settled, timeout=30)
    assert delivery.remote_state == proton.Delivery.ACCEPTED
    wait_until(lambda: link.heartbeats_sent >= sent + 3)
    sender.send(Message("the end"))


def test_over_tls_it_is_left_alone(
    connect: Connect, broker: Broker, events: Callable[[], list[str]], tmp_path: Any
) -> None:
    authority = tmp_path / "ca.pem"
    authority.write_text(broker.ca_pem or "")
    domain = SSLDomain(SSLDomain.MODE_CLIENT)
    domain.set_trusted_ca_db(str(authority))
    domain.set_peer_authentication(SSLDomain.VERIFY_PEER)
    url = {"url": f"amqps://{broker.host}:{broker.tls_port}", "ssl_domain": domain}
    login = {"user": broker.user, "password": broker.password, "virtual_host": "vhost:/"}
    hbshim.install(heartbeat=5)
    connection = BlockingConnection(timeout=20, **url, **login)
    try:
        assert events() == ["not-kept-alive"]
        assert link_of(connection) is None
        # Nothing is advertised that hbshim would have to check.
        assert connection.conn.transport.idle_timeout == 0
        with pytest.raises(AttachError, match="inside proton's C library"):
            hbshim.keep_alive(connection)
    finally:
        connection.close()


class Parked(MessagingHandler):  # type: ignore[misc]
    """Sends, does nothing for long, and sends again."""

    def __init__(self, url: str, queue: str) -> None:
        super().__init__()
        self.url, self.queue = url, queue
        self.outcomes: list[str] = []
        self.link: Any = None

    def on_start(self, event: Any) -> None:
        connection = event.container.connect(
            self.url, virtual_host="vhost:/", reconnect=False, allowed_mechs="PLAIN"
        )
        event.container.create_sender(connection, self.queue)

    def on_sendable(self, event: Any) -> None:
        if self.link is None:
            self.link = event.transport._selectable.hbshim_link
            event.sender.send(Message("before"))

    def on_accepted(self, event: Any) -> None:
        self.outcomes.append("accepted")
        if len(self.outcomes) == 1:
            # A handler that takes long: proton's loop stands still.
            wait_until(lambda: self.link.heartbeats_sent >= 12)
            event.sender.send(Message("after"))
        else:
            event.connection.close()

    def on_disconnected(self, event: Any) -> None:
        self.outcomes.append("disconnected")


def test_a_container_whose_loop_stands_still(broker: Broker, queue: str) -> None:
    hbshim.install()
    url = f"amqp://{broker.user}:{broker.password}@{broker.host}:{broker.amqp_port}"
    handler = Parked(url, queue)
    Container(handler).run()
    assert handler.outcomes == ["accepted", "accepted"]
    assert handler.link.state is State.CLOSED
