"""Payloads as bytes: JSON, or the format of the application's own serializer.

The content type of a message names its serializer. The receiver chooses the decoder by it.
"""

from __future__ import annotations

import collections
import datetime
import decimal
import functools
import inspect
import io
import ipaddress
import itertools
import json
import uuid
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from hbshim.errors import PayloadError

#: As oslo.serialization writes a datetime: always with microseconds, never with a zone.
DATETIME_FORMAT = "%Y-%m-%dT%H:%M:%S.%f"

MIB = 1024 * 1024

#: The most items taken from an iterable without a length, which may be endless.
MOST_ITEMS = 1_000_000

_ENDLESS = (itertools.count, itertools.cycle, itertools.repeat)


class Serializer(Protocol):
    """Encodes a value to bytes, and decodes the bytes.

    Either method may raise any error: the caller gets a :class:`hbshim.errors.PayloadError`.

    Attributes:
        content_type: names it in messages; AMQP 0-9-1, basic.properties: `content-type`.
    """

    @property
    def content_type(self) -> str: ...
    def encode(self, value: Any) -> bytes: ...
    def decode(self, data: bytes) -> Any: ...


class JsonSerializer:
    """JSON, with the types that oslo.serialization's `to_primitive` accepts, in the same form.

    They arrive as JSON types: a datetime as text, a set as a list. Unlike oslo.serialization, an
    iterable is written to its end, and a network is text, not a list of its addresses. Register
    further types with ``primitive.register(type, function)``.
    """

    content_type = "application/json"

    def __init__(self) -> None:
        self._encode = json.JSONEncoder(default=primitive, separators=(",", ":")).encode

    def encode(self, value: Any) -> bytes:
        """Return `value` as JSON."""
        return self._encode(value).encode()

    def decode(self, data: bytes) -> Any:
        """Return the value of JSON `data`."""
        return json.loads(data)


@functools.singledispatch
def primitive(value: Any) -> Any:
    """Convert a `value` for which JSON has no type, one level deep.

    Raises:
        TypeError: there is no conversion.
    """
    kind = type(value)
    # A value of their types exists only if its module is loaded; do not import it here.
    if kind.__module__ == "xmlrpc.client" and kind.__name__ == "DateTime":
        return primitive(datetime.datetime(*value.timetuple()[:6]))
    if kind.__module__.partition(".")[0] == "netaddr" or _is_code(value):
        return str(value)
    if isinstance(value, _ENDLESS):
        raise TypeError(f"{kind.__name__} has no end")
    if callable(getattr(value, "items", None)):
        return dict(value.items())
    if isinstance(value, Iterable) and not isinstance(value, io.IOBase):
        return list(value) if hasattr(value, "__len__") else _exhausted(value)
    raise TypeError(f"{kind.__module__}.{kind.__qualname__} cannot be converted to JSON")


@primitive.register(datetime.datetime)
def _datetime(value: datetime.datetime) -> str:
    return value.strftime(DATETIME_FORMAT)


@primitive.register(datetime.date)
def _date(value: datetime.date) -> str:
    return value.isoformat()


@primitive.register(bytes)
@primitive.register(bytearray)
def _bytes(value: bytes) -> str:
    return value.decode()


@primitive.register(Exception)
def _exception(value: Exception) -> str:
    return repr(value)


primitive.register(set, list)
primitive.register(frozenset, list)
primitive.register(collections.deque, list)
primitive.register(uuid.UUID, str)
primitive.register(decimal.Decimal, str)
primitive.register(ipaddress.IPv4Address, str)
primitive.register(ipaddress.IPv6Address, str)
primitive.register(ipaddress.IPv4Network, str)
primitive.register(ipaddress.IPv6Network, str)


def _exhausted(iterator: Iterable[Any]) -> list[Any]:
    items = list(itertools.islice(iterator, MOST_ITEMS + 1))
    if len(items) > MOST_ITEMS:
        raise TypeError(f"{type(iterator).__name__} has more than {MOST_ITEMS} items, or no end")
    return items


def _is_code(value: Any) -> bool:
    return (
        inspect.ismodule(value)
        or inspect.isclass(value)
        or inspect.isroutine(value)
        or inspect.istraceback(value)
        or inspect.isframe(value)
        or inspect.iscode(value)
    )


class Encoding:
    """The serializer for sending, those for receiving, and the limit for both.

    Parameters:
        serializer: encodes what is sent.
        limit: the largest encoded payload, in bytes.
        others: further serializers for decoding.
    """

    def __init__(
        self,
        serializer: Serializer | None = None,
        *,
        limit: int = 16 * MIB,
        others: Iterable[Serializer] = (),
    ) -> None:
        sending = JsonSerializer() if serializer is None else serializer
        self.content_type = sending.content_type
        self.limit = limit
        self._encode: Callable[[Any], bytes] = sending.encode
        self._decoders: dict[str, Callable[[bytes], Any]] = {
            _bare(each.content_type): each.decode for each in (JsonSerializer(), *others, sending)
        }

    def encode(self, value: Any) -> bytes:
        """Return `value` as the bytes of a message of :attr:`content_type`.

        Raises:
            PayloadError: it cannot be encoded, or is larger than the limit.
        """
        try:
            data = self._encode(value)
            if type(data) is not bytes:
                data = _bytes_of(data)
        except Exception as error:
            raise PayloadError(
                f"the payload cannot be encoded as {self.content_type} "
                f"({_words(error)}); send plain values, without cycles, or "
                "use a serializer for these types"
            ) from error
        if len(data) > self.limit:
            raise PayloadError(
                f"the payload has {len(data)} bytes, encoded, and payload_limit is {self.limit}; "
                "send less, or raise payload_limit, and RabbitMQ's max_message_size with it"
            )
        return data

    def decode(self, data: bytes, content_type: str | None = None) -> Any:
        """Return the value of a message.

        Parameters:
            data: the bytes.
            content_type: the message's; if it is empty, that of this side's serializer.

        Raises:
            PayloadError: the content type is unknown, the bytes are malformed, or larger than
                the limit.
        """
        if len(data) > self.limit:
            raise PayloadError(
                f"a message of {len(data)} bytes was received, and payload_limit is {self.limit}; "
                "send less, or raise payload_limit on this side, too"
            )
        kind = content_type or self.content_type
        # RFC 9110, 8.3: in any case, and parameters may follow.
        decoder = self._decoders.get(kind) or self._decoders.get(_bare(kind))
        if decoder is None:
            raise PayloadError(
                f"a message of content type {kind!r} cannot be decoded; this side knows "
                f"{', '.join(sorted(self._decoders))}; pass a serializer for it"
            )
        try:
            return decoder(data)
        except Exception as error:
            raise PayloadError(
                f"a message of {len(data)} bytes is not valid {kind} "
                f"({_words(error)}); check its sender"
            ) from error


def _bytes_of(encoded: object) -> bytes:
    if isinstance(encoded, (bytes, bytearray, memoryview)):
        return bytes(encoded)
    raise TypeError(f"the serializer returned {type(encoded).__name__}, not bytes")


def _words(error: Exception) -> str:
    name = type(error).__name__
    try:
        return f"{name}: {error}"
    except Exception:
        return name  # str() of an error is code of the application


def _bare(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()
