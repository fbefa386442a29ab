"""Frames' bodies and the types within them come out as they went in."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbshim.amqp1.composites import decode_composite, encode_composite
from hbshim.amqp1.encoding import encode
from hbshim.amqp1.errors import ProtocolError
from hbshim.amqp1.performatives import (
    Accepted,
    Attach,
    Begin,
    Close,
    Disposition,
    Error,
    Flow,
    Modified,
    Open,
    Rejected,
    Released,
    SaslMechanisms,
    SaslOutcome,
    Source,
    Target,
    Transfer,
)
from hbshim.amqp1.values import Array, Described, Symbol, UByte, UInt, ULong, UShort
from hbshim.errors import PayloadError
from tests.amqp1.strategies import FRAMES, composites


@pytest.mark.parametrize("cls", FRAMES, ids=lambda cls: cls.__name__)
@given(st.data())
def test_a_performative_comes_out_as_it_went_in(cls: Any, data: st.DataObject) -> None:
    sent = data.draw(composites(cls))
    encoded = encode_composite(sent)
    # What is sent with a transfer follows it.
    got, end = decode_composite(encoded + b"payload")
    assert (type(got), got, end) == (cls, sent, len(encoded))


#: Frames that qpid-proton 0.40 sends for a connection, a session, a sender and a receiver.
CAPTURED: list[tuple[str, Any]] = [
    (
        "00 53 10 c0 24 08 a10474657374 a10168 7000008000 607fff 40 40 40"
        "f00000000a00000001b30000000161",
        Open("test", "h", 0x8000, 0x7FFF, offered_capabilities=("a",)),
    ),
    (
        "00 53 11 c0 12 05 40 43 707fffffff 707fffffff 707fffffff",
        Begin(None, 0, 0x7FFFFFFF, 0x7FFFFFFF, 0x7FFFFFFF),
    ),
    (
        "00 53 12 c0 26 0b a1016c 43 42 5002 5000 005328c00605404340434200"
        "5329c00805a1017143404342 40 40 43 44",
        Attach("l", 0, False, source=Source(), target=Target("q"))._replace(
            initial_delivery_count=0, max_message_size=0
        ),
    ),
    (
        "00 53 13 c0 14 09 40 707fffffff 43 707fffffff 5201 43 520a 40 42",
        Flow(None, 0x7FFFFFFF, 0, 0x7FFFFFFF, 1, 0, 10),
    ),
]

#: Other forms that the specification allows.
OTHER_FORMS: list[tuple[str, Any]] = [
    ("00 53 24 45", Accepted()),
    ("00 80 0000000000000018 c0 01 00", Close()),
    ("00 a3 0f 616d71703a636c6f73653a6c697374 45", Close()),
    ("00 53 18 d0 00000004 00000000", Close()),
    ("00 53 18 c0 0d 01 00 53 1d c0 07 01 a3 04 613a6263", Close(Error("a:bc"))),
    ("00 53 14 c0 0a 06 43 52 05 a0 01 35 43 42 42", Transfer(0, 5, b"5", 0, False, False)),
    ("00 53 15 c0 0a 05 41 52 05 40 41 00 53 24 45", Disposition(True, 5, None, True, Accepted())),
    ("00 53 40 c0 07 01 a3 04 504c4149", SaslMechanisms(("PLAI",))),
    ("00 53 40 c0 04 01 e0 01 00", SaslMechanisms(())),
]


@pytest.mark.parametrize(("data", "value"), CAPTURED + OTHER_FORMS)
def test_performatives_as_peers_send_them(data: str, value: Any) -> None:
    raw = bytes.fromhex(data)
    assert decode_composite(raw) == (value, len(raw))


def test_trailing_fields_with_their_defaults_are_not_sent() -> None:
    assert encode_composite(Open("c")) == bytes.fromhex("00 53 10 c0 04 01 a1 01 63")
    assert encode_composite(Close()) == bytes.fromhex("00 53 18 45")
    # A mandatory field is sent, whatever its value.
    assert encode_composite(Disposition(False, 0)) == bytes.fromhex("00 53 15 c0 03 02 42 43")


def fields(code: int, *values: Any) -> bytes:
    return encode(Described(ULong(code), list(values)))


SENT = UInt(0)

MALFORMED = {
    "no descriptor": (b"\x45", "without descriptor"),
    "nothing": (b"", "cut off"),
    "unknown descriptor": (fields(0x99), "not the descriptor of any known type"),
    "a list as descriptor": (encode(Described([], [])), "not the descriptor of any known type"),
    "a map instead of a list": (encode(Described(ULong(0x18), {})), "a list cannot have"),
    "too many fields": (
        fields(0x18, None, None),
        "Close has 2 fields; the most are 1, and the last that must be there is none",
    ),
    "a mandatory field is missing": (
        fields(0x10),
        "Open has 0 fields; the most are 10, and the last .* is container_id",
    ),
    "a mandatory field is null": (fields(0x10, None), "Open.container_id is missing"),
    "a field of another type": (fields(0x10, b"c"), "Open.container_id is of type string, not"),
    "int for uint": (fields(0x15, True, 5), "Disposition.first is of type uint, not 0x55"),
    "no settle mode": (fields(0x12, "l", SENT, True, UByte(3)), "the largest value that it has"),
    "no SASL code": (fields(0x44, UByte(5)), "the largest value that it has is 4"),
    "another composite": (fields(0x18, Described(ULong(0x24), [])), "error holds accepted"),
    "an unknown composite": (fields(0x18, Described(ULong(0x99), [])), "error holds described"),
    "no state": (fields(0x15, True, SENT, None, True, Described(ULong(0x18), [])), "holds close"),
    "numbers for symbols": (fields(0x40, Array(UShort, (UShort(1),))), "values of type UShort"),
    "a size that is too large": (bytes.fromhex("00 53 18 c0 03 01 40 40"), "does not end where"),
    "cut off": (bytes.fromhex("00 53 10 c0 04 01 a1 01"), "cut off"),
}


@pytest.mark.parametrize(("data", "message"), MALFORMED.values(), ids=MALFORMED)
def test_what_amqp_does_not_allow_is_one_error(data: bytes, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        decode_composite(data)


def test_a_state_and_a_target_of_another_specification_are_passed_on() -> None:
    """Such as those of transactions."""
    declared = Described(ULong(0x33), [b"id"])
    sent = Disposition(True, 0, None, True, declared)
    assert decode_composite(encode_composite(sent))[0] == sent
    coordinator = Described(ULong(0x30), [Array(Symbol, (Symbol("amqp:local-transactions"),))])
    attach = Attach("l", 0, False, target=coordinator)
    assert decode_composite(encode_composite(attach))[0] == attach


def test_every_state_is_true() -> None:
    """`if delivery.state` asks whether there is one."""
    assert all((Accepted(), Released(), Rejected(), Modified()))


def test_keys_of_maps_are_sent_as_symbols() -> None:
    sent = encode_composite(Modified(True, False, {"x-opt-a": 1, ULong(3): 2}))
    (got, _) = decode_composite(sent)
    assert got.message_annotations == {"x-opt-a": 1, 3: 2}
    assert [type(key) for key in got.message_annotations] == [Symbol, ULong]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Begin(None, 0, -1, 0), "uint must be in 0..4294967295, got -1"),
        (Open("c", channel_max=65536), "ushort must be in 0..65535, got 65536"),
        (Attach("l", 0, True, snd_settle_mode=3), "ubyte must be in 0..2, got 3"),
        (SaslOutcome(9), "ubyte must be in 0..4, got 9"),
        (Error("ä"), "a symbol cannot be sent as ASCII"),
        (Flow(None, 0, 0, 0, properties={"a": ...}), "no type for builtins.ellipsis"),
    ],
    ids=str,
)
def test_what_a_field_cannot_say_is_an_error(value: Any, message: str) -> None:
    with pytest.raises(PayloadError, match=message):
        encode_composite(value)
