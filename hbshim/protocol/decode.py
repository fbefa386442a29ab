"""What arrives most, from octets: basic.deliver with its content, basic.ack and basic.nack.

Client libraries make an object of each frame and look up by name what to do with it: that
costs more than everything that is done with a message afterwards. What is not among these
goes to the library, as ever.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, TypeAlias

from hbshim.protocol.frames import BODY, HEADER, METHOD, not_amqp
from hbshim.protocol.messages import Delivery

_DELIVER, _ACK, _NACK = (struct.pack(">HH", 60, method) for method in (60, 80, 120))
# Class, weight, size of the body, property flags; below, a tag and an octet of bits.
_CONTENT = struct.Struct(">HHQH")
_TAG = struct.Struct(">QB")
_MULTIPLE = 1


OnDelivery: TypeAlias = Callable[[Delivery], object]


class DeliveryDecoder:
    """Takes in what arrives on one channel.

    Parameters:
        consumer: what to call with the messages of a consumer; None: its messages are the
            library's business.
        table: decodes a field table, length and all, for the headers.

    Attributes:
        on_confirm: called with the tag, whether all before it are meant too, and whether
            the broker refused; None: confirms are the library's business.
    """

    __slots__ = ("_arriving", "_consumer", "_missing", "_parts", "_table", "_to", "on_confirm")

    def __init__(
        self, consumer: Callable[[str], OnDelivery | None], table: Callable[[bytes], dict[str, Any]]
    ) -> None:
        self._consumer = consumer
        self._table = table
        self.on_confirm: Callable[[int, bool, bool], object] | None = None
        self._to: OnDelivery | None = None
        self._arriving: Delivery | None = None
        # Octets of the body that are to come; -1 before its header did.
        self._missing = -1
        self._parts: list[bytes] = []

    def take(self, kind: int, payload: bytes) -> bool:
        """Take in one frame; False: it is for the library.

        Raises:
            OSError: it is not what AMQP allows here.
        """
        arriving = self._arriving
        try:
            if kind == METHOD:
                if arriving is None:
                    return self._begin(payload)
            elif arriving is None:
                return False
            elif kind == BODY and self._missing >= 0:
                self._add(arriving, payload)
                return True
            elif kind == HEADER and self._missing < 0:
                self._read_header(arriving, payload)
                return True
        except (struct.error, IndexError, ValueError) as error:
            raise not_amqp(str(error)) from error
        raise not_amqp(f"a frame of type {kind} in the middle of a message")

    def _begin(self, payload: bytes) -> bool:
        method = payload[:4]
        if method == _DELIVER:
            consumer_tag, at = _short(payload, 4)
            to = self._consumer(consumer_tag)
            if to is None:
                return False
            tag, redelivered = _TAG.unpack_from(payload, at)
            # Behind the octet: the exchange, which nobody asks for, then the key.
            at += 9
            routing_key, end = _short(payload, at + 1 + payload[at])
            if end > len(payload):
                raise ValueError("a routing key is longer than its frame")
            self._to, self._missing = to, -1
            self._arriving = Delivery(None, tag, b"", routing_key, bool(redelivered))
            return True
        if self.on_confirm is not None and method in (_ACK, _NACK):
            tag, bits = _TAG.unpack_from(payload, 4)
            self.on_confirm(tag, bool(bits & _MULTIPLE), method == _NACK)
            return True
        return False

    def _read_header(self, arriving: Delivery, payload: bytes) -> None:
        _, _, size, flags = _CONTENT.unpack_from(payload)
        at = _CONTENT.size
        # AMQP 0-9-1, class basic: the properties in this order, a bit for each that is there.
        if flags & 0x8000:
            arriving.content_type, at = _short(payload, at)
        if flags & 0x4000:
            at += 1 + payload[at]
        if flags & 0x2000:
            end = at + 4 + int.from_bytes(payload[at : at + 4], "big")
            if end > len(payload):
                raise ValueError("a table is longer than its frame")
            arriving.headers = self._headers(payload[at:end])
            at = end
        at += bool(flags & 0x1000) + bool(flags & 0x0800)
        if flags & 0x0400:
            arriving.correlation_id, at = _short(payload, at)
        if flags & 0x0200:
            arriving.reply_to, at = _short(payload, at)
        if flags & 0x0100:
            text, at = _short(payload, at)
            arriving.expiration = _seconds(text)
        if flags & 0x0080:
            arriving.message_id, at = _short(payload, at)
        if flags & 0x0040:
            at += 8
        if flags & 0x0020:
            arriving.type, at = _short(payload, at)
        if at > len(payload):
            raise ValueError("a property is longer than its frame")
        self._missing = size
        if not size:
            self._hand_over(arriving)

    def _headers(self, data: bytes) -> dict[str, Any]:
        # A sender may write what the library has no form for, such as the year 50,000. To end
        # the connection would have the message redelivered, and end the next one.
        try:
            return self._table(data)
        except Exception:
            return {}

    def _add(self, arriving: Delivery, payload: bytes) -> None:
        self._missing -= len(payload)
        if self._missing < 0:
            raise ValueError("a body is longer than its header says")
        self._parts.append(payload)
        if self._missing == 0:
            parts, self._parts = self._parts, []
            arriving.body = payload if len(parts) == 1 else b"".join(parts)
            self._hand_over(arriving)

    def _hand_over(self, arriving: Delivery) -> None:
        to, self._to, self._arriving, self._missing = self._to, None, None, -1
        assert to is not None
        to(arriving)


def _short(payload: bytes, at: int) -> tuple[str, int]:
    begin = at + 1
    end = begin + payload[at]
    # What is no UTF-8 is somebody's mistake, but no reason to end a connection, and to have
    # the message come again.
    return payload[begin:end].decode(errors="replace"), end


def _seconds(milliseconds: str) -> float | None:
    # The sender's text: what is no number is no limit.
    try:
        return int(milliseconds) / 1000
    except ValueError:
        return None
