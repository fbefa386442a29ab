"""Decodes values (AMQP 1.0, part 1).

What arrives is untrusted. A value never takes more memory than its bytes allow: every length and
count is compared with the bytes that are there before anything is made, and depth is limited.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from hbshim.amqp1.encoding import DEPTH_LIMIT
from hbshim.amqp1.errors import ProtocolError
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

#: Elements of an array whose elements have no bytes, such as nulls. Nothing else limits them.
EMPTY_ELEMENTS_LIMIT = 16

#: Keys of a map that are neither text nor bytes. A sender can choose numbers whose hashes
#: are equal, and a dict of those takes quadratic time.
NUMERIC_KEYS_LIMIT = 1000

#: Reads the value after its constructor; takes data, offset and the depth that is left, and returns
#: the value with the offset after it.
Reader: TypeAlias = Callable[[bytes, int, int], tuple[Any, int]]

_SIZE_AND_COUNT = struct.Struct(">II")
_DESCRIBED = 0


def decode(data: bytes) -> Value:
    """Return the one value that `data` is.

    Raises:
        ProtocolError: it is none, or more than one.
    """
    value, at = decode_at(data, 0)
    if at != len(data):
        raise ProtocolError(f"{len(data) - at} bytes follow a value that should be the only one")
    return value


def decode_at(data: bytes, at: int) -> tuple[Value, int]:
    """Return the value at an offset, and the offset after it.

    Raises:
        ProtocolError: there is none.
    """
    return checked(read_value, data, at)


def checked(reader: Reader, data: bytes, at: int) -> tuple[Any, int]:
    """Read at an offset with one error for everything that is not valid.

    Raises:
        ProtocolError: the value is cut off, or not valid.
    """
    try:
        return reader(data, at, DEPTH_LIMIT)
    except (struct.error, IndexError):
        raise _cut_off() from None


def _cut_off() -> ProtocolError:
    return ProtocolError("a value is cut off")


def read_value(data: bytes, at: int, depth: int) -> tuple[Value, int]:
    """Read a value with its constructor.

    Raises:
        ProtocolError: it is not valid.
        IndexError, struct.error: it is cut off.
    """
    reader = READERS.get(data[at])
    if reader is None:
        raise ProtocolError(f"{data[at]:#04x} is not the constructor of any type")
    return reader(data, at + 1, depth)


def read_list_header(data: bytes, at: int) -> tuple[int, int, int]:
    """Return the count of a list, and the offsets of its first item and of its end.

    Raises:
        ProtocolError: the value is no list.
    """
    code = data[at]
    if code == 0x45:
        return 0, at + 1, at + 1
    if code not in (0xC0, 0xD0):
        raise ProtocolError(f"a list cannot have the constructor {code:#04x}")
    return _compound(data, at + 1, wide=code == 0xD0)


def deeper(depth: int) -> int:
    """Return the depth that is left one level down.

    Raises:
        ProtocolError: there is none left.
    """
    if depth <= 0:
        raise ProtocolError(f"a value has more than {DEPTH_LIMIT} levels")
    return depth - 1


class _Fixed(NamedTuple):
    """A row of the table of types with a fixed width.

    Attributes:
        kind: the class of the values.
        layout: for `struct`; "" for a value that the constructor gives by itself.
        convert: makes a value of what `struct` reads.
    """

    kind: type
    layout: str
    convert: Callable[[Any], Any]


def _character(code: int) -> Char:
    try:
        if not 0xD800 <= code <= 0xDFFF:
            return Char(chr(code))
    except (ValueError, OverflowError):
        pass
    raise ProtocolError(f"{code:#x} is not a Unicode character")


def _boolean(byte: int) -> bool:
    if byte > 1:
        raise ProtocolError(f"a boolean is 0 or 1, not {byte}")
    return bool(byte)


_FIXED: dict[int, _Fixed] = {
    0x50: _Fixed(UByte, "B", UByte),
    0x51: _Fixed(Byte, "b", Byte),
    0x52: _Fixed(UInt, "B", UInt),
    0x53: _Fixed(ULong, "B", ULong),
    0x54: _Fixed(Int, "b", Int),
    0x55: _Fixed(int, "b", int),
    0x56: _Fixed(bool, "B", _boolean),
    0x60: _Fixed(UShort, "H", UShort),
    0x61: _Fixed(Short, "h", Short),
    0x70: _Fixed(UInt, "I", UInt),
    0x71: _Fixed(Int, "i", Int),
    0x72: _Fixed(Float, "f", Float),
    0x73: _Fixed(Char, "I", _character),
    0x74: _Fixed(Decimal32, "4s", Decimal32),
    0x80: _Fixed(ULong, "Q", ULong),
    0x81: _Fixed(int, "q", int),
    0x82: _Fixed(float, "d", float),
    0x83: _Fixed(Timestamp, "q", Timestamp),
    0x84: _Fixed(Decimal64, "8s", Decimal64),
    0x94: _Fixed(Decimal128, "16s", Decimal128),
    0x98: _Fixed(uuid.UUID, "16s", lambda data: uuid.UUID(bytes=data)),
}

#: Constructors that are a whole value. The empty list is not here, as it may be changed.
_CONSTANTS: dict[int, tuple[type, Any]] = {
    0x40: (type(None), None),
    0x41: (bool, True),
    0x42: (bool, False),
    0x43: (UInt, UInt(0)),
    0x44: (ULong, ULong(0)),
}


def _fixed(row: _Fixed) -> Reader:
    layout = struct.Struct(">" + row.layout)
    unpack, size, convert = layout.unpack_from, layout.size, row.convert

    def read(data: bytes, at: int, depth: int) -> tuple[Any, int]:
        return convert(unpack(data, at)[0]), at + size

    return read


def _constant(value: Any) -> Reader:
    return lambda data, at, depth: (value, at)


def _binary(data: bytes) -> bytes:
    return data


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ProtocolError(f"a string is not UTF-8: {error.reason}") from None


def _symbol(data: bytes) -> Symbol:
    try:
        return Symbol(data.decode("ascii"))
    except UnicodeDecodeError as error:
        raise ProtocolError(f"a symbol is not ASCII: {error.reason}") from None


def _variable(convert: Callable[[bytes], Any], *, wide: bool) -> Reader:
    def read(data: bytes, at: int, depth: int) -> tuple[Any, int]:
        if wide:
            begin = at + 4
            end = begin + int.from_bytes(data[at:begin], "big")
        else:
            begin = at + 1
            end = begin + data[at]
        if end > len(data) or begin > len(data):
            raise _cut_off()
        return convert(data[begin:end]), end

    return read


def _compound(data: bytes, at: int, *, wide: bool) -> tuple[int, int, int]:
    """Return the count of a list, map or array, and the offsets of its content and of its end."""
    if wide:
        size, count = _SIZE_AND_COUNT.unpack_from(data, at)
        begin, end = at + 8, at + 4 + size
    else:
        size, count = data[at], data[at + 1]
        begin, end = at + 2, at + 1 + size
    if end > len(data) or begin > end:
        raise _cut_off()
    return count, begin, end


def _list(*, wide: bool) -> Reader:
    def read(data: bytes, at: int, depth: int) -> tuple[list[Value], int]:
        depth = deeper(depth)
        count, at, end = _compound(data, at, wide=wide)
        items: list[Value] = []
        # Each item has at least one byte, so that a wrong count ends at the last one.
        for _ in range(count):
            value, at = read_value(data, at, depth)
            items.append(value)
        _check_end(at, end)
        return items, at

    return read


def _map(*, wide: bool) -> Reader:
    read_items = _list(wide=wide)

    def read(data: bytes, at: int, depth: int) -> tuple[dict[Value, Value], int]:
        items, at = read_items(data, at, depth)
        if len(items) % 2:
            raise ProtocolError(f"a map has {len(items)} keys and values, an odd number")
        keys = items[::2]
        if len(keys) > NUMERIC_KEYS_LIMIT:
            numeric = sum(not isinstance(key, (str, bytes)) for key in keys)
            if numeric > NUMERIC_KEYS_LIMIT:
                raise ProtocolError(f"a map has {numeric} keys that are neither text nor bytes")
        try:
            found = dict(zip(keys, items[1::2], strict=True))
        except TypeError:
            raise ProtocolError("a list, map or array is the key of a map") from None
        if 2 * len(found) != len(items):
            raise ProtocolError("a map has two equal keys")
        return found, at

    return read


def _array(*, wide: bool) -> Reader:
    def read(data: bytes, at: int, depth: int) -> tuple[Array, int]:
        depth = deeper(depth)
        count, at, end = _compound(data, at, wide=wide)
        if not count and at == end:
            # Some peers leave out the constructor of an empty array.
            return Array(type(None), ()), at
        descriptor = None
        if data[at] == _DESCRIBED:
            descriptor, at = read_value(data, at + 1, depth)
        code = data[at]
        reader, kind = READERS.get(code), _KINDS.get(code)
        if reader is None or kind is None:
            raise ProtocolError(f"{code:#04x} is not the constructor of elements of an array")
        at += 1
        if (code in _CONSTANTS or code == 0x45) and count > EMPTY_ELEMENTS_LIMIT:
            raise ProtocolError(f"an array has {count} elements without a byte")
        items: list[Value] = []
        for _ in range(count):
            value, at = reader(data, at, depth)
            items.append(value)
        _check_end(at, end)
        return Array(kind, tuple(items), descriptor), at

    return read


def _check_end(at: int, end: int) -> None:
    if at != end:
        raise ProtocolError("a list, map or array does not end where its size requires")


def _described(data: bytes, at: int, depth: int) -> tuple[Described, int]:
    depth = deeper(depth)
    descriptor, at = read_value(data, at, depth)
    value, at = read_value(data, at, depth)
    return Described(descriptor, value), at


#: The reader of each constructor.
READERS: dict[int, Reader] = {
    _DESCRIBED: _described,
    **{code: _fixed(row) for code, row in _FIXED.items()},
    **{code: _constant(value) for code, (_, value) in _CONSTANTS.items()},
    0x45: lambda data, at, depth: ([], at),
    0xA0: _variable(_binary, wide=False),
    0xB0: _variable(_binary, wide=True),
    0xA1: _variable(_text, wide=False),
    0xB1: _variable(_text, wide=True),
    0xA3: _variable(_symbol, wide=False),
    0xB3: _variable(_symbol, wide=True),
    0xC0: _list(wide=False),
    0xD0: _list(wide=True),
    0xC1: _map(wide=False),
    0xD1: _map(wide=True),
    0xE0: _array(wide=False),
    0xF0: _array(wide=True),
}

#: The class of each constructor's values.
_KINDS: dict[int, type] = {
    **{code: row.kind for code, row in _FIXED.items()},
    **{code: kind for code, (kind, _) in _CONSTANTS.items()},
    **dict.fromkeys((0xA0, 0xB0), bytes),
    **dict.fromkeys((0xA1, 0xB1), str),
    **dict.fromkeys((0xA3, 0xB3), Symbol),
    **dict.fromkeys((0x45, 0xC0, 0xD0), list),
    **dict.fromkeys((0xC1, 0xD1), dict),
    **dict.fromkeys((0xE0, 0xF0), Array),
}
