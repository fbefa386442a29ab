"""The types that fields of composite types have.

A field accepts the constructors of its own type only, and its value is a plain one of Python: what
is an `UInt` elsewhere is an `int` in a field of type uint.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from hbshim.amqp1.decoding import READERS, Reader
from hbshim.amqp1.encoding import encode, encode_binary, encode_string, encode_symbol
from hbshim.amqp1.errors import ProtocolError
from hbshim.amqp1.values import Array, Symbol, Timestamp, UByte, UInt, ULong, UShort, Value
from hbshim.errors import PayloadError

#: The constructor of null: the field is not set.
NULL = 0x40


@dataclass(frozen=True, eq=False, slots=True)
class Kind:
    """The type of a field.

    Attributes:
        name: as the specification has it.
        readers: by constructor.
        write: encodes a value that is not None.
    """

    name: str
    readers: Mapping[int, Reader]
    write: Callable[[Any], bytes]


def _integer(kind: type[int], readers: Mapping[int, Reader], largest: int, wide: str) -> Kind:
    """Return a type of integers; `wide` is the layout of those above 255, with constructor."""
    name = kind.__name__.lower()
    pack, code = struct.Struct(wide).pack, max(readers)
    # Most numbers that are sent are among these.
    encoded = {value: encode(kind(value)) for value in range(min(largest, 255) + 1)}

    def write(value: int) -> bytes:
        found = encoded.get(value)
        if found is not None:
            return found
        if not 0 <= value <= largest:
            raise PayloadError(f"a field of type {name} must be in 0..{largest}, got {value}")
        return pack(code, value)

    return Kind(name, readers, write)


def _plain(layout: str, largest: int = 2**64) -> Reader:
    """Return a reader of plain integers up to `largest`."""
    row = struct.Struct(layout)
    unpack, size = row.unpack_from, row.size

    def read(data: bytes, at: int, depth: int) -> tuple[int, int]:
        value: int = unpack(data, at)[0]
        if value > largest:
            raise ProtocolError(f"a field is {value}; the largest value that it has is {largest}")
        return value, at + size

    return read


def _zero(data: bytes, at: int, depth: int) -> tuple[int, int]:
    return 0, at


def ubyte(largest: int = 255) -> Kind:
    """Return the type of small numbers; those of an enumeration have a largest one."""
    return _integer(UByte, {0x50: _plain(">B", largest)}, largest, ">BB")


def _of(name: str, write: Callable[[Any], bytes], *constructors: int) -> Kind:
    return Kind(name, {code: READERS[code] for code in constructors}, write)


def _symbols(constructor: int) -> Reader:
    """Return a reader of a field that holds one symbol, or an array of them."""
    reader = READERS[constructor]

    def read(data: bytes, at: int, depth: int) -> tuple[tuple[str, ...], int]:
        value, at = reader(data, at, depth)
        if isinstance(value, Symbol):
            return (value,), at
        if value.items and value.of is not Symbol:
            raise ProtocolError(f"an array of symbols holds values of type {value.of.__name__}")
        return value.items, at

    return read


def _write_symbols(names: tuple[str, ...]) -> bytes:
    return encode(Array(Symbol, tuple(map(Symbol, names))))


def write_map(value: Mapping[Any, Value]) -> bytes:
    """Encode a map of the protocol, whose keys are symbols; plain text is sent as one."""
    return encode({Symbol(key) if type(key) is str else key: value[key] for key in value})


_BYTE = _plain(">B")

BOOLEAN = _of("boolean", lambda value: b"\x41" if value else b"\x42", 0x41, 0x42, 0x56)
USHORT = _integer(UShort, {0x60: _plain(">H")}, 0xFFFF, ">BH")
UINT = _integer(UInt, {0x43: _zero, 0x52: _BYTE, 0x70: _plain(">I")}, 0xFFFFFFFF, ">BI")
ULONG = _integer(ULong, {0x44: _zero, 0x53: _BYTE, 0x80: _plain(">Q")}, 2**64 - 1, ">BQ")
TIMESTAMP = _of("timestamp", lambda value: encode(Timestamp(value)), 0x83)
STRING = _of("string", encode_string, 0xA1, 0xB1)
SYMBOL = _of("symbol", encode_symbol, 0xA3, 0xB3)
BINARY = _of("binary", encode_binary, 0xA0, 0xB0)
MAP = _of("map", write_map, 0xC1, 0xD1)
SYMBOLS = Kind(
    "symbols", {code: _symbols(code) for code in (0xA3, 0xB3, 0xE0, 0xF0)}, _write_symbols
)
ANY = _of("any", encode, *(code for code in READERS if code != NULL))

#: The annotations of fields.
Bool: TypeAlias = Annotated[bool, BOOLEAN]
UInt16: TypeAlias = Annotated[int, USHORT]
UInt32: TypeAlias = Annotated[int, UINT]
UInt64: TypeAlias = Annotated[int, ULONG]
Milliseconds: TypeAlias = Annotated[int, TIMESTAMP]
Text: TypeAlias = Annotated[str, STRING]
Name: TypeAlias = Annotated[str, SYMBOL]
Names: TypeAlias = Annotated[tuple[str, ...], SYMBOLS]
Binary: TypeAlias = Annotated[bytes, BINARY]
Map: TypeAlias = Annotated[Mapping[Any, Value], MAP]
AnyValue: TypeAlias = Annotated[Value, ANY]
