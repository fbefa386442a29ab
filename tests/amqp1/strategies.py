"""Values, performatives and messages of AMQP 1.0, for hypothesis."""

from __future__ import annotations

import typing
import uuid
from typing import Any

from hypothesis import strategies as st

from hbshim.amqp1 import performatives
from hbshim.amqp1.messages import Data, Message, Sequence, Single
from hbshim.amqp1.values import (
    Array,
    Byte,
    Char,
    Decimal32,
    Decimal64,
    Decimal128,
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


def integers(kind: type[int], bits: int, *, signed: bool) -> st.SearchStrategy[Any]:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if signed else (0, 2**bits)
    edges = [low, high - 1, 0, 1, 127, 128 if high > 128 else 0, 255 if high > 255 else 0]
    return (st.sampled_from(edges) | st.integers(low, high - 1)).map(kind)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
symbols = st.text(st.characters(max_codepoint=127), max_size=300).map(Symbol)

#: Of each type, the values.
OF_TYPE: dict[type, st.SearchStrategy[Any]] = {
    type(None): st.none(),
    bool: st.booleans(),
    UByte: integers(UByte, 8, signed=False),
    UShort: integers(UShort, 16, signed=False),
    UInt: integers(UInt, 32, signed=False),
    ULong: integers(ULong, 64, signed=False),
    Byte: integers(Byte, 8, signed=True),
    Short: integers(Short, 16, signed=True),
    Int: integers(Int, 32, signed=True),
    int: integers(int, 64, signed=True),
    Timestamp: integers(Timestamp, 64, signed=True),
    Float: st.floats(width=32, allow_nan=False).map(Float),
    float: st.floats(allow_nan=False),
    Char: st.characters(exclude_categories=["Cs"]).map(Char),
    Decimal32: st.binary(min_size=4, max_size=4).map(Decimal32),
    Decimal64: st.binary(min_size=8, max_size=8).map(Decimal64),
    Decimal128: st.binary(min_size=16, max_size=16).map(Decimal128),
    bytes: st.binary(max_size=300),
    str: texts,
    Symbol: symbols,
    uuid.UUID: st.uuids(),
}
scalars = st.one_of(*OF_TYPE.values())


def arrays(elements: dict[type, st.SearchStrategy[Any]]) -> st.SearchStrategy[Array]:
    def of(kind: type) -> st.SearchStrategy[Array]:
        items = st.lists(elements[kind], max_size=10).map(tuple)
        return st.builds(Array, st.just(kind), items, st.none() | symbols | OF_TYPE[ULong])

    return st.sampled_from([kind for kind in elements if kind is not type(None)]).flatmap(of)


def deeper(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    maps = st.dictionaries(texts | OF_TYPE[UInt], inner, max_size=5)
    lists = st.lists(inner, max_size=5)
    return (
        lists
        | maps
        | st.builds(Described, symbols | OF_TYPE[ULong], inner)
        | arrays({**OF_TYPE, list: lists, dict: maps})
    )


values = st.recursive(scalars, deeper, max_leaves=12)
maps = st.dictionaries(symbols | OF_TYPE[ULong], values, max_size=4)

_PLAIN: dict[str, st.SearchStrategy[Any]] = {
    "boolean": st.booleans(),
    "ubyte": st.integers(0, 1),
    "ushort": st.integers(0, 0xFFFF),
    "uint": st.integers(0, 0xFFFFFFFF),
    "ulong": st.integers(0, 2**64 - 1),
    "timestamp": st.integers(-(2**63), 2**63 - 1),
    "string": texts,
    "symbol": texts.map(lambda text: text.encode("ascii", "ignore").decode()),
    "binary": st.binary(max_size=300),
    "map": maps,
    "symbols": st.lists(symbols, max_size=4).map(tuple),
    "any": values,
}


def composites(cls: Any) -> st.SearchStrategy[Any]:
    """Instances of a composite type, by the annotations of its fields."""
    fields: dict[str, st.SearchStrategy[Any]] = {}
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        parts = (hint, *typing.get_args(hint))
        (kind,) = (each.__metadata__[0] for each in parts if hasattr(each, "__metadata__"))
        found = _PLAIN[kind.name] if kind.name in _PLAIN else _NESTED[kind.name]
        optional = type(None) in typing.get_args(hint)
        fields[name] = st.none() | found if optional else found
    return st.builds(cls, **fields)


states = st.deferred(
    lambda: st.one_of(
        *map(
            composites,
            (
                performatives.Received,
                performatives.Accepted,
                performatives.Rejected,
                performatives.Released,
                performatives.Modified,
            ),
        )
    )
)
_NESTED: dict[str, st.SearchStrategy[Any]] = {
    "error": st.deferred(lambda: composites(performatives.Error)),
    "source": st.deferred(lambda: composites(performatives.Source)),
    "target": st.deferred(lambda: composites(performatives.Target)),
    "received or accepted or rejected or released or modified": states,
}

#: The classes that are sent as frames.
FRAMES = (
    performatives.Open,
    performatives.Begin,
    performatives.Attach,
    performatives.Flow,
    performatives.Transfer,
    performatives.Disposition,
    performatives.Detach,
    performatives.End,
    performatives.Close,
    performatives.SaslMechanisms,
    performatives.SaslInit,
    performatives.SaslChallenge,
    performatives.SaslResponse,
    performatives.SaslOutcome,
)

bodies = (
    st.builds(Data, st.lists(st.binary(max_size=300), max_size=3).map(tuple))
    | st.builds(Sequence, st.lists(st.lists(values, max_size=3), min_size=1, max_size=3).map(tuple))
    | st.builds(Single, values)
)
messages = st.builds(
    Message,
    bodies,
    st.none() | composites(performatives.Header),
    st.none() | maps,
    st.none() | maps,
    st.none() | composites(performatives.Properties),
    st.none() | st.dictionaries(texts, scalars, max_size=4),
    st.none() | maps,
)
