"""What a proxy sends to its clients: greetings, replies, and rejections.

A reply to a client that has lost its connection for a moment is held. Everything here runs in the
thread of the loop.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import zmq

from hbshim.messaging.zmq import frames
from hbshim.messaging.zmq.frames import Header, Kind
from hbshim.messaging.zmq.loop import Loop
from hbshim.messaging.zmq.proxy.held import HeldReplies
from hbshim.messaging.zmq.router import RETRY_AFTER, RouterSender

if TYPE_CHECKING:
    from hbshim.metrics import Metrics

#: Seconds for which replies are held for a client that has lost its connection.
REPLY_GRACE = 30.0

#: Clients that are notified when the proxy stops, and whose requests are numbered: the latest.
CLIENTS_KEPT = 10_000

#: How the ids begin that a router gives to connections. Those that clients choose begin otherwise.
_GIVEN = b"\0"


class Clients:
    """See the module.

    Parameters:
        socket: the router that they are connected to.
        host: the name of the proxy's host.
        incarnation: of the proxy.
        held_bytes: of replies that are held, at most.

    Attributes:
        held: the replies that are held.
    """

    def __init__(
        self,
        loop: Loop,
        socket: zmq.Socket[bytes],
        host: str,
        incarnation: bytes,
        held_bytes: int,
        metrics: Metrics,
    ) -> None:
        self._loop = loop
        self._sender = RouterSender(loop, socket)
        self._host = host
        self._incarnation = incarnation
        self._metrics = metrics
        self._known: dict[bytes, None] = {}
        # Of the last request of each client; None: it was forgotten.
        self._numbers: dict[bytes, int | None] = {}
        self._forgotten = False
        self.held = HeldReplies(held_bytes)

    def __len__(self) -> int:
        return len(self._known)

    @property
    def begun(self) -> int:
        """The number of messages to them whose rest has to be sent."""
        return len(self._sender)

    def greet(self, client: bytes, *, stopping: bool) -> None:
        """Greet a client that has connected; it learns whether this proxy has restarted."""
        self._sender.forget(client)
        # Those that come and go without a call would otherwise stay for ever.
        self._known.pop(client, None)
        self._known[client] = None
        if len(self._known) > CLIENTS_KEPT:
            del self._known[next(iter(self._known))]
        self._numbers[client] = self._numbers.pop(client, None if self._forgotten else 0)
        if len(self._numbers) > CLIENTS_KEPT:
            del self._numbers[next(iter(self._numbers))]
            self._forgotten = True
        self._introduce(client, Kind.BYE if stopping else Kind.HELLO)
        self.send_held(client)

    def arrived(self, client: bytes, sequence: int) -> bool:
        """Note the number of a request that has arrived; return False if it must not be run.

        That is one of a connection which was replaced: its client may send it again, and an answer
        would not reach it.
        """
        if sequence and client.startswith(_GIVEN):
            self._metrics.count("zmq_requests_replaced")
            return False
        if client in self._numbers:
            self._numbers[client] = sequence
        return True

    def missed(self, client: bytes, sequence: int) -> bool:
        """Return whether a request has certainly not arrived, and will not."""
        last = self._numbers.get(client)
        return last is not None and sequence > last

    def say_bye(self) -> None:
        """Notify all of them that nothing new is taken."""
        for client in list(self._known):
            self._introduce(client, Kind.BYE)

    def _introduce(self, client: bytes, kind: Kind) -> None:
        header = Header(kind, self._incarnation, server=self._host)
        self._sender.send_behind(client, frames.pack(header))

    def reject(self, client: bytes, request: bytes, reason: bytes) -> None:
        """Report that a request was not handed to any server."""
        self._metrics.count("zmq_rejected")
        self._sender.send_behind(client, frames.pack(Header(Kind.REJECT, request), reason))

    def acknowledge(self, client: bytes, request: bytes) -> None:
        """Report that a request was taken, or that a server has acknowledged it."""
        self.reply(client, Kind.ACK, frames.pack(Header(Kind.ACK, request)))

    def lose(self, client: bytes, request: bytes) -> None:
        """Report that a request will not be answered, and may have been run."""
        self._metrics.count("zmq_lost")
        self.reply(client, Kind.LOST, frames.pack(Header(Kind.LOST, request)))

    def reply(self, client: bytes, kind: Kind, message: list[bytes]) -> None:
        """Send a reply, or hold it.

        Parameters:
            message: its frames.
        """
        if not self.held.holds(client) and self._send(client, message):
            return
        if kind is not Kind.ALIVE:
            self.held.put(client, message, time.monotonic() + REPLY_GRACE)

    def send_held(self, client: bytes) -> None:
        """Send what is held for a client, as far as it takes it."""
        self.held.send(client, lambda message: self._send(client, message))

    def _send(self, client: bytes, message: list[bytes]) -> bool:
        error = self._sender.send(client, message)
        if error == zmq.EHOSTUNREACH:
            self._known.pop(client, None)
        elif error:
            self._loop.later(RETRY_AFTER, lambda: self.send_held(client))
        return not error
