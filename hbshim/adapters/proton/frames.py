"""Determines whether the bytes that were sent so far end between two frames of AMQP 1.0.

proton's C library passes on a buffer of bytes, which may end anywhere, and may take as long as it
likes to pass on the rest. So the headers of the frames are read here, of what the socket accepted.
"""

from __future__ import annotations

#: AMQP 1.0, 2.3.1: size in 4 bytes, data offset in words of 4 bytes, type, channel in 2 bytes.
_HEADER = 8
#: Of a protocol header, such as "AMQP" 0 1 0 0, which is as long.
_PROTOCOL = b"AMQP"
_AMQP_TYPE = 0
#: The begin of a body: a described type, whose descriptor is a ulong of one byte.
_PERFORMATIVE = b"\x00\x53"
_DESCRIPTOR = len(_PERFORMATIVE) + 1
_OPEN, _CLOSE = 0x10, 0x18


class SentFrames:
    """The frames of one connection, as far as they were sent.

    Where the stream stands is not known at first; see :meth:`synchronize`.

    Attributes:
        known: it is known where the stream stands.
        closing: Close was sent.
    """

    __slots__ = ("_head", "_missing", "_opened", "closing", "known")

    def __init__(self) -> None:
        self.known = self.closing = False
        # Open was sent, and Close was not: AMQP 1.0, 2.4.5.
        self._opened = False
        # The begin of a frame, until enough of it was sent to know what it is.
        self._head = b""
        # Bytes of the current frame that are not sent yet.
        self._missing = 0

    @property
    def may_not_follow(self) -> bool:
        """Whether a heartbeat must not be sent now."""
        return not (self.known and self._opened) or bool(self._missing or self._head)

    def synchronize(self) -> None:
        """Begin between two frames, of which Open was one; Close was not sent."""
        self.known = self._opened = True
        self._head, self._missing = b"", 0

    def record(self, data: bytes, count: int) -> None:
        """Note that the first `count` bytes of `data` were sent."""
        position = 0
        while self.known and position < count:
            step = min(self._missing, count - position)
            self._missing -= step
            position += step
            if position < count:
                position = self._record_head(data, position, count)

    def _record_head(self, data: bytes, position: int, end: int) -> int:
        """Note the begin of a frame; return the position behind it."""
        position = self._extend_head(data, position, end, _HEADER)
        head = self._head
        if len(head) < _HEADER:
            return position
        if head.startswith(_PROTOCOL):
            self._head = b""
            return position
        size, body = int.from_bytes(head[:4], "big"), 4 * head[4]
        if not _HEADER <= body <= size:
            self.known = False  # this is not AMQP
            return position
        wanted = min(size, body + _DESCRIPTOR)
        position = self._extend_head(data, position, end, wanted)
        head = self._head
        if len(head) < wanted:
            return position
        self._missing, self._head = size - wanted, b""
        if head[5] == _AMQP_TYPE and size > body:
            self._note(head[body:])
        return position

    def _extend_head(self, data: bytes, position: int, end: int, wanted: int) -> int:
        until = min(end, position + max(0, wanted - len(self._head)))
        self._head += data[position:until]
        return until

    def _note(self, body: bytes) -> None:
        if not body.startswith(_PERFORMATIVE) or len(body) < _DESCRIPTOR:
            self.known = False  # in another encoding, which proton does not use
        elif body[-1] in (_OPEN, _CLOSE):
            self._opened = body[-1] == _OPEN
            self.closing = not self._opened
