"""What is encoded here is what pika encodes, and pika reads what is published."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pytest
from pika import frame, spec
from pika.data import encode_table
from pika.frame import decode_frame

from hbshim.errors import PayloadError
from hbshim.protocol import methods
from hbshim.protocol.encode import acknowledgement, publication, rejection
from hbshim.protocol.messages import PERSISTENT, Message


def table(values: Mapping[str, Any]) -> bytes:
    pieces: list[bytes] = []
    encode_table(pieces, values)
    return b"".join(pieces)


ARGUMENTS = {"x-expires": 60000, "x-queue-type": "quorum"}

CASES = {
    "channel.open": (methods.channel_open(3), spec.Channel.Open()),
    "channel.close-ok": (methods.frame(3, methods.CHANNEL_CLOSE_OK), spec.Channel.CloseOk()),
    "confirm.select": (methods.confirm_select(3), spec.Confirm.Select(nowait=True)),
    "exchange.declare": (
        methods.exchange_declare(3, "e", "topic"),
        spec.Exchange.Declare(exchange="e", type="topic", durable=True, arguments={}),
    ),
    "queue.declare": (
        methods.queue_declare(3, "q", arguments=table(ARGUMENTS)),
        spec.Queue.Declare(queue="q", durable=True, arguments=ARGUMENTS),
    ),
    "queue.declare, exclusive": (
        methods.queue_declare(3, "q", exclusive=True),
        spec.Queue.Declare(queue="q", exclusive=True, arguments={}),
    ),
    "queue.declare, passive": (
        methods.queue_declare(3, "q", passive=True),
        spec.Queue.Declare(queue="q", passive=True, arguments={}),
    ),
    "queue.bind": (
        methods.queue_bind(3, "q", "e", "k"),
        spec.Queue.Bind(queue="q", exchange="e", routing_key="k", arguments={}),
    ),
    "queue.delete": (
        methods.queue_delete(3, "q", if_unused=True, if_empty=False),
        spec.Queue.Delete(queue="q", if_unused=True),
    ),
    "queue.delete, empty": (
        methods.queue_delete(3, "q", if_unused=False, if_empty=True),
        spec.Queue.Delete(queue="q", if_empty=True),
    ),
    "basic.qos": (methods.basic_qos(3, 7), spec.Basic.Qos(prefetch_count=7)),
    "basic.consume": (
        methods.basic_consume(3, "q", "c", acknowledged=True, arguments=table({"x-priority": 5})),
        spec.Basic.Consume(queue="q", consumer_tag="c", arguments={"x-priority": 5}),
    ),
    "basic.consume, no acknowledgement": (
        methods.basic_consume(3, "q", "c", acknowledged=False, no_wait=True),
        spec.Basic.Consume(queue="q", consumer_tag="c", no_ack=True, nowait=True, arguments={}),
    ),
    "basic.cancel": (methods.basic_cancel(3, "c"), spec.Basic.Cancel(consumer_tag="c")),
    "basic.ack": (acknowledgement(3, 9), spec.Basic.Ack(delivery_tag=9)),
    "basic.reject": (rejection(3, 9), spec.Basic.Reject(delivery_tag=9, requeue=True)),
}


@pytest.mark.parametrize(("ours", "pikas"), CASES.values(), ids=CASES)
def test_a_method_is_encoded_as_pika_does(ours: bytes, pikas: Any) -> None:
    assert ours == frame.Method(3, pikas).marshal()


def test_a_name_has_255_bytes_at_most() -> None:
    with pytest.raises(PayloadError, match="255 bytes at most"):
        methods.queue_declare(3, "ä" * 128)


def test_what_the_broker_answers() -> None:
    closed = frame.Method(3, spec.Channel.Close(404, "NOT_FOUND", 60, 40)).marshal()[7:-1]
    assert methods.closed_channel(closed) == (404, "NOT_FOUND", methods.BASIC_PUBLISH)
    deleted = frame.Method(3, spec.Queue.DeleteOk(message_count=77)).marshal()[7:-1]
    assert methods.deleted_messages(deleted) == 77


def frames_of(data: bytes) -> list[Any]:
    found = []
    while data:
        length, decoded = decode_frame(data)
        found.append(decoded)
        data = data[length:]
    return found


@pytest.mark.parametrize("size", [0, 1, 4088, 4089, 10000])
def test_pika_reads_what_is_published(size: int) -> None:
    message = Message(
        b"x" * size,
        "an.exchange",
        "a.key",
        content_type="text/plain",
        headers={"a": 1},
        delivery_mode=PERSISTENT,
        correlation_id="correlation",
        reply_to="reply",
        deadline=time.monotonic() + 60,
        message_id="id",
        type="a type",
    )
    method, header, *bodies = frames_of(publication(message, 3, 4096, table, mandatory=True))
    assert {each.channel_number for each in (method, header, *bodies)} == {3}
    assert (method.method.exchange, method.method.routing_key) == ("an.exchange", "a.key")
    assert method.method.mandatory
    assert header.body_size == size
    assert b"".join(body.fragment for body in bodies) == message.body
    assert all(len(body.fragment) <= 4096 - 8 for body in bodies)
    properties = header.properties
    for name in ("content_type", "headers", "delivery_mode", "correlation_id", "reply_to"):
        assert getattr(properties, name) == getattr(message, name), name
    assert (properties.message_id, properties.type) == ("id", "a type")
    assert 50_000 < int(properties.expiration) <= 60_000


@pytest.mark.parametrize("field", ["routing_key", "correlation_id", "type"])
def test_a_property_that_is_too_long(field: str) -> None:
    message = Message(b"", "", "q")
    setattr(message, field, "k" * 256)
    with pytest.raises(PayloadError, match="255 bytes"):
        publication(message, 3, 4096, table)
