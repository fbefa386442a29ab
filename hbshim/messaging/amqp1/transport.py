"""The transport of AMQP 1.0: bytes as they arrive, because the engine splits them into frames."""

from __future__ import annotations

import struct
from typing import Any

from hbshim.adapters.transport import Transport
from hbshim.heartbeat.wire import AMQP_1_0

#: AMQP 1.0, 2.3.1: size in 4 bytes, data offset, type, channel.
_HEADER = 8

_SIZE = struct.Struct(">I").unpack_from

#: A protocol header, which is as long as the header of a frame, begins with it.
_PROTOCOL = b"AMQP"


class Boundaries:
    """Follows where frames end in what arrives.

    Attributes:
        missing: bytes that are missing of a frame that has arrived in part, at least; 0 at a frame
            boundary. hbshim takes heartbeats off the receive queue only there.
    """

    def __init__(self) -> None:
        self.missing = 0
        # Of a header that has arrived in part.
        self._head = b""

    def split(self, data: bytes) -> list[bytes]:
        """Return `data`, unchanged."""
        position, end = 0, len(data)
        rest = 0 if self._head else self.missing
        if not (rest or self._head):
            # As a rule whole frames arrive: their sizes are enough.
            while position + _HEADER <= end and data[position] != _PROTOCOL[0]:
                size = max(_HEADER, _SIZE(data, position)[0])
                if position + size > end:
                    break
                position += size
        while position < end:
            if rest:
                step = min(rest, end - position)
                rest -= step
                position += step
                continue
            begin, position = position, min(end, position + _HEADER - len(self._head))
            self._head += data[begin:position]
            if len(self._head) == _HEADER:
                if not self._head.startswith(_PROTOCOL):
                    rest = max(0, int.from_bytes(self._head[:4], "big") - _HEADER)
                self._head = b""
        self.missing = _HEADER - len(self._head) if self._head else rest
        return [data]


def make_transport(sock: Any) -> Transport:
    """Return the transport of a connection of AMQP 1.0."""
    return Transport(sock, Boundaries(), AMQP_1_0)
