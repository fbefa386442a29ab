"""One connection to RabbitMQ: opening, sending, receiving, declaring, and its end."""

from __future__ import annotations

import dataclasses
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hbshim.adapters import transport
from hbshim.errors import (
    ConnectError,
    ConnectionLostError,
    PayloadError,
    TopologyError,
    WorkerError,
)
from hbshim.messaging.amqp.addresses import queue_address
from hbshim.messaging.amqp.connection import Queue
from hbshim.messaging.amqp1.connection import Connection
from hbshim.messaging.amqp1.management import Management
from hbshim.messaging.amqp1.outcomes import Outcome
from hbshim.messaging.amqp1.stream import EngineStream
from hbshim.messaging.hosts import Host
from hbshim.protocol.messages import PERSISTENT, Delivery, Message
from tests.messaging.amqp1.conftest import soon
from tests.messaging.conftest import LIMIT, at_once, unique
from tests.waiting import wait_until
from wsgi_harness.stack.broker import Broker
from wsgi_harness.wire.relay import Relay

Opened = Callable[..., Connection]


def ignore(*_arguments: object) -> None:
    pass


@pytest.fixture
def management(connection: Connection) -> Management:
    return Management(connection)


@pytest.fixture
def queue(management: Management) -> str:
    """A queue of :func:`connection`'s own, with a name that has to be encoded."""
    name = unique("queue/with space %ä")
    management.declare_queue(Queue(name, exclusive=True), soon())
    return name


@pytest.fixture
def ca(broker: Broker, tmp_path: Path) -> Path:
    """The authority behind the broker's certificate."""
    assert broker.ca_pem is not None
    path = tmp_path / "ca.pem"
    path.write_text(broker.ca_pem)
    return path


def drain_until(connection: Connection, condition: Callable[[], object]) -> None:
    deadline = soon()
    while not condition():
        assert time.monotonic() < deadline
        connection.drain(0.2)


def outcome(connection: Connection, message: Message) -> Outcome:
    """What the broker makes of a message."""
    found: list[Outcome] = []
    connection.publish(message, soon(), lambda outcome, _: found.append(outcome))
    drain_until(connection, lambda: found)
    return found[0]


# -- opening -------------------------------------------------------------------


def test_wrong_credentials(host: Host, opened: Opened) -> None:
    wrong = dataclasses.replace(host, password="not-this-one")
    with pytest.raises(ConnectError, match="the login of user 'hbshim' failed") as caught:
        opened(wrong)
    assert caught.value.final
    assert "not-this-one" not in str(caught.value)


def test_an_unknown_virtual_host(host: Host, opened: Opened) -> None:
    with pytest.raises(ConnectError, match="is there a virtual host 'nowhere'") as caught:
        opened(dataclasses.replace(host, path="nowhere"))
    assert host.password is not None
    assert host.password not in str(caught.value)


def test_a_login_without_credentials(opened: Opened) -> None:
    with pytest.raises(ConnectError, match=r"the login failed: .*ANONYMOUS") as caught:
        opened(login_method="ANONYMOUS")
    assert caught.value.final


def test_what_listens_there_does_not_speak_amqp(broker: Broker, opened: Opened) -> None:
    port = int(broker.management_url.rpartition(":")[2])
    with pytest.raises(ConnectError, match="does RabbitMQ 4 or a router listen there"):
        opened(Host(broker.host, port, "user", "password"))


@pytest.mark.parametrize("other_broker", ["3.10"], indirect=True)
def test_a_rabbitmq_that_is_too_old(other_broker: Broker, opened: Opened) -> None:
    host = Host(other_broker.host, other_broker.amqp_port, "user", "password")
    with pytest.raises(ConnectError, match="does RabbitMQ 4 or a router listen there") as caught:
        opened(host)
    assert "does not speak this protocol" in str(caught.value)


def test_a_peer_that_does_not_answer(opened: Opened) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ConnectError, match="does not answer in time"):
            opened(Host("127.0.0.1", port, "user", "password"), handshake_timeout=0.3)


