"""Composite types: classes whose fields are sent as a list behind a descriptor (part 1, 1.4)."""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from hbshim.amqp1.decoding import READERS, Reader, checked, deeper, read_list_header, read_value
from hbshim.amqp1.encoding import encode, encode_list
from hbshim.amqp1.errors import ProtocolError
from hbshim.amqp1.fields import NULL, Kind
from hbshim.amqp1.values import Described, Symbol, ULong

C = TypeVar("C", bound=type)

_DESCRIBED = 0
_SMALL_ULONG = 0x53
_NULL = bytes((NULL,))


#: The default of a field that must be sent: equal to no value.
_MANDATORY = object()


class _Layout(NamedTuple):
    """How a composite type is sent. Fields are in their order.

    Attributes:
        make: makes a value of the values of its fields.
        head: the descriptor.
        fields: their names and types.
        writers: their writers, and the values that are not sent.
        readers: their readers, by constructor.
        defaults: their values when they are not sent.
        required: fields up to the last one that is mandatory.
    """

    name: str
    make: Any
    head: bytes
    fields: tuple[tuple[str, Kind], ...]
    writers: tuple[tuple[Callable[[Any], bytes], Any], ...]
    readers: tuple[Mapping[int, Reader], ...]
    defaults: tuple[Any, ...]
    required: int


_BY_CLASS: dict[type, _Layout] = {}
_BY_DESCRIPTOR: dict[int | Symbol, _Layout] = {}
#: By its descriptor as most peers send it.
_BY_HEAD: dict[bytes, _Layout] = {}


def composite(code: int, name: str) -> Callable[[C], C]:
    """Register a named tuple as a composite type; its annotations name the types of its fields.

    A field that is neither optional nor has a default is mandatory.

    Parameters:
        code: the descriptor; the upper half, the domain 0x00000000, is not part of it.
        name: the descriptor as a symbol.
    """

    def register(cls: C) -> C:
        hints = typing.get_type_hints(cls, include_extras=True)
        defaults: dict[str, Any] = getattr(cls, "_field_defaults")  # noqa: B009 - a named tuple
        fields = []
        for field, hint in hints.items():
            optional = type(None) in typing.get_args(hint)
            (kind,) = (
                each.__metadata__[0]
                for each in (hint, *typing.get_args(hint))
                if hasattr(each, "__metadata__")
            )
            default = None if optional else _MANDATORY
            fields.append((field, kind, defaults.get(field, default)))
        mandatory = [n for n, (_, _, default) in enumerate(fields, 1) if default is _MANDATORY]
        layout = _Layout(
            cls.__name__,
            getattr(cls, "_make"),  # noqa: B009 - a named tuple
            bytes((_DESCRIBED,)) + encode(ULong(code)),
            tuple((field, kind) for field, kind, _ in fields),
            tuple((kind.write, default) for _, kind, default in fields),
            tuple(_readers(kind, default) for _, kind, default in fields),
            tuple(default for _, _, default in fields),
            max(mandatory, default=0),
        )
        _BY_CLASS[cls] = _BY_HEAD[layout.head] = layout
        _BY_DESCRIPTOR[code] = _BY_DESCRIPTOR[Symbol(name)] = layout
        return cls

    return register


def _readers(kind: Kind, default: Any) -> Mapping[int, Reader]:
    if default is _MANDATORY:
        return kind.readers
    return {NULL: lambda data, at, depth: (default, at), **kind.readers}


def one_of(*classes: type, unknown: bool = False) -> Kind:
    """Return the type of a field that holds a value of these classes.

    Parameters:
        unknown: a described value that is of no composite type known here is accepted, too.
    """
    accepted = (*classes, Described) if unknown else classes
    names = " or ".join(each.__name__.lower() for each in classes)
    # Without fields: by the bytes that they are sent as, after the first one.
    empty = {encode_composite(each())[1:]: each() for each in classes if not _BY_CLASS[each].fields}

    def read(data: bytes, at: int, depth: int) -> tuple[Any, int]:
        # Most states are `Accepted`.
        value = empty.get(data[at : at + 3])
        if value is not None:
            return value, at + 3
        value, at = read_composite(data, at - 1, depth)
        if not isinstance(value, accepted):
            raise ProtocolError(f"a field of type {names} holds {type(value).__name__.lower()}")
        return value, at

    return Kind(names, {_DESCRIBED: read}, encode_composite)


def encode_composite(value: Any) -> bytes:
    """Return a composite, or a described value, as bytes.

    Raises:
        PayloadError: a field cannot be sent.
    """
    layout = _BY_CLASS.get(type(value))
    if layout is None:
        return encode(value)
    items: list[bytes] = []
    filled = 0
    for item, (write, default) in zip(value, layout.writers, strict=True):
        if item is None or item == default:
            items.append(_NULL)
        else:
            items.append(write(item))
            filled = len(items)
    return layout.head + encode_list(items[:filled])


def decode_composite(data: bytes, at: int = 0) -> tuple[Any, int]:
    """Return the composite at an offset, and the offset after it.

    Raises:
        ProtocolError: there is none, or none that is known.
    """
    value, at = checked(read_composite, data, at)
    if isinstance(value, Described):
        raise ProtocolError(f"{value.descriptor!r:.40} is not the descriptor of any known type")
    return value, at


def read_composite(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    """Read a composite; a `Described` where its descriptor is not known.

    Raises:
        ProtocolError: it has a wrong number of fields, or a field of another type.
    """
    depth = deeper(depth)
    layout = _BY_HEAD.get(data[at : at + 3])
    if layout is not None:
        begin = at + 3
    else:
        descriptor, begin = read_descriptor(data, at, depth)
        layout = _BY_DESCRIPTOR.get(descriptor) if isinstance(descriptor, (int, Symbol)) else None
        if layout is None:
            return READERS[_DESCRIBED](data, at + 1, depth)
    count, at, end = read_list_header(data, begin)
    if not layout.required <= count <= len(layout.fields):
        least = layout.fields[layout.required - 1][0] if layout.required else "none"
        raise ProtocolError(
            f"{layout.name} has {count} fields; the most are {len(layout.fields)}, and the last "
            f"that must be there is {least}"
        )
    values: list[Any] = []
    append = values.append
    for readers in layout.readers[:count]:
        reader = readers.get(data[at])
        if reader is None:
            field, kind = layout.fields[len(values)]
            if data[at] == NULL:
                raise ProtocolError(f"{layout.name}.{field} is missing")
            found = f"not {data[at]:#04x}"
            raise ProtocolError(f"{layout.name}.{field} is of type {kind.name}, {found}")
        value, at = reader(data, at + 1, depth)
        append(value)
    if at != end:
        raise ProtocolError(f"{layout.name} does not end where its size requires")
    values += layout.defaults[count:]
    return layout.make(values), at


def read_descriptor(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    """Read the descriptor of the described value at an offset.

    Raises:
        ProtocolError: the value has none.
    """
    if data[at] != _DESCRIBED:
        raise ProtocolError(f"a value without descriptor, with the constructor {data[at]:#04x}")
    if data[at + 1] == _SMALL_ULONG:
        return data[at + 2], at + 3
    return read_value(data, at + 1, depth)
