"""Encodes values (AMQP 1.0, part 1): each in the shortest form that its type has."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable
from typing import TypeAlias

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
    Value,
)
from hbshim.errors import PayloadError

#: Levels of lists, maps, arrays and descriptors that a value may have.
DEPTH_LIMIT = 32

#: Writes a value; the second argument is the depth that is left.
Writer: TypeAlias = Callable[[Value, int], bytes]

_DESCRIBED = b"\0"
_EMPTY_LIST = b"\x45"
_PAIR = struct.Struct(">II")


def encode(value: Value) -> bytes:
    """Return a value with its constructor.

    Raises:
        PayloadError: AMQP 1.0 has no type for it, or it is outside of its type's range.
    """
    return _encode(value, DEPTH_LIMIT)


def encode_list(items: list[bytes]) -> bytes:
    """Return a list of encoded values."""
    if not items:
        return _EMPTY_LIST
    return _compound(0xC0, b"".join(items), len(items))


def encode_binary(value: bytes) -> bytes:
    """Return binary data."""
    return _variable(_BINARY, value)


def encode_string(value: str) -> bytes:
    """Return a string.

    Raises:
        PayloadError: it has half of a surrogate pair.
    """
    try:
        return _variable(_STRING, value.encode())
    except UnicodeEncodeError as error:
        raise PayloadError(f"text cannot be sent as UTF-8: {error.reason}") from None


def encode_symbol(value: str) -> bytes:
    """Return a symbol.

    Raises:
        PayloadError: it is not ASCII.
    """
    try:
        return _variable(_SYMBOL, value.encode("ascii"))
    except UnicodeEncodeError as error:
        raise PayloadError(f"a symbol cannot be sent as ASCII: {error.reason}") from None


def _heads(short: int) -> list[bytes]:
    """Return what is sent before a value of each length up to 255."""
    return [bytes((short, length)) for length in range(256)]


_BINARY, _STRING, _SYMBOL = _heads(0xA0), _heads(0xA1), _heads(0xA3)


def _variable(heads: list[bytes], data: bytes) -> bytes:
    length = len(data)
    if length <= 255:
        return heads[length] + data
    return bytes((heads[0][0] | 0x10,)) + length.to_bytes(4, "big") + data


def _encode(value: Value, depth: int) -> bytes:
    writer = _WRITERS.get(type(value))
    if writer is None:
        writer = _WRITERS[_base(type(value))]
    return writer(value, depth)


def _base(kind: type) -> type:
    """Return the class by which values of a subclass are encoded."""
    for base in kind.__mro__:
        if base in _WRITERS:
            return base
    raise PayloadError(
        f"AMQP 1.0 has no type for {kind.__module__}.{kind.__qualname__}; convert it to a type of "
        "Python's or of hbshim.amqp1.values"
    )


def _deeper(depth: int) -> int:
    if depth <= 0:
        raise PayloadError(f"a value has more than {DEPTH_LIMIT} levels; send it flatter")
    return depth - 1


def _fixed(code: int, layout: str, kind: type) -> Writer:
    pack = struct.Struct(">B" + layout).pack

    def write(value: Value, depth: int) -> bytes:
        try:
            return pack(code, value)
        except (struct.error, OverflowError):
            name = "long" if kind is int else kind.__name__.lower()
            raise PayloadError(f"{value} is outside of the range of AMQP's {name}") from None

    return write


def _short(code: int, wide: Writer, zero: bytes = b"") -> Writer:
    """Use one byte, or none, for integers without sign that have only that much."""

    def write(value: Value, depth: int) -> bytes:
        if not value and zero:
            return zero
        return bytes((code, value)) if 0 <= value <= 255 else wide(value, depth)

    return write


def _short_signed(code: int, wide: Writer) -> Writer:
    def write(value: Value, depth: int) -> bytes:
        return bytes((code, value & 255)) if -128 <= value <= 127 else wide(value, depth)

    return write


def _sized(code: int, size: int) -> Writer:
    def write(value: bytes, depth: int) -> bytes:
        if len(value) != size:
            raise PayloadError(f"{type(value).__name__} has {size} bytes, not {len(value)}")
        return bytes((code,)) + value

    return write


def _char(value: Value, depth: int) -> bytes:
    if len(value) != 1 or 0xD800 <= ord(value) <= 0xDFFF:
        raise PayloadError(f"{value!r} is not one character")
    return b"\x73" + ord(value).to_bytes(4, "big")


def _list(value: Value, depth: int) -> bytes:
    depth = _deeper(depth)
    return encode_list([_encode(each, depth) for each in value])


def _map(value: Value, depth: int) -> bytes:
    depth = _deeper(depth)
    items = [_encode(each, depth) for pair in value.items() for each in pair]
    return _compound(0xC1, b"".join(items), len(items))


def _described(value: Value, depth: int) -> bytes:
    depth = _deeper(depth)
    return _DESCRIBED + _encode(value.descriptor, depth) + _encode(value.value, depth)


def _compound(code: int, body: bytes, count: int) -> bytes:
    """Return a list, map or array; `code` is the constructor of its short form."""
    if len(body) < 255 and count <= 255:
        return bytes((code, len(body) + 1, count)) + body
    return bytes((code | 0x10,)) + _wide(body, count)


def _wide(body: bytes, count: int) -> bytes:
    return _PAIR.pack(len(body) + 4, count) + body


def _array(value: Value, depth: int) -> bytes:
    depth = _deeper(depth)
    kind = _base(value.of)
    if kind not in _IN_ARRAYS:
        raise PayloadError(f"AMQP 1.0 has no array of {kind.__name__}")
    write = _ELEMENTS[kind]
    constructor = bytes((_IN_ARRAYS[kind],))
    if value.descriptor is not None:
        constructor = _DESCRIBED + _encode(value.descriptor, depth) + constructor
    for each in value.items:
        if _base(type(each)) is not kind:
            raise PayloadError(f"an array of {kind.__name__} cannot hold {type(each).__name__}")
    body = constructor + b"".join([write(each, depth) for each in value.items])
    return _compound(0xE0, body, len(value.items))


_FIXED: dict[type, tuple[int, str]] = {
    UByte: (0x50, "B"),
    UShort: (0x60, "H"),
    UInt: (0x70, "I"),
    ULong: (0x80, "Q"),
    Byte: (0x51, "b"),
    Short: (0x61, "h"),
    Int: (0x71, "i"),
    int: (0x81, "q"),
    Float: (0x72, "f"),
    float: (0x82, "d"),
    Timestamp: (0x83, "q"),
}
_WIDE: dict[type, Writer] = {
    kind: _fixed(code, layout, kind) for kind, (code, layout) in _FIXED.items()
}

_WRITERS: dict[type, Writer] = {
    **_WIDE,
    type(None): lambda value, depth: b"\x40",
    bool: lambda value, depth: b"\x41" if value else b"\x42",
    UInt: _short(0x52, _WIDE[UInt], zero=b"\x43"),
    ULong: _short(0x53, _WIDE[ULong], zero=b"\x44"),
    Int: _short_signed(0x54, _WIDE[Int]),
    int: _short_signed(0x55, _WIDE[int]),
    Decimal32: _sized(0x74, 4),
    Decimal64: _sized(0x84, 8),
    Decimal128: _sized(0x94, 16),
    Char: _char,
    uuid.UUID: lambda value, depth: b"\x98" + value.bytes,
    bytes: lambda value, depth: encode_binary(value),
    str: lambda value, depth: encode_string(value),
    Symbol: lambda value, depth: encode_symbol(value),
    list: _list,
    tuple: _list,
    dict: _map,
    Array: _array,
    Described: _described,
}


#: Constructors of the elements of arrays; of each type the longest form, which holds any value.
_IN_ARRAYS: dict[type, int] = {
    **{kind: code for kind, (code, _) in _FIXED.items()},
    type(None): 0x40,
    bool: 0x56,
    Decimal32: 0x74,
    Decimal64: 0x84,
    Decimal128: 0x94,
    Char: 0x73,
    uuid.UUID: 0x98,
    bytes: 0xB0,
    str: 0xB1,
    Symbol: 0xB3,
    list: 0xD0,
    dict: 0xD1,
    Array: 0xF0,
}


def _element(kind: type) -> Writer:
    """Return the writer of an element of an array, which has no constructor of its own."""
    if kind is bool:
        return lambda value, depth: b"\x01" if value else b"\x00"
    writer = _WIDE.get(kind, _WRITERS[kind])
    return lambda value, depth: _widened(writer(value, depth))


def _widened(encoded: bytes) -> bytes:
    """Return the content of a value in the longest form that its type has."""
    code = encoded[0]
    form = code >> 4
    if code == _EMPTY_LIST[0]:
        return _wide(b"", 0)
    if form == 0xA:
        return (len(encoded) - 2).to_bytes(4, "big") + encoded[2:]
    if form in (0xC, 0xE):
        return _wide(encoded[3:], encoded[2])
    return encoded[1:]


_ELEMENTS: dict[type, Writer] = {kind: _element(kind) for kind in _IN_ARRAYS}
