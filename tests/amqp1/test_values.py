"""Values come out as they went in, in the bytes of the specification; nothing else is accepted."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from hypothesis import given

from hbshim.amqp1.decoding import EMPTY_ELEMENTS_LIMIT, NUMERIC_KEYS_LIMIT, decode, decode_at
from hbshim.amqp1.encoding import DEPTH_LIMIT, encode
from hbshim.amqp1.errors import ProtocolError
from hbshim.amqp1.values import (
    Array,
    Byte,
    Char,
    Decimal32,
    Described,
    Float,
    Int,
    Short,
    Symbol,
    Timestamp,
    UByte,
    UInt,
    ULong,
    UShort,
)
from hbshim.errors import PayloadError
from tests.amqp1.strategies import values


def same(one: Any, other: Any) -> bool:
    """Equal, with equal types at every level."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        pairs = zip(one.items(), other.items(), strict=True)
        return len(one) == len(other) and all(same(left, right) for left, right in pairs)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@given(values)
def test_a_value_comes_out_as_it_went_in(value: Any) -> None:
    assert same(decode(encode(value)), value)


ID = uuid.UUID(int=5)

#: From part 1 of the specification, 1.6: the constructors of each type.
ENCODINGS: list[tuple[Any, str]] = [
    (None, "40"),
    (True, "41"),
    (False, "42"),
    (UByte(7), "50 07"),
    (UShort(7), "60 0007"),
    (UInt(0), "43"),
    (UInt(255), "52 ff"),
    (UInt(256), "70 00000100"),
    (ULong(0), "44"),
    (ULong(255), "53 ff"),
    (ULong(256), "80 0000000000000100"),
    (Byte(-1), "51 ff"),
    (Short(-2), "61 fffe"),
    (Int(-1), "54 ff"),
    (Int(128), "71 00000080"),
    (-1, "55 ff"),
    (-129, "81 ffffffffffffff7f"),
    (Float(1.5), "72 3fc00000"),
    (1.5, "82 3ff8000000000000"),
    (Decimal32(b"abcd"), "74 61626364"),
    (Char("ä"), "73 000000e4"),
    (Timestamp(1), "83 0000000000000001"),
    (ID, "98 00000000000000000000000000000005"),
    (b"ab", "a0 02 6162"),
    ("ä", "a1 02 c3a4"),
    (Symbol("ab"), "a3 02 6162"),
    ([], "45"),
    ([None], "c0 02 01 40"),
    ({}, "c1 01 00"),
    ({"a": True}, "c1 05 02 a10161 41"),
    (Array(UInt, (UInt(1),)), "e0 06 01 70 00000001"),
    (Array(str, ("a",), Symbol("d")), "e0 0b 01 00 a30164 b1 00000001 61"),
    (Described(ULong(0x75), b""), "00 53 75 a0 00"),
]


@pytest.mark.parametrize(("value", "data"), ENCODINGS, ids=[data for _, data in ENCODINGS])
def test_the_encoding_of_each_type(value: Any, data: str) -> None:
    assert encode(value) == bytes.fromhex(data)
    assert same(decode(bytes.fromhex(data)), value)


#: Forms that are not the shortest, or that only some peers send.
OTHER_FORMS: list[tuple[str, Any]] = [
    ("56 01", True),
    ("56 00", False),
    ("70 00000001", UInt(1)),
    ("80 0000000000000001", ULong(1)),
    ("71 00000001", Int(1)),
    ("81 0000000000000001", 1),
    ("b0 00000001 61", b"a"),
    ("b1 00000001 61", "a"),
    ("b3 00000001 61", Symbol("a")),
    ("c0 01 00", []),
    ("d0 00000004 00000000", []),
    ("d1 00000006 00000002 41 42", {True: False}),
    ("f0 00000007 00000002 50 01 02", Array(UByte, (UByte(1), UByte(2)))),
    ("e0 01 00", Array(type(None), ())),
    ("e0 02 02 45", Array(list, ([], []))),
]


@pytest.mark.parametrize(("data", "value"), OTHER_FORMS, ids=[data for data, _ in OTHER_FORMS])
def test_other_forms_are_read_too(data: str, value: Any) -> None:
    assert same(decode(bytes.fromhex(data)), value)


