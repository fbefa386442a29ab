"""The methods of AMQP 0-9-1 that a session uses on its channels, and the broker's answers.

Each function returns one frame. Numbers and arguments: AMQP 0-9-1 specification, 1.3 to 1.8,
and RabbitMQ's publisher confirms.
"""

from __future__ import annotations

import struct
from typing import TypeAlias

from hbshim.errors import PayloadError
from hbshim.protocol.frames import METHOD, joined

#: Class and method, with which the payload of a frame begins.
MethodId: TypeAlias = bytes


def _id(class_id: int, method_id: int) -> MethodId:
    return struct.pack(">HH", class_id, method_id)


CHANNEL_OPEN, CHANNEL_OPEN_OK = _id(20, 10), _id(20, 11)
CHANNEL_CLOSE, CHANNEL_CLOSE_OK = _id(20, 40), _id(20, 41)
EXCHANGE_DECLARE, EXCHANGE_DECLARE_OK = _id(40, 10), _id(40, 11)
QUEUE_DECLARE, QUEUE_DECLARE_OK = _id(50, 10), _id(50, 11)
QUEUE_BIND, QUEUE_BIND_OK = _id(50, 20), _id(50, 21)
QUEUE_DELETE, QUEUE_DELETE_OK = _id(50, 40), _id(50, 41)
BASIC_QOS, BASIC_QOS_OK = _id(60, 10), _id(60, 11)
BASIC_CONSUME, BASIC_CONSUME_OK = _id(60, 20), _id(60, 21)
BASIC_CANCEL, BASIC_CANCEL_OK = _id(60, 30), _id(60, 31)
BASIC_PUBLISH, BASIC_RETURN, BASIC_DELIVER = _id(60, 40), _id(60, 50), _id(60, 60)
BASIC_ACK, BASIC_NACK = _id(60, 80), _id(60, 120)
CONFIRM_SELECT = _id(85, 10)

#: The answer to each synchronous method; both have the same class.
ANSWERS = {
    EXCHANGE_DECLARE: EXCHANGE_DECLARE_OK,
    QUEUE_DECLARE: QUEUE_DECLARE_OK,
    QUEUE_BIND: QUEUE_BIND_OK,
    QUEUE_DELETE: QUEUE_DELETE_OK,
    BASIC_QOS: BASIC_QOS_OK,
    BASIC_CONSUME: BASIC_CONSUME_OK,
    BASIC_CANCEL: BASIC_CANCEL_OK,
}
#: Answers that begin with a consumer tag.
OF_CONSUMERS = frozenset({BASIC_CONSUME_OK, BASIC_CANCEL_OK})

#: An empty table.
EMPTY_TABLE = b"\0\0\0\0"
#: A short integer, or a short string, that AMQP reserves.
_RESERVED = b"\0\0"
_NO_TEXT = b"\0"


def frame(channel: int, method: MethodId, arguments: bytes = b"") -> bytes:
    """Return the frame of a method."""
    return joined((METHOD, channel, method + arguments))


def short_string(text: str) -> bytes:
    """Encode a short string.

    Raises:
        PayloadError: it is longer than AMQP allows.
    """
    data = text.encode()
    if len(data) > 255:
        raise PayloadError(f"AMQP has names of 255 bytes at most, and {text!r} has {len(data)}")
    return len(data).to_bytes(1, "big") + data


def read_short_string(payload: bytes, at: int) -> tuple[str, int]:
    """Decode a short string; return it and the offset after it."""
    begin = at + 1
    end = begin + payload[at]
    # Bytes that are not UTF-8 are a mistake of a sender, but no reason to end a connection and have
    # the message redelivered.
    return payload[begin:end].decode(errors="replace"), end


def channel_open(channel: int) -> bytes:
    """Return channel.open.

    The broker processes methods in order, so the channel can be used at once.
    """
    return frame(channel, CHANNEL_OPEN, _NO_TEXT)


def confirm_select(channel: int) -> bytes:
    """Return confirm.select, without an answer."""
    return frame(channel, CONFIRM_SELECT, b"\1")


def exchange_declare(channel: int, name: str, kind: str, *, passive: bool = False) -> bytes:
    """Declare a durable exchange; or passive, as a check."""
    bits = b"\1" if passive else b"\2"
    arguments = _RESERVED + short_string(name) + short_string(kind) + bits + EMPTY_TABLE
    return frame(channel, EXCHANGE_DECLARE, arguments)


def queue_declare(
    channel: int,
    name: str,
    *,
    passive: bool = False,
    exclusive: bool = False,
    arguments: bytes = EMPTY_TABLE,
) -> bytes:
    """Return queue.declare of a queue, durable unless exclusive; or passive, as a check."""
    if passive:
        bits = 1
    elif exclusive:
        bits = 4
    else:
        bits = 2
    fields = _RESERVED + short_string(name) + bytes((bits,)) + arguments
    return frame(channel, QUEUE_DECLARE, fields)


def queue_bind(channel: int, queue: str, exchange: str, routing_key: str) -> bytes:
    """Bind a queue to an exchange."""
    names = short_string(queue) + short_string(exchange) + short_string(routing_key)
    return frame(channel, QUEUE_BIND, _RESERVED + names + b"\0" + EMPTY_TABLE)


def queue_delete(channel: int, name: str, *, if_unused: bool, if_empty: bool) -> bytes:
    """Delete a queue."""
    bits = bytes((if_unused | if_empty << 1,))
    return frame(channel, QUEUE_DELETE, _RESERVED + short_string(name) + bits)


def deleted_messages(payload: bytes) -> int:
    """Return how many messages a deleted queue had (queue.delete-ok)."""
    return int.from_bytes(payload[4:8], "big")


def basic_qos(channel: int, count: int) -> bytes:
    """Return basic.qos: the prefetch of each consumer that is started from now on."""
    return frame(channel, BASIC_QOS, struct.pack(">IHB", 0, count, 0))


def basic_consume(
    channel: int,
    queue: str,
    consumer_tag: str,
    *,
    acknowledged: bool,
    no_wait: bool = False,
    arguments: bytes = EMPTY_TABLE,
) -> bytes:
    """Start a consumer."""
    bits = bytes(((not acknowledged) << 1 | no_wait << 3,))
    names = short_string(queue) + short_string(consumer_tag)
    return frame(channel, BASIC_CONSUME, _RESERVED + names + bits + arguments)


def basic_cancel(channel: int, consumer_tag: str) -> bytes:
    """Stop a consumer."""
    return frame(channel, BASIC_CANCEL, short_string(consumer_tag) + b"\0")


def closed_channel(payload: bytes) -> tuple[int, str, MethodId]:
    """Decode channel.close: the code, the text, and the method that caused it."""
    code = int.from_bytes(payload[4:6], "big")
    text, at = read_short_string(payload, 6)
    return code, text, payload[at : at + 4]
