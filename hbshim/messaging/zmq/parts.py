"""Messages that arrive in several parts. No I/O.

A connection may end between two parts. What has arrived is dropped then: with the next message of
the same id, after a time, or when too many bytes are kept. Of a kind that never has several parts
nothing is kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Set
from dataclasses import dataclass

from hbshim.messaging.zmq.frames import BODY_LIMIT, FrameError, Kind, Message

#: Seconds after which the next part of a message is not expected any more.
STALE_AFTER = 60.0


@dataclass(slots=True)
class _Begun:
    message: Message
    bodies: list[memoryview]
    size: int
    at: float


class Parts:
    """Of the messages that one socket receives.

    Parameters:
        on_drop: takes the source and the first part of a message that is dropped.
        kinds: of the messages that may come in several parts.
        limit: bytes that may be kept; the oldest message is dropped beyond that.
    """

    def __init__(
        self,
        on_drop: Callable[[bytes, Message], None],
        kinds: Set[Kind],
        limit: int = BODY_LIMIT,
    ) -> None:
        self._on_drop = on_drop
        self._kinds = kinds
        self._limit = limit
        # The one with the oldest part first.
        self._begun: dict[tuple[bytes, bytes], _Begun] = {}
        self.size = 0

    def whole(self, source: bytes, message: Message) -> Message | None:
        """Return the message that a part completes; None while more of it has to come.

        Parameters:
            source: where it comes from: the parts of a message have the same source.

        Raises:
            FrameError: the parts before it have not arrived, or its kind has one part.
        """
        if message.parts == 1 and not self._begun:
            return message
        if message.parts > 1 and message.header.kind not in self._kinds:
            raise FrameError(f"{message.header.kind.name} in {message.parts} parts")
        self.drop_stale()
        key = source, message.header.id
        begun = self._begun.pop(key, None)
        if begun is not None:
            self.size -= begun.size
        if message.parts == 1:
            return message
        if message.part == 0:
            begun = _Begun(message, [], 0, 0.0)
        elif (
            begun is None
            or len(begun.bodies) != message.part
            or begun.message.parts != message.parts
        ):
            raise FrameError(f"part {message.part} without those before it")
        begun.bodies.append(message.view)
        if message.part == message.parts - 1:
            return begun.message._replace(frame=b"".join(begun.bodies), start=0)
        begun.size += len(message.view)
        begun.at = time.monotonic()
        self.size += begun.size
        self._begun[key] = begun
        while self.size > self._limit:
            self._drop_oldest()
        return None

    def drop_stale(self) -> None:
        """Drop messages whose next part is late."""
        before = time.monotonic() - STALE_AFTER
        while self._begun and next(iter(self._begun.values())).at < before:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        key = next(iter(self._begun))
        begun = self._begun.pop(key)
        self.size -= begun.size
        self._on_drop(key[0], begun.message)
