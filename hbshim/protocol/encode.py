"""Encodes the most frequent methods: basic.publish, basic.ack and basic.reject.

Client libraries encode a message frame by frame, and py-amqp writes a large one in several calls;
if the broker stops reading in between, half a message has been sent. Here a message is one bytes
object, which takes a third of the time.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

from hbshim.errors import PayloadError
from hbshim.protocol.frames import FRAME_OVERHEAD
from hbshim.protocol.messages import Message
from hbshim.protocol.methods import short_string

_END = b"\xce"
# AMQP 0-9-1, 4.2.3: type, channel, size; then class and method.
_METHOD = struct.Struct(">BHIHHH")
_HEADER = struct.Struct(">BHIHHQH")
_BODY = struct.Struct(">BHI")
_SETTLE = struct.Struct(">BHIHHQBB")
_BASIC, _PUBLISH, _ACK, _REJECT = 60, 40, 80, 90


def publication(
    message: Message,
    channel: int,
    frame_max: int,
    table: Callable[[Mapping[str, Any]], bytes],
    *,
    mandatory: bool = False,
) -> bytes:
    """Return the frames of a message: method, header, and as many bodies as `frame_max` requires.

    Parameters:
        message: the message.
        channel: the number of the channel.
        frame_max: the largest frame, in bytes.
        table: the client library's encoder of a field table, with its length, for the headers;
            it raises ValueError for a value without an AMQP type.
        mandatory: the flag of basic.publish.

    Raises:
        PayloadError: a name or property is longer than AMQP allows, or AMQP has no type for a
            header.
    """
    to = short_string(message.exchange) + short_string(message.routing_key)
    flags, properties = 0, b""
    # AMQP 0-9-1, class basic: the properties in this order, with one bit for each that is present.
    if message.content_type:
        flags, properties = 0x8000, short_string(message.content_type)
    if message.headers:
        flags |= 0x2000
        properties += _headers(message.headers, table)
    flags |= 0x1000
    properties += message.delivery_mode.to_bytes(1, "big")
    if message.correlation_id:
        flags |= 0x0400
        properties += short_string(message.correlation_id)
    if message.reply_to:
        flags |= 0x0200
        properties += short_string(message.reply_to)
    expiration = message.expiration_text()
    if expiration:
        flags |= 0x0100
        properties += short_string(expiration)
    if message.message_id:
        flags |= 0x0080
        properties += short_string(message.message_id)
    if message.type:
        flags |= 0x0020
        properties += short_string(message.type)
    body = message.body
    size = len(body)
    start = (
        _METHOD.pack(1, channel, 7 + len(to), _BASIC, _PUBLISH, 0)
        + to
        + (b"\x01\xce" if mandatory else b"\x00\xce")
        + _HEADER.pack(2, channel, 14 + len(properties), _BASIC, 0, size, flags)
        + properties
    )
    most = frame_max - FRAME_OVERHEAD
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
    """Return basic.ack of one delivery."""
    return _SETTLE.pack(1, channel, 13, _BASIC, _ACK, tag, 0, 0xCE)


def rejection(channel: int, tag: int) -> bytes:
    """Return basic.reject of one delivery, with requeue."""
    return _SETTLE.pack(1, channel, 13, _BASIC, _REJECT, tag, 1, 0xCE)


def rejection_without_requeue(channel: int, tag: int) -> bytes:
    """Return basic.reject of one delivery, which is then dead-lettered or dropped."""
    return _SETTLE.pack(1, channel, 13, _BASIC, _REJECT, tag, 0, 0xCE)


def _headers(headers: Mapping[str, Any], table: Callable[[Mapping[str, Any]], bytes]) -> bytes:
    try:
        return table(headers)
    except ValueError as error:
        raise PayloadError(
            "the message cannot be sent: its headers must be of the types that AMQP has (text, "
            "bytes, numbers, times, lists and mappings), under keys of 255 bytes at most"
        ) from error