def test_over_tls(broker: Broker, opened: Opened, ca: Path) -> None:
    assert broker.tls_port is not None
    host = Host("localhost", broker.tls_port, broker.user, broker.password)
    connection = opened(host, ssl=True, ssl_options={"cafile": str(ca)})
    name = unique("queue")
    Management(connection).declare_queue(Queue(name, exclusive=True), soon())
    got: list[Delivery] = []
    connection.receive_from(queue_address(name), 10, got.append, ignore, soon())
    body = b"x" * 3_000_000
    assert outcome(connection, Message(body, "", name)) is Outcome.ACCEPTED
    drain_until(connection, lambda: got)
    assert got[0].body == body
    with pytest.raises(ConnectError, match="TLS failed"):
        opened(host, ssl=True)


# -- messages --------------------------------------------------------------------


def test_a_message_there_and_back(connection: Connection, queue: str) -> None:
    got: list[Delivery] = []
    connection.receive_from(queue_address(queue), 10, got.append, ignore, soon())
    sent = Message(
        b"body",
        "",
        queue,
        content_type="text/plain",
        message_id="id",
        correlation_id="correlation",
        reply_to="a reply/queue",
        deadline=time.monotonic() + 60,
        delivery_mode=PERSISTENT,
        type="progress",
        headers={"x-hbshim-attempts": 3, "other": "ä"},
    )
    assert outcome(connection, sent) is Outcome.ACCEPTED
    drain_until(connection, lambda: got)
    (found,) = got
    assert (found.body, found.content_type, found.type) == (b"body", "text/plain", "progress")
    assert (found.message_id, found.correlation_id) == ("id", "correlation")
    assert found.reply_to == "a reply/queue"
    assert found.headers["x-hbshim-attempts"] == 3
    assert found.headers["other"] == "ä"
    assert found.expiration is not None
    assert 50 < found.expiration <= 60
    assert not found.redelivered
    assert connection.acknowledge(found.tag)
    assert not connection.acknowledge(found.tag)


def test_no_queue_accepts_it(connection: Connection, management: Management) -> None:
    assert outcome(connection, Message(b"", "", unique("none"))) is Outcome.RELEASED
    exchange = unique("exchange")
    management.declare_exchange(exchange, "direct", soon())
    assert outcome(connection, Message(b"", exchange, "key")) is Outcome.RELEASED


def test_what_is_given_back_comes_again(connection: Connection, queue: str) -> None:
    got: list[Delivery] = []
    connection.receive_from(queue_address(queue), 1, got.append, ignore, soon())
    outcome(connection, Message(b"again", "", queue))
    drain_until(connection, lambda: got)
    assert connection.requeue(got[0].tag)
    drain_until(connection, lambda: len(got) == 2)
    assert got[1].redelivered
    assert connection.refuse(got[1].tag)


def test_prefetch_bounds_what_is_not_settled(connection: Connection, queue: str) -> None:
    for number in range(10):
        outcome(connection, Message(b"%d" % number, "", queue))
    got: list[Delivery] = []
    connection.receive_from(queue_address(queue), 4, got.append, ignore, soon())
    drain_until(connection, lambda: len(got) == 4)
    # What is answered later was sent later, too.
    assert outcome(connection, Message(b"10", "", queue)) is Outcome.ACCEPTED
    assert len(got) == 4
    for settled in range(7):
        connection.acknowledge(got[settled].tag)
        drain_until(connection, lambda settled=settled: len(got) >= min(11, settled + 3))  # type: ignore[misc]
    drain_until(connection, lambda: len(got) == 11)
    assert [each.body for each in got] == [b"%d" % number for number in range(11)]


