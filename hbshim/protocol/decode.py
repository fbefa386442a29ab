"""Decodes the most frequent frames.

They are basic.deliver and basic.return with their content, and confirms.
Client libraries make an object of each frame and look up its handler by name, which costs more than
all further processing of a message.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from hbshim.protocol.frames import BODY, HEADER, METHOD, not_amqp
from hbshim.protocol.messages import Delivery
from hbshim.protocol.methods import (
    BASIC_ACK,
    BASIC_DELIVER,
    BASIC_NACK,
    BASIC_RETURN,
    read_short_string,
)

# Class, weight, size of the body, property flags; below, a tag and a byte of bits.
_CONTENT = struct.Struct(">HHQH")
_TAG = struct.Struct(">QB")
_MULTIPLE = 1


#: Called with a message that was delivered or returned.
OnMessage: TypeAlias = Callable[[Delivery], object]
#: Called with the delivery tag, `multiple`, and whether the broker rejected.
OnConfirm: TypeAlias = Callable[[int, bool, bool], object]
#: Called with the broker's reason, the exchange, and the unroutable message.
OnReturn: TypeAlias = Callable[[str, str, Delivery], object]


class DeliveryDecoder:
    """Decodes the frames of one channel.

    Parameters:
        consumers: the function to call with the messages of each consumer, by its tag; an unknown
            tag is an error, unless the mapping has a default.
        table: decodes a field table, with its length, for the headers.
    """

    __slots__ = (
        "_consumers",
        "_delivery",
        "_missing",
        "_on_confirm",
        "_on_return",
        "_parts",
        "_table",
        "_to",
    )

    def __init__(
        self,
        consumers: Mapping[str, OnMessage],
        table: Callable[[bytes], dict[str, Any]],
        on_confirm: OnConfirm,
        on_return: OnReturn,
    ) -> None:
        self._consumers = consumers
        self._table = table
        self._on_confirm = on_confirm
        self._on_return = on_return
        self._to: OnMessage | None = None
        self._delivery: Delivery | None = None
        # Bytes of the body that are missing; -1 before its header.
        self._missing = -1
        self._parts: list[bytes] = []

    def receive(self, kind: int, payload: bytes) -> bool:
        """Decode one frame; return False for another method.

        Raises:
            OSError: it is not valid AMQP here.
        """
        delivery = self._delivery
        try:
            if kind == METHOD:
                if delivery is None:
                    return self._begin(payload)
            elif delivery is None:
                raise ValueError(f"a frame of type {kind} before any message")
            elif kind == BODY and self._missing >= 0:
                self._add(delivery, payload)
                return True
            elif kind == HEADER and self._missing < 0:
                self._read_header(delivery, payload)
                return True
        except (struct.error, LookupError, ValueError) as error:
            raise not_amqp(str(error)) from error
        raise not_amqp(f"a frame of type {kind} in the middle of a message")

    def _begin(self, payload: bytes) -> bool:
        method = payload[:4]
        if method == BASIC_DELIVER:
            consumer_tag, at = read_short_string(payload, 4)
            tag, redelivered = _TAG.unpack_from(payload, at)
            # The exchange is between the bits and the routing key, and is not read.
            at += 9
            routing_key, end = read_short_string(payload, at + 1 + payload[at])
            self._to = self._consumers[consumer_tag]
        elif method == BASIC_RETURN:
            code = int.from_bytes(payload[4:6], "big")
            text, at = read_short_string(payload, 6)
            exchange, at = read_short_string(payload, at)
            routing_key, end = read_short_string(payload, at)
            tag, redelivered = 0, 0
            self._to = functools.partial(self._on_return, f"{text}, {code}", exchange)
        elif method in (BASIC_ACK, BASIC_NACK):
            tag, bits = _TAG.unpack_from(payload, 4)
            self._on_confirm(tag, bool(bits & _MULTIPLE), method == BASIC_NACK)
            return True
        else:
            return False
        if end > len(payload):
            raise ValueError("a routing key is longer than its frame")
        self._missing = -1
        self._delivery = Delivery(None, tag, b"", routing_key, bool(redelivered))
        return True

    def _read_header(self, delivery: Delivery, payload: bytes) -> None:
        _, _, size, flags = _CONTENT.unpack_from(payload)
        at = _CONTENT.size
        # AMQP 0-9-1, class basic: the properties in this order, with one bit for each that is
        # present.
        if flags & 0x8000:
            delivery.content_type, at = read_short_string(payload, at)
        if flags & 0x4000:
            at += 1 + payload[at]
        if flags & 0x2000:
            end = at + 4 + int.from_bytes(payload[at : at + 4], "big")
            if end > len(payload):
                raise ValueError("a table is longer than its frame")
            delivery.headers = self._headers(payload[at:end])
            at = end
        at += bool(flags & 0x1000) + bool(flags & 0x0800)
        if flags & 0x0400:
            delivery.correlation_id, at = read_short_string(payload, at)
        if flags & 0x0200:
            delivery.reply_to, at = read_short_string(payload, at)
        if flags & 0x0100:
            text, at = read_short_string(payload, at)
            delivery.expiration = _seconds(text)
        if flags & 0x0080:
            delivery.message_id, at = read_short_string(payload, at)
        if flags & 0x0040:
            at += 8
        if flags & 0x0020:
            delivery.type, at = read_short_string(payload, at)
        if at > len(payload):
            raise ValueError("a property is longer than its frame")
        self._missing = size
        if not size:
            self._hand_over(delivery)

    def _headers(self, data: bytes) -> dict[str, Any]:
        # A sender may write a value that the library cannot represent, such as the year 50,000.
        # Ending the connection would have the message redelivered, and end the next connection as
        # well.
        try:
            return self._table(data)
        except Exception:
            return {}

    def _add(self, delivery: Delivery, payload: bytes) -> None:
        self._missing -= len(payload)
        if self._missing < 0:
            raise ValueError("a body is longer than the size in its header")
        self._parts.append(payload)
        if self._missing == 0:
            parts, self._parts = self._parts, []
            delivery.body = payload if len(parts) == 1 else b"".join(parts)
            self._hand_over(delivery)

    def _hand_over(self, delivery: Delivery) -> None:
        to, self._to, self._delivery, self._missing = self._to, None, None, -1
        assert to is not None, "a delivery has one"
        to(delivery)


def _seconds(milliseconds: str) -> float | None:
    # Text from the sender: if it is not a number, there is no limit.
    try:
        return int(milliseconds) / 1000
    except ValueError:
        return None
