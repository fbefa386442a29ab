"""The types of AMQP 1.0 (part 1) as types of Python.

=============================================  ==================================================
AMQP                                           Python
=============================================  ==================================================
null, boolean, long, double                    None, bool, int, float
string, binary, uuid                           str, bytes, uuid.UUID
list, map                                      list (or tuple), dict
the others                                     the classes of this module
=============================================  ==================================================

Each class is a subclass of what its values are in Python, so a caller that only reads need not know
it. Ranges are checked when a value is encoded.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

#: A value of any of these types.
Value: TypeAlias = Any


class UByte(int):
    """An integer of 8 bits without sign."""

    __slots__ = ()


class UShort(int):
    """An integer of 16 bits without sign."""

    __slots__ = ()


class UInt(int):
    """An integer of 32 bits without sign."""

    __slots__ = ()


class ULong(int):
    """An integer of 64 bits without sign."""

    __slots__ = ()


class Byte(int):
    """An integer of 8 bits."""

    __slots__ = ()


class Short(int):
    """An integer of 16 bits."""

    __slots__ = ()


class Int(int):
    """An integer of 32 bits; a plain `int` has 64."""

    __slots__ = ()


class Timestamp(int):
    """A point in time: milliseconds since 1970-01-01 00:00 UTC."""

    __slots__ = ()


class Float(float):
    """A number of 32 bits, IEEE 754; a plain `float` has 64."""

    __slots__ = ()


class Char(str):
    """One Unicode character."""

    __slots__ = ()


class Symbol(str):
    """A name in ASCII, such as an error condition or the key of an annotation."""

    __slots__ = ()


class Decimal32(bytes):
    """A decimal number as its 4 bytes, IEEE 754-2008; not interpreted."""

    __slots__ = ()


class Decimal64(bytes):
    """A decimal number as its 8 bytes, IEEE 754-2008; not interpreted."""

    __slots__ = ()


class Decimal128(bytes):
    """A decimal number as its 16 bytes, IEEE 754-2008; not interpreted."""

    __slots__ = ()


class Described(NamedTuple):
    """A value with a descriptor that gives it a meaning.

    Attributes:
        descriptor: a `Symbol` or `ULong`, as a rule.
    """

    descriptor: Value
    value: Value


class Array(NamedTuple):
    """Values that all have one type.

    Attributes:
        of: their type: one of Python's or of this module; `type(None)` for nulls.
        items: the values, without descriptors.
        descriptor: the descriptor that all of them have; None: they are not described.
    """

    of: type
    items: tuple[Value, ...]
    descriptor: Value = None
