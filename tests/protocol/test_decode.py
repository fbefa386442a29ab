"""What arrives, decoded from bytes that pika wrote."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import frame, spec
from pika.data import decode_table

from hbshim.adapters.pika.session import PikaSession
from hbshim.adapters.pyamqp.session import KombuSession
from hbshim.protocol.decode import DeliveryDecoder, OnMessage
from hbshim.protocol.messages import Delivery

BODY_FRAME = 3

texts = st.none() | st.text(max_size=60).filter(lambda text: len(text.encode()) < 256 and text)
properties = st.builds(
    spec.BasicProperties,
    content_type=texts,
    content_encoding=texts,
    headers=st.none() | st.dictionaries(st.text("abc", min_size=1, max_size=5), st.integers(0, 99)),
    delivery_mode=st.none() | st.sampled_from((1, 2)),
    priority=st.none() | st.integers(0, 9),
    correlation_id=texts,
    reply_to=texts,
    expiration=texts,
    message_id=texts,
    timestamp=st.none() | st.integers(0, 2**63),
    type=texts,
    user_id=texts,
    app_id=texts,
)


def payload(marshaled: bytes) -> tuple[int, bytes]:
    """Type and payload of a frame."""
    return marshaled[0], marshaled[7:-1]


def method(inner: Any) -> tuple[int, bytes]:
    return payload(frame.Method(1, inner).marshal())


def delivery(
    props: Any,
    size: int,
    tag: int = 7,
    redelivered: bool = False,
    consumer: str = "c",
    key: str = "a.key",
) -> tuple[tuple[int, bytes], tuple[int, bytes]]:
    deliver = spec.Basic.Deliver(consumer, tag, redelivered, "an.exchange", key)
    return method(deliver), payload(frame.Header(1, size, props).marshal())


def decoder_for(
    consumers: dict[str, OnMessage],
    table: Callable[[bytes], dict[str, Any]] = lambda data: decode_table(data, 0)[0],
) -> DeliveryDecoder:
    return DeliveryDecoder(consumers, table, lambda *_: None, lambda *_: None)


@pytest.fixture
def got() -> list[Delivery]:
    return []


@pytest.fixture
def decoder(got: list[Delivery]) -> DeliveryDecoder:
    return decoder_for({"c": got.append})


@given(
    properties,
    st.binary(max_size=300),
    st.integers(1, 2**63),
    st.booleans(),
    st.integers(1, 120),
)
def test_a_message_is_taken_in_as_it_was_sent(
    props: Any, body: bytes, tag: int, redelivered: bool, part: int
) -> None:
    got: list[Delivery] = []
    decoder = decoder_for({"c": got.append})
    for each in delivery(props, len(body), tag, redelivered):
        assert decoder.receive(*each)
    for begin in range(0, len(body), part):
        assert got == []
        assert decoder.receive(BODY_FRAME, body[begin : begin + part])
    (message,) = got
    assert (message.tag, message.redelivered, message.routing_key) == (tag, redelivered, "a.key")
    assert message.body == body
    assert message.headers == (props.headers or {})
    for ours, theirs in {
        "content_type": "content_type",
        "correlation_id": "correlation_id",
        "reply_to": "reply_to",
        "message_id": "message_id",
        "type": "type",
    }.items():
        assert getattr(message, ours) == getattr(props, theirs)


def test_one_message_after_another(decoder: DeliveryDecoder, got: list[Delivery]) -> None:
    for number in range(3):
        for each in delivery(spec.BasicProperties(message_id=str(number)), 2, tag=number + 1):
            assert decoder.receive(*each)
        assert decoder.receive(BODY_FRAME, b"%02d" % number)
    assert [(each.message_id, each.tag, each.body) for each in got] == [
        ("0", 1, b"00"),
        ("1", 2, b"01"),
        ("2", 3, b"02"),
    ]


def test_a_name_that_is_no_utf8_ends_nothing(decoder: DeliveryDecoder, got: list[Delivery]) -> None:
    kind, header = delivery(spec.BasicProperties(message_id="XY"), 0)[1]
    assert decoder.receive(*delivery(spec.BasicProperties(), 0)[0])
    assert decoder.receive(kind, header.replace(b"XY", b"\xff\xfe"))
    assert got[0].message_id == "\ufffd\ufffd"


@pytest.mark.parametrize(
    "table",
    [
        b"\x01kT" + b"\xff" * 8,  # a time that Python has no form for
        b"\x01k?",  # a type that no library knows
    ],
    ids=["time", "type"],
)
@pytest.mark.parametrize("library", ["pika", "kombu"])
def test_headers_that_cannot_be_decoded_end_nothing(
    got: list[Delivery], table: bytes, library: str
) -> None:
    """The message would be redelivered, and end the next connection, too."""
    sessions: dict[str, type[PikaSession | KombuSession]] = {
        "pika": PikaSession,
        "kombu": KombuSession,
    }
    decoder = decoder_for({"c": got.append}, sessions[library].decode_table)
    method_frame, (kind, header) = delivery(spec.BasicProperties(headers={}, message_id="id"), 0)
    assert decoder.receive(*method_frame)
    encoded = len(table).to_bytes(4, "big") + table
    assert decoder.receive(kind, header.replace(b"\x00\x00\x00\x00\x02id", encoded + b"\x02id"))
    assert (got[0].headers, got[0].message_id) == ({}, "id")


def test_a_message_for_an_unknown_consumer_is_an_error(
    decoder: DeliveryDecoder, got: list[Delivery]
) -> None:
    with pytest.raises(OSError, match="another"):
        decoder.receive(*delivery(spec.BasicProperties(), 1, consumer="another")[0])
    assert got == []


def test_other_methods_are_left_to_the_caller(decoder: DeliveryDecoder) -> None:
    assert not decoder.receive(*method(spec.Channel.Close(404, "NOT_FOUND", 60, 20)))


def test_confirms() -> None:
    heard = []
    decoder = DeliveryDecoder(
        {}, lambda _: {}, lambda *confirm: heard.append(confirm), lambda *_: None
    )
    acks = [spec.Basic.Ack(5, False), spec.Basic.Ack(9, True), spec.Basic.Nack(10, True, False)]
    assert all(decoder.receive(*method(each)) for each in acks)
    assert heard == [(5, False, False), (9, True, False), (10, True, True)]


def test_a_message_that_came_back() -> None:
    returned = []
    decoder = DeliveryDecoder(
        {}, lambda _: {}, lambda *_: None, lambda *each: returned.append(each)
    )
    frames = [
        method(spec.Basic.Return(312, "NO_ROUTE", "an.exchange", "a.key")),
        payload(frame.Header(1, 2, spec.BasicProperties(message_id="id")).marshal()),
        (BODY_FRAME, b"ab"),
    ]
    assert all(decoder.receive(*each) for each in frames)
    ((reason, exchange, message),) = returned
    assert (reason, exchange) == ("NO_ROUTE, 312", "an.exchange")
    assert (message.routing_key, message.message_id, message.body) == ("a.key", "id", b"ab")


@pytest.mark.parametrize(
    "frames",
    [
        [method(spec.Channel.CloseOk())],
        [(BODY_FRAME, b"too early")],
        [delivery(spec.BasicProperties(), 3)[1], (BODY_FRAME, b"more than 3")],
        [delivery(spec.BasicProperties(), 3)[1], delivery(spec.BasicProperties(), 3)[1]],
        [(2, b"\0")],
        [(2, delivery(spec.BasicProperties(message_id="x" * 40), 0)[1][1][:14] + b"\x80\0")],
    ],
    ids=["method", "body", "long body", "second header", "short header", "cut off"],
)
def test_what_amqp_does_not_allow_ends_the_connection(
    decoder: DeliveryDecoder, frames: list[tuple[int, bytes]]
) -> None:
    assert decoder.receive(*delivery(spec.BasicProperties(), 3)[0])
    with pytest.raises(OSError, match="not AMQP") as raised:
        for each in frames:
            decoder.receive(*each)
    assert raised.value.errno == errno.EPROTO
