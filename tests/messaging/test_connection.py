"""The contract of a connection: the same for every library, in every world."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from hbshim.errors import RejectedError, TopologyError, UnroutableError
from hbshim.messaging.amqp.connection import (
    DIRECT_REPLY,
    PERSISTENT,
    Connection,
    Delivery,
    Message,
    Queue,
)
from tests.messaging.conftest import LIMIT, drain_until, unique
from tests.waiting import wait_until

Opened = Callable[..., Connection]


def message(queue: str, body: bytes = b"body", **properties: object) -> Message:
    return Message(body, "", queue, **properties)  # type: ignore[arg-type]


# -- messages ------------------------------------------------------------------


def test_a_message_arrives_and_is_acknowledged(connection: Connection, opened: Opened) -> None:
    other = opened()
    name = unique("queue")
    connection.declare_queue(Queue(name, expires=60))
    arrived: list[Delivery] = []
    connection.consume(name, arrived.append)
    connection.publish(message(name))
    drain_until(connection, lambda: arrived)
    (delivery,) = arrived
    assert (delivery.body, delivery.routing_key, delivery.redelivered) == (b"body", name, False)
    assert delivery.connection is connection
    connection.acknowledge(delivery.tag)
    connection.close()
    assert other.delete_queue(name) == 0


def test_what_was_not_acknowledged_goes_back(connection: Connection, opened: Opened) -> None:
    other = opened()
    name = unique("queue")
    connection.declare_queue(Queue(name, expires=60))
    arrived: list[Delivery] = []
    connection.consume(name, arrived.append)
    connection.publish(message(name))
    drain_until(connection, lambda: arrived)
    connection.close()
    wait_until(lambda: other.queue_exists(name))
    again: list[Delivery] = []
    other.consume(name, again.append)
    drain_until(other, lambda: again)
    assert again[0].redelivered
    other.delete_queue(name)


def test_requeue(connection: Connection, queue: str) -> None:
    arrived: list[Delivery] = []
    connection.consume(queue, arrived.append)
    connection.publish(message(queue))
    drain_until(connection, lambda: arrived)
    connection.requeue(arrived[0].tag)
    drain_until(connection, lambda: len(arrived) == 2)
    assert (arrived[1].body, arrived[1].redelivered) == (b"body", True)


def test_every_property_arrives_as_it_was_sent(connection: Connection, queue: str) -> None:
    arrived: list[Delivery] = []
    connection.consume(queue, arrived.append)
    sent = message(
        queue,
        content_type="text/plain",
        message_id="an-id",
        correlation_id="a-correlation",
        reply_to="somewhere",
        expiration=12.345,
        delivery_mode=PERSISTENT,
        type="a-type",
        headers={"number": 1, "text": "wörd", "yes": True, "list": [1, "two"], "map": {"a": None}},
    )
    connection.publish(sent)
    drain_until(connection, lambda: arrived)
    (delivery,) = arrived
    for name in ("body", "content_type", "message_id", "correlation_id", "reply_to", "type"):
        assert getattr(delivery, name) == getattr(sent, name), name
    assert delivery.headers == sent.headers
    assert delivery.expiration == pytest.approx(12.345)


def test_a_message_without_properties_has_none(connection: Connection, queue: str) -> None:
    arrived: list[Delivery] = []
    connection.consume(queue, arrived.append)
    connection.publish(message(queue, b""))
    drain_until(connection, lambda: arrived)
    (delivery,) = arrived
    assert delivery.body == b""
    assert delivery.headers == {}
    assert delivery.message_id is delivery.correlation_id is delivery.reply_to is None
    assert delivery.expiration is delivery.type is None


def test_a_body_of_many_frames(connection: Connection, queue: str) -> None:
    arrived: list[Delivery] = []
    connection.consume(queue, arrived.append)
    body = os.urandom(1_000_003)
    connection.publish(message(queue, body), LIMIT)
    connection.publish_confirmed(message(queue, body), LIMIT)
    drain_until(connection, lambda: len(arrived) == 2)
    assert [delivery.body == body for delivery in arrived] == [True, True]


def test_direct_reply(connection: Connection, opened: Opened) -> None:
    server = opened()
    name = unique("queue")
    server.declare_queue(Queue(name, expires=60))

    def reply(request: Delivery) -> None:
        assert request.reply_to is not None
        correlation = request.correlation_id
        server.publish(Message(request.body * 2, "", request.reply_to, correlation_id=correlation))

    server.consume(name, reply, acknowledged=False)
    replies: list[Delivery] = []
    connection.consume(DIRECT_REPLY, replies.append, acknowledged=False)
    connection.publish(message(name, b"ab", reply_to=DIRECT_REPLY, correlation_id="number"))
    server.drain(LIMIT)
    drain_until(connection, lambda: replies)
    assert (replies[0].body, replies[0].correlation_id) == (b"abab", "number")
    server.delete_queue(name)


# -- confirms ------------------------------------------------------------------


def test_a_confirmed_message_is_there(connection: Connection, queue: str) -> None:
    connection.publish_confirmed(message(queue), LIMIT)
    assert connection.delete_queue(queue) == 1


def test_unroutable(connection: Connection, queue: str) -> None:
    with pytest.raises(UnroutableError, match="nowhere"):
        connection.publish_confirmed(message("nowhere"), LIMIT)
    connection.publish_confirmed(message(queue), LIMIT)
    with pytest.raises(UnroutableError, match="nowhere"):
        connection.publish_confirmed(message("nowhere"), LIMIT)
    assert connection.delete_queue(queue) == 1


def test_rejected(connection: Connection) -> None:
    name = unique("queue")
    full = {"x-max-length": 1, "x-overflow": "reject-publish"}
    connection.declare_queue(Queue(name, exclusive=True, arguments=full))
    connection.publish_confirmed(message(name), LIMIT)
    with pytest.raises(RejectedError):
        connection.publish_confirmed(message(name), LIMIT)
    assert connection.delete_queue(name) == 1


def test_confirmed_to_an_exchange_that_is_not_there(connection: Connection, queue: str) -> None:
    with pytest.raises(TopologyError, match="no exchange"):
        connection.publish_confirmed(Message(b"", "not-there", "key"), LIMIT)
    connection.publish_confirmed(message(queue), LIMIT)
    assert connection.delete_queue(queue) == 1
