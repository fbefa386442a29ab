"""Messages come out as they went in; sections are in their order."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from hbshim.amqp1.encoding import encode
from hbshim.amqp1.errors import ProtocolError
from hbshim.amqp1.messages import (
    Data,
    Message,
    Sequence,
    Single,
    decode_message,
    encode_message,
)
from hbshim.amqp1.performatives import Header, Properties
from hbshim.amqp1.values import Described, Symbol, ULong
from hbshim.errors import PayloadError
from tests.amqp1.strategies import messages


@given(messages)
def test_a_message_comes_out_as_it_went_in(message: Message) -> None:
    assert decode_message(encode_message(message)) == message


def test_the_sections_of_a_message() -> None:
    message = Message(
        Data((b"ab",)),
        Header(durable=True, ttl=1000),
        {"x-opt-a": "b"},
        {"x-opt-c": True},
        Properties("id", to="a/b"),
        {"key": None},
        {"sum": 5},
    )
    assert encode_message(message) == bytes.fromhex(
        "00 53 70 c0 08 03 41 40 70000003e8"
        "00 53 71 c1 0d 02 a307782d6f70742d61 a10162"
        "00 53 72 c1 0b 02 a307782d6f70742d63 41"
        "00 53 73 c0 0b 03 a1026964 40 a103612f62"
        "00 53 74 c1 07 02 a1036b6579 40"
        "00 53 75 a0 02 6162"
        "00 53 78 c1 08 02 a30373756d 5505"
    )


def test_a_body_of_several_sections_is_one_content() -> None:
    assert Data((b"a", b"", b"b")).content == b"ab"
    assert Data((b"a",)).content == b"a"
    assert Data(()).content == b""


def section(code: Any, content: Any) -> bytes:
    return encode(Described(code, content))


HEADER, DATA = section(ULong(0x70), []), section(ULong(0x75), b"")


@pytest.mark.parametrize(
    ("data", "body"),
    [
        (b"", Data(())),
        (DATA, Data((b"",))),
        (section(Symbol("amqp:data:binary"), b"x"), Data((b"x",))),
        (section(Symbol("amqp:amqp-sequence:list"), [1]), Sequence(([1],))),
        (section(Symbol("amqp:amqp-value:*"), None), Single(None)),
        (section(ULong(0x77), Described(Symbol("x"), 1)), Single(Described(Symbol("x"), 1))),
    ],
)
def test_bodies_of_all_kinds(data: bytes, body: Any) -> None:
    assert decode_message(data).body == body


MALFORMED = {
    "no section": (encode(5), "without descriptor"),
    "an unknown section": (section(ULong(0x79), []), "not the descriptor of a section"),
    "a performative": (section(ULong(0x10), ["c"]), "not the descriptor of a section"),
    "a list as descriptor": (section([], []), "not the descriptor of a section"),
    "twice": (HEADER + HEADER, "section 0x70 of a message comes after 0x70"),
    "out of order": (DATA + HEADER, "section 0x70 of a message comes after 0x75"),
    "bodies of two kinds": (DATA + section(ULong(0x77), 1), "bodies of two kinds"),
    "two values": (2 * section(ULong(0x77), 1), "comes after"),
    "data that is no binary": (section(ULong(0x75), "text"), "data:binary holds str"),
    "a sequence that is no list": (section(ULong(0x76), {}), "amqp-sequence:list holds dict"),
    "annotations that are no map": (section(ULong(0x72), []), "annotations:map holds list"),
    "keys that are no text": (section(ULong(0x74), {Symbol("a"): 1}), "is not a string"),
    "cut off": (DATA[:-1], "cut off"),
    "cut off after the descriptor": (DATA[:3], "cut off"),
    "cut off header": (HEADER[:-1], "cut off"),
    "more behind it": (DATA + b"\0", "cut off"),
}


@pytest.mark.parametrize(("data", "message"), MALFORMED.values(), ids=MALFORMED)
def test_what_amqp_does_not_allow_is_one_error(data: bytes, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        decode_message(data)


def test_keys_of_application_properties_are_text() -> None:
    body = Data(())
    with pytest.raises(PayloadError, match="it must be text"):
        encode_message(Message(body, application_properties={5: 1}))  # type: ignore[dict-item]
