"""Messages as they are sent over AMQP 1.0, and back.

RabbitMQ converts them from and to those of AMQP 0-9-1: the annotation ``x-basic-type`` is the
property `type` there, other annotations that begin with ``x-`` are headers, and so are the
application properties.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from hbshim.amqp1.messages import Data, decode_message, encode_message
from hbshim.amqp1.messages import Message as Encoded
from hbshim.amqp1.performatives import Header, Properties
from hbshim.amqp1.values import Symbol
from hbshim.errors import PayloadError
from hbshim.messaging.amqp.addresses import queue_at
from hbshim.messaging.amqp1.profiles import Profile
from hbshim.protocol.messages import MAX_EXPIRATION, PERSISTENT, Delivery, Message

#: The annotation with what AMQP 0-9-1 calls the type of a message.
TYPE = Symbol("x-basic-type")

#: The annotation of a message whose sender settles it when it waits no more. If such a message
#: arrives settled, its sender has given up, or is gone.
AWAITED = Symbol("x-hbshim-awaited")

#: The header with the number of times that a quorum queue has requeued a message.
DELIVERY_COUNT = "x-delivery-count"

#: Annotations that RabbitMQ adds: the exchange, and the routing key.
_EXCHANGE, _ROUTING_KEY = "x-exchange", "x-routing-key"

_KNOWN = frozenset((TYPE, _EXCHANGE, _ROUTING_KEY))

_ANNOTATION = "x-"


def encode(message: Message, profile: Profile, *, resent: int = 0, awaited: bool = False) -> bytes:
    """Return a message as bytes, with the time that it has left now.

    Parameters:
        message: the message.
        profile: of the peer.
        resent: how often it was sent before, so that a receiver may have a copy of it.
        awaited: its sender settles it when it waits no more; see :data:`AWAITED`.

    Raises:
        PayloadError: AMQP 1.0 has no type for one of its headers.
    """
    headers = message.headers or {}
    annotations: dict[Symbol, Any] = {
        Symbol(name): value for name, value in headers.items() if name.startswith(_ANNOTATION)
    }
    if message.type is not None:
        annotations[TYPE] = message.type
    if awaited and profile.routes:
        annotations[AWAITED] = True
    properties = {
        name: value for name, value in headers.items() if not name.startswith(_ANNOTATION)
    }
    return encode_message(
        Encoded(
            Data((message.body,)),
            Header(message.delivery_mode == PERSISTENT, ttl=_ttl(message), delivery_count=resent),
            message_annotations=annotations or None,
            properties=Properties(
                message.message_id,
                to=profile.destination(message.exchange, message.routing_key),
                reply_to=None if message.reply_to is None else profile.source(message.reply_to),
                correlation_id=message.correlation_id,
                content_type=message.content_type,
            ),
            application_properties=properties or None,
        )
    )


def _ttl(message: Message) -> int | None:
    if message.deadline is None:
        return None
    left = min(message.deadline - time.monotonic(), MAX_EXPIRATION)
    # A field of 32 bits: 49 days.
    return min(max(0, int(left * 1000)), 0xFFFFFFFF)


def decode(data: bytes, profile: Profile, connection: Any, tag: int) -> Delivery:
    """Return a received message.

    Parameters:
        data: the encoded message.
        profile: of the peer.
        connection, tag: see :class:`Delivery`.

    Raises:
        ProtocolError: it is no message.
        PayloadError: its body is not binary.
    """
    message = decode_message(data)
    if not isinstance(message.body, Data):
        raise PayloadError(f"a message has a body of type {type(message.body).__name__}, not Data")
    header = message.header or Header()
    properties = message.properties or Properties()
    annotations: Mapping[Any, Any] = message.message_annotations or {}
    headers = {str(name): value for name, value in annotations.items() if name not in _KNOWN}
    headers.update(message.application_properties or {})
    if header.delivery_count:
        headers[DELIVERY_COUNT] = header.delivery_count
    return Delivery(
        connection,
        tag,
        message.body.content,
        str(annotations.get(_ROUTING_KEY, "")),
        redelivered=profile.may_be_copy(header),
        content_type=_text(properties.content_type),
        headers=headers,
        correlation_id=_text(properties.correlation_id),
        reply_to=None if properties.reply_to is None else queue_at(str(properties.reply_to)),
        message_id=_text(properties.message_id),
        type=_text(annotations.get(TYPE)),
        expiration=None if header.ttl is None else header.ttl / 1000,
    )


def _text(value: Any) -> str | None:
    """Return a property as text: ids may be numbers, UUIDs or bytes, too."""
    if value is None:
        return None
    return value.hex() if isinstance(value, bytes) else str(value)
