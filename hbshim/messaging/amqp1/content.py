"""Messages as they are sent over AMQP 1.0, and back.

RabbitMQ converts them from and to those of AMQP 0-9-1: the annotation ``x-basic-type`` is the
property `type` there, other annotations that begin with ``x-`` are headers, and so are the
application properties.

Over a router, messages are those of oslo.messaging's former driver: JSON is one text; a keepalive
has no value; and a reply's `correlation-id` is its request's `message-id`, which is another one for
each attempt. What is the same for all attempts is in the request's `correlation-id`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import Any

from hbshim.amqp1.messages import Body, Data, Single, decode_message, encode_message
from hbshim.amqp1.messages import Message as Encoded
from hbshim.amqp1.performatives import Header, Properties
from hbshim.amqp1.values import Symbol
from hbshim.errors import PayloadError
from hbshim.messaging.amqp.addresses import queue_at
from hbshim.messaging.amqp1.profiles import Profile
from hbshim.messaging.base import ReplyKind
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

#: The content type of what is sent as text over a router.
_TEXT = "application/json"

_KEEPALIVE: ReplyKind = "alive"


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
    message_id, correlation_id = message.message_id, message.correlation_id
    if profile.routes and message.reply_to is not None:
        message_id, correlation_id = correlation_id, message_id
    return encode_message(
        Encoded(
            _text_body(message) if profile.routes else Data((message.body,)),
            Header(message.delivery_mode == PERSISTENT, ttl=_ttl(message), delivery_count=resent),
            message_annotations=annotations or None,
            properties=Properties(
                message_id,
                to=profile.destination(message.exchange, message.routing_key),
                reply_to=None if message.reply_to is None else profile.source(message.reply_to),
                correlation_id=correlation_id,
                content_type=message.content_type,
            ),
            application_properties=properties or None,
        )
    )


def _text_body(message: Message) -> Body:
    if message.type == _KEEPALIVE:
        return Single(None)
    if message.content_type == _TEXT:
        with contextlib.suppress(UnicodeDecodeError):
            return Single(message.body.decode())
    return Data((message.body,))


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
        PayloadError: its body is neither binary nor text.
    """
    message = decode_message(data)
    body, implied = _content(message.body)
    header = message.header or Header()
    properties = message.properties or Properties()
    annotations: Mapping[Any, Any] = message.message_annotations or {}
    headers = {str(name): value for name, value in annotations.items() if name not in _KNOWN}
    headers.update(message.application_properties or {})
    if header.delivery_count:
        headers[DELIVERY_COUNT] = header.delivery_count
    message_id, correlation_id = _text(properties.message_id), _text(properties.correlation_id)
    if profile.routes and properties.reply_to is not None:
        # The former driver's requests have no correlation id.
        message_id, correlation_id = correlation_id or message_id, message_id
    return Delivery(
        connection,
        tag,
        body,
        str(annotations.get(_ROUTING_KEY, "")),
        redelivered=profile.may_be_copy(header),
        content_type=_text(properties.content_type),
        headers=headers,
        correlation_id=correlation_id,
        reply_to=None if properties.reply_to is None else queue_at(str(properties.reply_to)),
        message_id=message_id,
        type=_text(annotations.get(TYPE)) or implied,
        expiration=None if header.ttl is None else header.ttl / 1000,
    )


def _content(body: Body) -> tuple[bytes, str | None]:
    """Return a body as bytes, and the type of a message that names no other one.

    Raises:
        PayloadError: it is of another type.
    """
    if isinstance(body, Data):
        # The former driver's keepalive has no body at all.
        return body.content, None if body.sections else _KEEPALIVE
    if isinstance(body, Single):
        if body.value is None:
            return b"null", _KEEPALIVE
        if isinstance(body.value, str):
            return body.value.encode(), None
        if isinstance(body.value, bytes):
            return body.value, None
        found = type(body.value).__name__
    else:
        found = "list"
    raise PayloadError(f"a message has a body of type {found}, neither binary nor text")


def _text(value: Any) -> str | None:
    """Return a property as text: ids may be numbers, UUIDs or bytes, too."""
    if value is None:
        return None
    return value.hex() if isinstance(value, bytes) else str(value)
