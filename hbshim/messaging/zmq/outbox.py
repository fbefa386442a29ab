"""Sends over one socket what is ready, and keeps the rest until the socket takes it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import zmq

from hbshim.messaging.zmq.loop import Loop, try_send


class Outbox:
    """For a socket with one peer; belongs to the I/O thread.

    Attributes:
        size: bytes of what is kept, and counts; any thread may read it.
        on_empty: called when nothing is kept any more.
    """

    def __init__(self, loop: Loop, socket: zmq.Socket[bytes]) -> None:
        self._loop = loop
        self._socket = socket
        # Each with the bytes that it counts for.
        self._kept: deque[tuple[bytes, int]] = deque()
        self.size = 0
        self.on_empty: Callable[[], None] = lambda: None

    def send(self, frames: list[bytes], *, counts: bool = True) -> None:
        """Send the frames of a message behind those that are kept.

        Parameters:
            counts: it is lost work if it is not sent.
        """
        for frame in frames:
            if not self._kept:
                if not try_send(self._socket, [frame]):
                    continue
                self._loop.write(self._socket, self._flush)
            size = len(frame) if counts else 0
            self._kept.append((frame, size))
            self.size += size

    def _flush(self) -> None:
        while self._kept:
            if try_send(self._socket, [self._kept[0][0]]):
                return
            self.size -= self._kept.popleft()[1]
        self._loop.write(self._socket, None)
        self.on_empty()