def test_what_arrives_together_is_accepted_with_one_write(
    connection: Connection, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    got: list[Delivery] = []
    writes: list[int] = []

    def on_delivery(delivery: Delivery) -> None:
        connection.acknowledge_soon(delivery.tag)
        got.append(delivery)

    link = connection.receive_from(queue_address(queue), 100, on_delivery, ignore, soon())
    for number in range(20):
        connection.publish(Message(b"%d" % number, "", queue), soon(), ignore)

    def all_here() -> bool:
        connection.work(lambda _: connection._stream.read_waiting())
        return len(connection._held) == 20

    wait_until(all_here, LIMIT)
    send = EngineStream.send

    def count(stream: EngineStream, data: bytes) -> None:
        writes.append(len(data))
        send(stream, data)

    monkeypatch.setattr(EngineStream, "send", count)
    drain_until(connection, lambda: len(got) == 20)
    assert link.held == 0
    assert len(writes) == 1


def test_what_is_followed_does_not_end_a_drain_when_it_is_accepted(
    connection: Connection, queue: str
) -> None:
    """The caller waits for the reply, which comes after that."""
    outcomes: list[Outcome] = []
    for follow in (False, True):
        connection.publish(
            Message(b"", "", queue),
            soon(),
            lambda found, _: outcomes.append(found),
            follow=follow,
        )
        began = time.monotonic()
        connection.drain(1.0)
        wait_until(lambda: outcomes, LIMIT)
        assert outcomes.pop() is Outcome.ACCEPTED
        assert (time.monotonic() - began >= 1.0) == follow


def test_pausing(connection: Connection, queue: str) -> None:
    got: list[Delivery] = []
    link = connection.receive_from(queue_address(queue), 4, got.append, ignore, soon())
    outcome(connection, Message(b"before", "", queue))
    drain_until(connection, lambda: got)
    connection.pause([link], soon())
    assert link.quiet
    assert outcome(connection, Message(b"after", "", queue)) is Outcome.ACCEPTED
    connection.drain(0.2)
    assert len(got) == 1
    connection.resume(link)
    drain_until(connection, lambda: len(got) == 2)


def test_a_message_that_is_too_large(connection: Connection, queue: str) -> None:
    with pytest.raises(PayloadError, match="the peer accepts messages up to"):
        outcome(connection, Message(bytes(17 * 1024 * 1024), "", queue))
    assert outcome(connection, Message(b"small", "", queue)) is Outcome.ACCEPTED


def test_many_threads_send_while_another_reads(connection: Connection, queue: str) -> None:
    outcomes: list[Outcome] = []

    def send() -> None:
        for _ in range(100):
            connection.publish(
                Message(b"x" * 1000, "", queue), soon(), lambda found, _: outcomes.append(found)
            )

    threads = [threading.Thread(target=send, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    drain_until(connection, lambda: len(outcomes) == 400)
    for thread in threads:
        thread.join(LIMIT)
    assert set(outcomes) == {Outcome.ACCEPTED}


# -- declaring -------------------------------------------------------------------


def test_declaring(connection: Connection, management: Management) -> None:
    exchange, name = unique("exchange"), unique("queue")
    management.declare_exchange(exchange, "direct", soon())
    with pytest.raises(TopologyError, match="inequivalent arg 'type'") as caught:
        management.declare_exchange(exchange, "fanout", soon())
    assert caught.value.code == 406
    assert not management.queue_exists(name, soon())
    management.declare_queue(Queue(name, expires=30), soon())
    with pytest.raises(TopologyError, match="inequivalent arg 'x-expires'"):
        management.declare_queue(Queue(name, expires=40), soon())
    assert management.queue_exists(name, soon())
    management.bind(name, exchange, "key", soon())
    with pytest.raises(TopologyError, match="no exchange") as caught:
        management.bind(name, unique("none"), "key", soon())
    assert caught.value.code == 404
    assert outcome(connection, Message(b"x", exchange, "key")) is Outcome.ACCEPTED
    assert management.delete_queue(name, soon()) == 1
    assert management.delete_queue(name, soon()) == 0


def test_many_threads_declare_at_once(management: Management) -> None:
    """RabbitMQ gives credit for eight requests."""
    exchange = unique("exchange")
    works = [lambda: management.declare_exchange(exchange, "direct", soon())] * 30
    assert at_once(*works) == [None] * 30


def test_another_connections_queue(connection: Connection, queue: str, opened: Opened) -> None:
    other = opened()
    management = Management(other)
    with pytest.raises(TopologyError):
        management.declare_queue(Queue(queue, exclusive=True), soon())
    with pytest.raises(TopologyError) as caught:
        other.receive_from(queue_address(queue), 1, ignore, ignore, soon())
    assert caught.value.code is not None
    # Neither harms what comes after it.
    name = unique("queue")
    management.declare_queue(Queue(name, exclusive=True), soon())
    assert outcome(other, Message(b"x", "", name)) is Outcome.ACCEPTED


def test_a_queue_that_is_deleted_ends_its_link(
    connection: Connection, management: Management, opened: Opened
) -> None:
    name = unique("queue")
    management.declare_queue(Queue(name, expires=30), soon())
    ends: list[str] = []
    got: list[Delivery] = []
    connection.receive_from(queue_address(name), 1, got.append, ends.append, soon())
    outcome(connection, Message(b"x", "", name))
    drain_until(connection, lambda: got)
    Management(opened()).delete_queue(name, soon())
    drain_until(connection, lambda: ends)
    assert "resource-deleted" in ends[0]
    assert not connection.acknowledge(got[0].tag)
    assert connection.is_open


def test_an_address_is_checked_before_it_is_used(
    connection: Connection, management: Management, queue: str
) -> None:
    exchange = unique("exchange")
    with pytest.raises(TopologyError, match="refused to accept messages") as caught:
        connection.check_address(f"/exchanges/{exchange}", soon())
    assert caught.value.code == 404
    management.declare_exchange(exchange, "direct", soon())
    connection.check_address(f"/exchanges/{exchange}", soon())
    assert outcome(connection, Message(b"x", "", queue)) is Outcome.ACCEPTED


# -- time and the end --------------------------------------------------------------


def link_of(connection: Connection) -> Any:
    """What keeps it alive."""
    return connection._stream._transport.link


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_connection_that_no_thread_uses_is_kept_alive(
    opened: Opened, broker: Broker, ca: Path, tls: bool
) -> None:
    """The broker of the tests closes connections that are silent for 8 s at most."""
    if tls:
        assert broker.tls_port is not None
        host = Host("localhost", broker.tls_port, broker.user, broker.password)
        connection = opened(host, ssl=True, ssl_options={"cafile": str(ca)})
    else:
        connection = opened()
    began = time.monotonic()
    wait_until(lambda: time.monotonic() - began > 9 and link_of(connection).heartbeats_sent > 6)
    assert connection.is_open
    name = unique("queue")
    Management(connection).declare_queue(Queue(name, exclusive=True), soon())
    assert outcome(connection, Message(b"x", "", name)) is Outcome.ACCEPTED


def test_a_thread_that_waits_keeps_it_alive_where_hbshim_cannot(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> None:
        raise WorkerError("no thread can be started")

    monkeypatch.setattr(transport, "watch", refuse)
    connection = opened()
    until = time.monotonic() + 9
    while time.monotonic() < until:
        connection.drain(until - time.monotonic())
    assert not link_of(connection).heartbeats_sent
    assert outcome(connection, Message(b"x", "", unique("none"))) is Outcome.RELEASED


def test_a_broken_connection(broker: Broker, host: Host, opened: Opened) -> None:
    with Relay(broker.host, broker.amqp_port) as relay:
        connection = opened(dataclasses.replace(host, hostname=relay.host, port=relay.port))
        name = unique("queue")
        Management(connection).declare_queue(Queue(name, exclusive=True), soon())
        outcomes: list[Outcome] = []
        connection.publish(Message(b"x", "", name), soon(), lambda found, _: outcomes.append(found))
        relay.reset()
        with pytest.raises(ConnectionLostError):
            drain_until(connection, lambda: False)
        assert len(outcomes) == 1
        assert not connection.is_open
        with pytest.raises(ConnectionLostError):
            connection.publish(Message(b"x", "", name), soon(), ignore)


def test_closing(opened: Opened, broker: Broker) -> None:
    connection = opened()
    began = time.monotonic()
    connection.close(LIMIT)
    assert time.monotonic() - began < LIMIT / 2
    assert not connection.is_open
    with pytest.raises(ConnectionLostError, match="is closed"):
        connection.drain(0)
    connection.close()


def test_waking_up_a_thread_that_drains(connection: Connection) -> None:
    done = threading.Event()

    def drain() -> None:
        connection.drain(LIMIT)
        done.set()

    thread = threading.Thread(target=drain, daemon=True)
    thread.start()
    connection.wake()
    assert done.wait(LIMIT / 2)
