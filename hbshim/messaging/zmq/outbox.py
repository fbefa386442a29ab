"""Sends over one socket what is ready, and keeps the rest until the socket takes it."""

from __future__ import annotations

from collections import deque

import zmq

from hbshim.messaging.zmq.loop import Loop, try_send


class Outbox:
    """For a socket with one peer; belongs to the I/O thread.

    Attributes:
        size: bytes of what is kept; any thread may read it.
    """

    def __init__(self, loop: Loop, socket: zmq.Socket[bytes]) -> None:
        self._loop = loop
        self._socket = socket
        self._kept: deque[list[bytes]] = deque()
        self.size = 0

    def send(self, message: list[bytes]) -> None:
        """Send a message behind those that are kept."""
        if not self._kept and not try_send(self._socket, message):
            return
        if not self._kept:
            self._loop.write(self._socket, self._flush)
        self._kept.append(message)
        self.size += sum(map(len, message))

    def _flush(self) -> None:
        while self._kept:
            if try_send(self._socket, self._kept[0]):
                return
            self.size -= sum(map(len, self._kept.popleft()))
        self._loop.write(self._socket, None)
