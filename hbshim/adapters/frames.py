"""What is sent most, as octets: basic.publish, basic.ack and basic.reject.

Client libraries make a message frame by frame, and py-amqp writes a large one in several
goes; when the broker stops reading in between, half a message is on the wire. Here a message
is one string of octets; and made so, it costs a third.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

from hbshim.errors import PayloadError

_END = b"\xce"
# AMQP 0-9-1, 4.2.3: type, channel, size; then class and method.
_METHOD = struct.Struct(">BHIHHH")
_HEADER = struct.Struct(">BHIHHQH")
_BODY = struct.Struct(">BHI")
_SETTLE = struct.Struct(">BHIHHQBB")
_BASIC, _PUBLISH, _ACK, _REJECT = 60, 40, 80, 90
#: Octets of a frame around its payload.
_AROUND = 8


def publication(
    channel: int,
    frame_max: int,
    exchange: str,
    routing_key: str,
    body: bytes,
    *,
    table: Callable[[Mapping[str, Any]], bytes],
    content_type: str | None = None,
    headers: Mapping[str, Any] | None = None,
    delivery_mode: int | None = None,
    correlation_id: str | None = None,
    reply_to: str | None = None,
    expiration: str | None = None,
    message_id: str | None = None,
    kind: str | None = None,
    mandatory: bool = False,
) -> bytes:
    """The frames of one message: method, header, and as many bodies as `frame_max` asks for.

    Parameters:
        table: the library's own encoder of a field table, length and all, for the headers; it
            raises ValueError for what AMQP has no type for.
        expiration: in milliseconds.
        kind: the property `type`.

    Raises:
        PayloadError: a name or property is longer than AMQP allows, or a header is of a type
            that AMQP does not have.
    """
    flags, properties = 0, b""
    try:
        to = _short(exchange) + _short(routing_key)
        # AMQP 0-9-1, class basic: the properties in this order, a bit for each that is there.
        if content_type:
            flags, properties = 0x8000, _short(content_type)
        if headers:
            flags |= 0x2000
            properties += table(headers)
        if delivery_mode:
            flags |= 0x1000
            properties += delivery_mode.to_bytes(1, "big")
        if correlation_id:
            flags |= 0x0400
            properties += _short(correlation_id)
        if reply_to:
            flags |= 0x0200
            properties += _short(reply_to)
        if expiration:
            flags |= 0x0100
            properties += _short(expiration)
        if message_id:
            flags |= 0x0080
            properties += _short(message_id)
        if kind:
            flags |= 0x0020
            properties += _short(kind)
    except (OverflowError, ValueError, struct.error) as error:
        raise PayloadError(
            f"the message cannot be sent ({error}); names and properties have 255 octets at "
            "most, and headers hold what AMQP has types for"
        ) from None
    size = len(body)
    start = (
        _METHOD.pack(1, channel, 7 + len(to), _BASIC, _PUBLISH, 0)
        + to
        + (b"\x01\xce" if mandatory else b"\x00\xce")
        + _HEADER.pack(2, channel, 14 + len(properties), _BASIC, 0, size, flags)
        + properties
    )
    most = frame_max - _AROUND
    if size <= most:
        if not size:
            return start + _END
        return b"".join((start, _END, _BODY.pack(3, channel, size), body, _END))
    frames = [start, _END]
    for begin in range(0, size, most):
        part = body[begin : begin + most]
        frames += (_BODY.pack(3, channel, len(part)), part, _END)
    return b"".join(frames)


def acknowledgement(channel: int, tag: int) -> bytes:
    """basic.ack of one delivery."""
    return _SETTLE.pack(1, channel, 13, _BASIC, _ACK, tag, 0, 0xCE)


def rejection(channel: int, tag: int) -> bytes:
    """basic.reject of one delivery, which is to be queued again."""
    return _SETTLE.pack(1, channel, 13, _BASIC, _REJECT, tag, 1, 0xCE)


def _short(text: str) -> bytes:
    octets = text.encode()
    # Above 255: OverflowError.
    return len(octets).to_bytes(1, "big") + octets
