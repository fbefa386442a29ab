"""Payloads as bytes: JSON unless the application brings a serializer of its own.

A message's content type names its serializer, so that a receiver decodes what it got and
not what it would have sent.
"""

from __future__ import annotations

import datetime
import decimal
import ipaddress
import json
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from hbshim.errors import PayloadError

#: As oslo.serialization writes a datetime: always with microseconds, never with a zone.
DATETIME_FORMAT = "%Y-%m-%dT%H:%M:%S.%f"

_AS_TEXT = (uuid.UUID, decimal.Decimal, ipaddress.IPv4Address, ipaddress.IPv6Address)


class Serializer(Protocol):
    """Makes bytes of a value, and the value of its bytes.

    Either may raise what it likes: the caller gets a
    :class:`hbshim.errors.PayloadError`.

    Attributes:
        content_type: names it in messages; AMQP 0-9-1, basic.properties: `content-type`.
    """

    @property
    def content_type(self) -> str: ...
    def encode(self, value: Any) -> bytes: ...
    def decode(self, data: bytes) -> Any: ...


class JsonSerializer:
    """JSON, with the types that oslo.serialization takes, in the same text form."""

    content_type = "application/json"

    def __init__(self) -> None:
        self._encode = json.JSONEncoder(default=primitive).encode

    def encode(self, value: Any) -> bytes:
        """`value` as JSON."""
        return self._encode(value).encode()

    def decode(self, data: bytes) -> Any:
        """What `data` says."""
        return json.loads(data)


def primitive(value: Any) -> Any:
    """What JSON can say of a `value` that it has no type for.

    Raises:
        TypeError: nothing.
    """
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, datetime.datetime):
        return value.strftime(DATETIME_FORMAT)
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(
        value, (uuid.UUID, decimal.Decimal, ipaddress.IPv4Address, ipaddress.IPv6Address)
    ):
        return str(value)
    if isinstance(value, Exception):
        return repr(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Iterable):
        return list(value)
    raise TypeError(f"a {type(value).__name__} has no form in JSON")


class Encoding:
    """The serializer to send with, those to receive with, and the limit for both.

    Parameters:
        serializer: encodes what is sent.
        limit: bytes that a payload may have, encoded.
        others: further serializers of which messages are understood.
    """

    def __init__(
        self,
        serializer: Serializer | None = None,
        *,
        limit: int = 16 * 1024 * 1024,
        others: Iterable[Serializer] = (),
    ) -> None:
        sending = JsonSerializer() if serializer is None else serializer
        self.content_type = sending.content_type
        self.limit = limit
        self._encode: Callable[[Any], bytes] = sending.encode
        self._decoders: dict[str, Callable[[bytes], Any]] = {
            each.content_type: each.decode for each in (JsonSerializer(), *others, sending)
        }

    def encode(self, value: Any) -> bytes:
        """`value` as the bytes of a message of :attr:`content_type`.

        Raises:
            PayloadError: it cannot be encoded, or is larger than the limit.
        """
        try:
            data = self._encode(value)
        except Exception as error:
            raise PayloadError(
                f"the payload cannot be encoded as {self.content_type} "
                f"({type(error).__name__}: {error}); send plain values, or give a serializer "
                "that knows its types"
            ) from error
        if len(data) > self.limit:
            raise PayloadError(
                f"the payload has {len(data)} bytes, encoded, and payload_limit is {self.limit}; "
                "send less, or raise payload_limit, and RabbitMQ's max_message_size with it"
            )
        return data

    def decode(self, data: bytes, content_type: str | None = None) -> Any:
        """The value of a message.

        Parameters:
            content_type: the message's; without one, it is taken for one of ours.

        Raises:
            PayloadError: nobody here knows the content type, or the bytes are not of it.
        """
        decoder = self._decoders.get(content_type or self.content_type)
        if decoder is None:
            raise PayloadError(
                f"a message of content type {content_type!r} cannot be decoded; this side knows: "
                f"{', '.join(sorted(self._decoders))}; give a serializer for it"
            )
        try:
            return decoder(data)
        except Exception as error:
            raise PayloadError(
                f"a message is not the {content_type or self.content_type} that it says it is "
                f"({type(error).__name__}: {error}); look at its sender"
            ) from error
