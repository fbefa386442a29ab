"""rhea reads what is encoded here, and encodes it in the same bytes."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hbshim.amqp1.encoding import encode
from hbshim.amqp1.messages import Data, Message, decode_message, encode_message
from hbshim.amqp1.performatives import Header, Properties
from hbshim.amqp1.values import (
    Array,
    Decimal32,
    Decimal64,
    Decimal128,
    Described,
    Int,
    Timestamp,
    ULong,
)
from tests.amqp1.peers import Program
from tests.amqp1.strategies import symbols, texts, values
from tests.amqp1.test_values import ENCODINGS

#: What JavaScript's numbers and dates hold.
_EXACT, _LATEST = 2**53, 10**15

_PROTOTYPE = "__proto__"


def beyond_rhea(value: Any) -> bool:
    """rhea 3.0.5 has no large integers, no arrays of some types, and one descriptor for a value.

    Its maps are JavaScript's objects, in which `__proto__` is no key.
    """
    if isinstance(value, Described):
        return isinstance(value.value, Described) or any(map(beyond_rhea, value))
    if isinstance(value, Array):
        without = (list, dict, uuid.UUID, Decimal32, Decimal64, Decimal128, ULong, int, Timestamp)
        return value.of in without or any(map(beyond_rhea, (value.descriptor, *value.items)))
    if isinstance(value, dict):
        return _PROTOTYPE in value or any(
            beyond_rhea(each) for pair in value.items() for each in pair
        )
    if isinstance(value, list):
        return any(map(beyond_rhea, value))
    if isinstance(value, (ULong, Timestamp)) or type(value) is int:
        return abs(value) >= _EXACT
    return False


@pytest.mark.parametrize(
    "value", [value for value, _ in ENCODINGS if not beyond_rhea(value)], ids=repr
)
def test_each_type_is_the_same_bytes(rhea_codec: Program, value: Any) -> None:
    ours = encode(value).hex()
    assert rhea_codec.ask(f"value {ours}") == ours


@settings(max_examples=300)
@given(values.filter(lambda value: not beyond_rhea(value)))
def test_values_of_all_kinds_are_the_same_bytes(rhea_codec: Program, value: Any) -> None:
    ours = encode(value).hex()
    assert rhea_codec.ask(f"value {ours}") == ours


#: rhea guesses the types of values in maps: those that it guesses rightly.
guessed = st.none() | st.booleans() | texts | st.binary() | st.integers(-127, 0).map(Int)


def maps(keys: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    known = keys.filter(lambda key: key != _PROTOTYPE)
    return st.dictionaries(known, guessed, min_size=1, max_size=4)


messages = st.builds(
    Message,
    st.builds(lambda data: Data((data,)), st.binary(max_size=300)),
    st.builds(
        Header,
        st.booleans(),
        st.integers(0, 9),
        st.integers(1, 2**32 - 1),
        st.booleans(),
        st.integers(1, 2**31),
    ),
    st.none() | maps(symbols),
    st.none() | maps(symbols),
    st.builds(
        Properties,
        message_id=texts | st.integers(0, _EXACT - 1).map(ULong),
        user_id=st.binary(min_size=1),
        to=texts,
        subject=texts,
        reply_to=texts,
        correlation_id=texts,
        content_type=symbols,
        content_encoding=symbols,
        absolute_expiry_time=st.integers(1, _LATEST),
        creation_time=st.integers(1, _LATEST),
        group_id=texts,
        group_sequence=st.integers(0, 2**31 - 1),
        reply_to_group_id=texts,
    ),
    maps(texts),
    # It sends a footer before the body, which is not allowed.
    st.none(),
)


@given(messages)
def test_messages(rhea_codec: Program, message: Message) -> None:
    theirs = bytes.fromhex(rhea_codec.ask(f"message {encode_message(message).hex()}"))
    assert decode_message(theirs) == message
