"""Sends messages over a router whose parts may not all be taken at once.

Belongs to the thread of the loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import zmq

from hbshim.messaging.zmq.loop import Loop, try_send

#: Seconds until a message is tried again that a socket had no space for.
RETRY_AFTER = 0.01


class RouterSender:
    """See the module. A message that was begun is continued before the next one to its peer."""

    def __init__(self, loop: Loop, socket: zmq.Socket[bytes]) -> None:
        self._loop = loop
        self._socket = socket
        self._begun: dict[bytes, deque[bytes]] = {}

    def __len__(self) -> int:
        """Return the number of messages that were begun."""
        return len(self._begun)

    def send(self, peer: bytes, frames: Sequence[bytes]) -> int:
        """Send a message, or begin to; return 0, or see :func:`loop.try_send`: nothing was sent.

        Parameters:
            peer: its routing id.
        """
        if peer in self._begun:
            error = self._continue(peer)
            if error:
                return error
        for number, frame in enumerate(frames):
            error = try_send(self._socket, (peer, frame))
            if error and not number:
                return error
            if error == zmq.EAGAIN:
                self._again_later(peer, deque(frames[number:]))
            if error:
                break  # if the peer is gone, that is noticed as for any message on its way
        return 0

    def send_behind(self, peer: bytes, frames: Sequence[bytes]) -> None:
        """Send a message, behind one that was begun; it is lost where the peer's queue is full."""
        if self.send(peer, frames) == zmq.EAGAIN and peer in self._begun:
            self._begun[peer].extend(frames)

    def forget(self, peer: bytes) -> None:
        """Drop the rest of a message: its beginning went over a connection that ended."""
        self._begun.pop(peer, None)

    def _continue(self, peer: bytes) -> int:
        rest = self._begun[peer]
        while rest:
            error = try_send(self._socket, (peer, rest[0]))
            if error == zmq.EAGAIN:
                return error
            if error:
                break
            rest.popleft()
        else:
            error = 0
        del self._begun[peer]
        return error

    def _again_later(self, peer: bytes, rest: deque[bytes]) -> None:
        self._begun[peer] = rest

        def again() -> None:
            begun = self._begun.get(peer) is rest and not self._socket.closed
            if begun and self._continue(peer) == zmq.EAGAIN:
                self._loop.later(RETRY_AFTER, again)

        self._loop.later(RETRY_AFTER, again)
