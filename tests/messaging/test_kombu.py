"""What only the connection over kombu does; what every connection does is in test_connection.py."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator

import pytest

from hbshim.errors import ConnectError, UnroutableError
from hbshim.messaging import kombu
from hbshim.messaging.amqp.connection import Delivery, Message, Queue
from hbshim.messaging.hosts import Host, Hosts
from hbshim.messaging.options import MessagingOptions
from tests.waiting import wait_until
from wsgi_harness.stack.broker import Broker

LIMIT = 20.0
OPTIONS = MessagingOptions(socket_timeout=LIMIT)


@pytest.fixture(scope="module")
def host(broker: Broker) -> Host:
    return next(iter(Hosts.from_url(broker.amqp_url())))


@pytest.fixture
def connection(host: Host) -> Iterator[kombu.KombuConnection]:
    opened = kombu.connect(host, OPTIONS, LIMIT)
    yield opened
    opened.close()


@pytest.fixture
def queue(connection: kombu.KombuConnection) -> str:
    name = f"kombu-{uuid.uuid4().hex}"
    connection.declare_queue(Queue(name, exclusive=True))
    return name


def drain_until(connection: kombu.KombuConnection, condition) -> None:
    def drained() -> bool:
        connection.drain(0.1)
        return bool(condition())

    wait_until(drained, LIMIT)


def test_every_property_and_a_body_of_several_frames_arrive_as_they_were_sent(connection, queue):
    arrived: list[Delivery] = []
    connection.consume(queue, arrived.append)
    body = bytes(range(256)) * 2000
    connection.publish(
        Message(
            body,
            "",
            queue,
            message_id="m",
            correlation_id="c",
            reply_to="r",
            expiration=60,
            type="t",
            headers={"n": 1, "s": "ä"},
        )
    )
    drain_until(connection, lambda: arrived)
    found = arrived[0]
    assert found.body == body
    assert (found.message_id, found.correlation_id, found.reply_to) == ("m", "c", "r")
    assert (found.expiration, found.type, found.headers) == (60.0, "t", {"n": 1, "s": "ä"})
    assert found.content_type == "application/json"


def test_a_cast_into_nowhere_ends_no_other_publication(connection, queue):
    connection.publish(Message(b"lost", "no-such-exchange", "key"))
    # The broker closes the channel for that one; whoever publishes next must not notice.
    for number in range(200):
        connection.publish(Message(b"%d" % number, "", queue))
    connection.publish_confirmed(Message(b"last", "", queue), LIMIT)
    with pytest.raises(UnroutableError):
        connection.publish_confirmed(Message(b"", "", "no-such-queue"), LIMIT)


def test_a_consumer_whose_channel_is_closed_is_told_and_old_tags_are_forgotten(connection, queue):
    arrived: list[Delivery] = []
    told = threading.Event()
    connection.consume(queue, arrived.append, on_cancelled=told.set)
    connection.publish(Message(b"once", "", queue))
    drain_until(connection, lambda: arrived)
    connection.publish(Message(b"", "no-such-exchange", "key"))
    drain_until(connection, told.is_set)
    # Acknowledged on the channel of today it would be an unknown tag, and close that, too.
    connection.acknowledge(arrived[0].tag)
    connection.consume(queue, arrived.append)
    drain_until(connection, lambda: len(arrived) == 2)
    assert arrived[1].redelivered
    connection.acknowledge(arrived[1].tag)
    assert connection.queue_exists(queue)


def test_refusals_name_what_was_refused_but_not_the_password(host):
    with pytest.raises(ConnectError, match="credentials of user 'stranger'") as refused:
        kombu.connect(Host(host.hostname, host.port, "stranger", "not-a-secret"), OPTIONS, LIMIT)
    assert refused.value.final
    assert "not-a-secret" not in str(refused.value)
    with pytest.raises(ConnectError, match="virtual host 'nowhere'") as missing:
        kombu.connect(
            Host(host.hostname, host.port, host.username, host.password, "nowhere"), OPTIONS, LIMIT
        )
    assert missing.value.final
    with pytest.raises(ConnectError) as absent:
        kombu.connect(Host("127.0.0.1", 1), OPTIONS, LIMIT)
    assert not absent.value.final
