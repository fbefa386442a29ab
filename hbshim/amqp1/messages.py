"""Messages: their sections to bytes and back (part 3, 3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

from hbshim.amqp1.composites import decode_composite, encode_composite, read_descriptor
from hbshim.amqp1.decoding import checked, decode_at
from hbshim.amqp1.encoding import encode
from hbshim.amqp1.errors import ProtocolError
from hbshim.amqp1.fields import write_map
from hbshim.amqp1.performatives import Header, Properties
from hbshim.amqp1.values import Symbol, ULong, Value
from hbshim.errors import PayloadError

#: Descriptors of the sections, in the order in which they are sent.
HEADER, DELIVERY_ANNOTATIONS, MESSAGE_ANNOTATIONS, PROPERTIES, APPLICATION_PROPERTIES = range(
    0x70, 0x75
)
DATA, SEQUENCE, VALUE, FOOTER = range(0x75, 0x79)


class Data(NamedTuple):
    """A body of bytes, as the sender has split it into sections."""

    sections: tuple[bytes, ...]

    @property
    def content(self) -> bytes:
        """All of it."""
        return self.sections[0] if len(self.sections) == 1 else b"".join(self.sections)


class Sequence(NamedTuple):
    """A body of lists of values."""

    sections: tuple[list[Value], ...]


class Single(NamedTuple):
    """A body of one value."""

    value: Value


Body: TypeAlias = Data | Sequence | Single


class Message(NamedTuple):
    """A message. Keys of annotations are symbols, those of application properties are text."""

    body: Body
    header: Header | None = None
    delivery_annotations: Mapping[Any, Value] | None = None
    message_annotations: Mapping[Any, Value] | None = None
    properties: Properties | None = None
    application_properties: Mapping[str, Value] | None = None
    footer: Mapping[Any, Value] | None = None


def encode_message(message: Message) -> bytes:
    """Return a message as bytes.

    Raises:
        PayloadError: AMQP 1.0 has no type for a value in it.
    """
    parts: list[bytes] = []
    if message.header is not None:
        parts.append(encode_composite(message.header))
    if message.delivery_annotations is not None:
        parts += (_HEADS[DELIVERY_ANNOTATIONS], write_map(message.delivery_annotations))
    if message.message_annotations is not None:
        parts += (_HEADS[MESSAGE_ANNOTATIONS], write_map(message.message_annotations))
    if message.properties is not None:
        parts.append(encode_composite(message.properties))
    if message.application_properties is not None:
        parts += (_HEADS[APPLICATION_PROPERTIES], _text_keys(message.application_properties))
    body = message.body
    if isinstance(body, Single):
        parts += (_HEADS[VALUE], encode(body.value))
    else:
        head = _HEADS[DATA if isinstance(body, Data) else SEQUENCE]
        for section in body.sections:
            parts += (head, encode(section))
    if message.footer is not None:
        parts += (_HEADS[FOOTER], write_map(message.footer))
    return b"".join(parts)


def decode_message(data: bytes) -> Message:
    """Return the message that `data` is.

    Raises:
        ProtocolError: it is none.
    """
    found: dict[int, Any] = {}
    bodies: list[Any] = []
    at, latest = 0, 0
    while at < len(data):
        code, at, content = _section(data, at)
        if code < latest or (code == latest and code not in (DATA, SEQUENCE)):
            raise ProtocolError(f"section {code:#x} of a message comes after {latest:#x}")
        if code in _BODIES:
            if latest in _BODIES and code != latest:
                raise ProtocolError("a message has bodies of two kinds")
            bodies.append(content)
            found[VALUE] = code
        else:
            found[code] = content
        latest = code
    return Message(
        _body(found.get(VALUE, DATA), bodies),
        found.get(HEADER),
        found.get(DELIVERY_ANNOTATIONS),
        found.get(MESSAGE_ANNOTATIONS),
        found.get(PROPERTIES),
        found.get(APPLICATION_PROPERTIES),
        found.get(FOOTER),
    )


_NAMES = {
    HEADER: "header:list",
    DELIVERY_ANNOTATIONS: "delivery-annotations:map",
    MESSAGE_ANNOTATIONS: "message-annotations:map",
    PROPERTIES: "properties:list",
    APPLICATION_PROPERTIES: "application-properties:map",
    DATA: "data:binary",
    SEQUENCE: "amqp-sequence:list",
    VALUE: "amqp-value:*",
    FOOTER: "footer:map",
}
_BY_DESCRIPTOR: dict[Any, int] = {
    **{code: code for code in _NAMES},
    **{Symbol(f"amqp:{name}"): code for code, name in _NAMES.items()},
}
_BODIES = frozenset({DATA, SEQUENCE, VALUE})
_HEADS = {code: b"\0" + encode(ULong(code)) for code in _NAMES}
#: The classes of the content of sections that are no composites.
_CONTENTS: dict[int, type] = {
    DATA: bytes,
    SEQUENCE: list,
    **dict.fromkeys((DELIVERY_ANNOTATIONS, MESSAGE_ANNOTATIONS, FOOTER), dict),
    APPLICATION_PROPERTIES: dict,
}


def _section(data: bytes, at: int) -> tuple[int, int, Any]:
    """Return the code of the section at an offset, the offset after it, and its content."""
    descriptor, begin = checked(read_descriptor, data, at)
    code = _BY_DESCRIPTOR.get(descriptor) if isinstance(descriptor, (int, Symbol)) else None
    if code is None:
        raise ProtocolError(f"{descriptor!r:.40} is not the descriptor of a section of a message")
    if code in (HEADER, PROPERTIES):
        content, end = decode_composite(data, at)
        return code, end, content
    content, end = decode_at(data, begin)
    kind = _CONTENTS.get(code)
    if kind is not None and type(content) is not kind:
        raise ProtocolError(f"{_NAMES[code]} holds {type(content).__name__}")
    if code == APPLICATION_PROPERTIES and not all(type(key) is str for key in content):
        raise ProtocolError("a key of the application properties is not a string")
    return code, end, content


def _body(code: int, sections: list[Any]) -> Body:
    if code == DATA:
        return Data(tuple(sections))
    return Sequence(tuple(sections)) if code == SEQUENCE else Single(sections[0])


def _text_keys(properties: Mapping[str, Value]) -> bytes:
    for key in properties:
        if type(key) is not str:
            raise PayloadError(f"a key of the application properties is {key!r}; it must be text")
    return encode(dict(properties))
