"""qpid-proton reads what is encoded here, and what it encodes is read here."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hbshim.amqp1.decoding import decode
from hbshim.amqp1.encoding import encode
from hbshim.amqp1.messages import Data, Message, Single, decode_message, encode_message
from hbshim.amqp1.performatives import Header, Properties
from hbshim.amqp1.values import Array, Described, ULong
from tests.amqp1.peers import Program
from tests.amqp1.strategies import OF_TYPE, scalars, symbols, texts, values
from tests.amqp1.test_values import ENCODINGS, same


@pytest.mark.parametrize("value", [value for value, _ in ENCODINGS], ids=repr)
def test_proton_reads_each_type(proton_codec: Program, value: Any) -> None:
    theirs = bytes.fromhex(proton_codec.ask(f"value {encode(value).hex()}"))
    assert same(decode(theirs), value)


@settings(max_examples=300)
@given(scalars)
def test_scalars_are_the_same_bytes(proton_codec: Program, value: Any) -> None:
    ours = encode(value).hex()
    assert proton_codec.ask(f"value {ours}") == ours


def doubly_described(value: Any) -> bool:
    """Proton 0.40 counts the items of a list wrongly that holds such a value."""
    if isinstance(value, Described):
        return isinstance(value.value, Described) or doubly_described(value.value)
    if isinstance(value, dict):
        return any(map(doubly_described, value.values()))
    return isinstance(value, (list, Array)) and any(map(doubly_described, items(value)))


def items(value: list[Any] | Array) -> Any:
    return value.items if isinstance(value, Array) else value


@given(values.filter(lambda value: not doubly_described(value)))
def test_values_of_all_kinds(proton_codec: Program, value: Any) -> None:
    theirs = bytes.fromhex(proton_codec.ask(f"value {encode(value).hex()}"))
    assert same(decode(theirs), value)


ids = st.none() | OF_TYPE[ULong] | st.uuids() | st.binary(max_size=300) | texts

#: What proton leaves out is not here: null as a body, empty maps, and zeros.
messages = st.builds(
    Message,
    st.builds(lambda data: Data((data,)), st.binary(max_size=300))
    | st.builds(Single, texts | st.integers(-5, 500)),
    st.builds(
        Header,
        st.booleans(),
        st.integers(0, 9),
        st.integers(1, 2**32 - 1),
        st.booleans(),
        st.integers(0, 2**31),
    ),
    st.none() | st.dictionaries(symbols, scalars, min_size=1, max_size=4),
    st.none() | st.dictionaries(symbols, scalars, min_size=1, max_size=4),
    st.builds(
        Properties,
        message_id=ids,
        user_id=st.binary(min_size=1),
        to=texts,
        subject=texts,
        reply_to=texts,
        correlation_id=ids,
        content_type=symbols,
        content_encoding=symbols,
        absolute_expiry_time=st.integers(1, 2**62),
        creation_time=st.integers(1, 2**62),
        group_id=texts,
        group_sequence=st.integers(0, 2**31 - 1),
        reply_to_group_id=texts,
    ),
    st.dictionaries(texts, scalars, min_size=1, max_size=4),
    st.none(),
)


@given(messages)
def test_messages(proton_codec: Program, message: Message) -> None:
    theirs = bytes.fromhex(proton_codec.ask(f"message {encode_message(message).hex()}"))
    assert decode_message(theirs) == message