#: What part 1 does not allow.
MALFORMED = {
    "nothing": "",
    "unknown constructor": "3f",
    "unknown constructor in an array": "e0 02 01 3f",
    "cut off: fixed": "70 0000",
    "cut off: size": "b0 0000",
    "cut off: binary": "a0 05 6162",
    "cut off: string": "b1 00000005 61",
    "cut off: list": "c0 05 01 40",
    "cut off: array": "f0 00000100 00000001 50 01",
    "cut off: descriptor": "00",
    "cut off: described value": "00 53 75",
    "four gigabytes": "b0 ffffffff",
    "four billion items": "d0 00000004 ffffffff",
    "four billion bytes in an array": "f0 00000005 ffffffff 50",
    "four billion nulls": "f0 00000005 ffffffff 40",
    "more items than the list's size has": "c0 02 02 40",
    "fewer items than the list's size has": "c0 03 01 40 40",
    "a size without its count": "c0 00 00",
    "an item that is longer than its list": "c0 02 01 a0 01 61",
    "an array that is longer than its items": "e0 04 01 50 01 02",
    "an array without constructor": "e0 01 01",
    "odd number of keys and values": "c1 02 01 40",
    "two equal keys": "c1 05 04 40 41 40 41",
    "a list as key": "c1 03 02 45 40",
    "boolean 2": "56 02",
    "string that is not UTF-8": "a1 01 ff",
    "symbol that is not ASCII": "a3 02 c3a4",
    "surrogate as character": "73 0000d800",
    "no Unicode character": "73 00110000",
    "no Unicode character, negative": "73 ffffffff",
    "described elements without constructor": "e0 04 01 00 53 75",
    "more than one value": "40 40",
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_what_amqp_does_not_allow_is_one_error(data: str) -> None:
    with pytest.raises(ProtocolError) as raised:
        decode(bytes.fromhex(data))
    assert raised.value.condition == "amqp:decode-error"


def test_depth_is_limited_in_both_directions() -> None:
    nested: Any = []
    for _ in range(DEPTH_LIMIT - 1):
        nested = [nested]
    data = encode(nested)
    assert decode(data) == nested
    with pytest.raises(PayloadError, match=f"more than {DEPTH_LIMIT} levels"):
        encode([nested])
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(PayloadError, match="levels"):
        encode(endless)


@pytest.mark.parametrize(
    "level",
    ["00 40", "c0 ff ff", "d0 0000ffff 00000001", "d1 0000ffff 00000002 40", "00"],
    ids=["descriptors", "short lists", "lists", "maps", "descriptors of descriptors"],
)
def test_deep_input_ends_before_the_interpreters_stack(level: str) -> None:
    with pytest.raises(ProtocolError):
        decode(bytes.fromhex(level) * 100_000 + bytes(0x10000))


def test_elements_without_bytes_are_limited() -> None:
    nulls = Array(type(None), (None,) * EMPTY_ELEMENTS_LIMIT)
    assert decode(encode(nulls)) == nulls
    with pytest.raises(ProtocolError, match="without a byte"):
        decode(encode(nulls._replace(items=(*nulls.items, None))))


def test_numeric_keys_are_limited() -> None:
    """Multiples of 2^61 - 1 have one hash, and 4 MiB of them would take hours."""
    same_hash = {ULong(number * (2**61 - 1)): None for number in range(1, 7)}
    assert len(set(map(hash, same_hash))) == 1
    numbers = {ULong(number): None for number in range(NUMERIC_KEYS_LIMIT)}
    assert decode(encode(numbers)) == numbers
    with pytest.raises(ProtocolError, match="keys that are neither text nor bytes"):
        decode(encode({**numbers, ULong(NUMERIC_KEYS_LIMIT): None}))
    names = {str(number): None for number in range(10 * NUMERIC_KEYS_LIMIT)}
    assert decode(encode(names)) == names


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (UByte(256), "256 is outside of the range of AMQP's ubyte"),
        (UInt(-1), "-1 is outside of the range of AMQP's uint"),
        (ULong(2**64), "outside of the range of AMQP's ulong"),
        (Int(2**31), "outside of the range of AMQP's int"),
        (2**63, "outside of the range of AMQP's long"),
        (Float(1e300), "outside of the range of AMQP's float"),
        (Timestamp(2**63), "outside of the range of AMQP's timestamp"),
        (Char("ab"), "not one character"),
        (Char("\ud800"), "not one character"),
        ("\ud800", "text cannot be sent as UTF-8"),
        (Symbol("ä"), "a symbol cannot be sent as ASCII"),
        (Decimal32(b"abc"), "has 4 bytes, not 3"),
        ({1, 2}, "no type for builtins.set"),
        ([...], "no type for builtins.ellipsis"),
        (Array(int, (1, "a")), "an array of int cannot hold str"),
        (Array(Described, ()), "no array of Described"),
    ],
    ids=str,
)
def test_what_amqp_cannot_say_is_an_error(value: Any, message: str) -> None:
    with pytest.raises(PayloadError, match=message):
        encode(value)


def test_a_subclass_is_encoded_as_its_base() -> None:
    class Colour(str):
        pass

    assert encode(Colour("red")) == encode("red")


def test_a_value_is_read_where_it_begins() -> None:
    assert decode_at(b"\xff" + encode("ab") + b"\xff", 1) == ("ab", 5)
