"""What bare contestants over ZeroMQ share, whichever proxy is between them.

Requests of one thread that are under way at the same time stand for several callers, as on bare
AMQP libraries.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Protocol

import zmq

from hbshim.bench.rpc.bare import ClientConnection, SingleThreadClient, SingleThreadServer, encode
from hbshim.bench.rpc.parts import PAYLOAD, TIMEOUT
from hbshim.bench.zmq.proxies import FANOUT_HWM
from hbshim.errors import HbshimError

Socket = zmq.Socket[bytes]
Context = zmq.Context[Socket]


def places(url: str) -> dict[str, str]:
    """Return the addresses of a proxy, from JSON."""
    found: dict[str, str] = json.loads(url)
    return found


def connected(context: Context, kind: int, address: str, routing_id: bytes = b"") -> Socket:
    """Return a socket that is connected, or about to be."""
    made = context.socket(kind)
    if routing_id:
        made.set(zmq.ROUTING_ID, routing_id)
    # As hbshim's: see hbshim/messaging/zmq/sockets.py.
    made.set(zmq.RCVHWM, 0)
    made.set(zmq.LINGER, 0)
    made.connect(address)
    return made


class Publisher:
    """Publishes to the first subscription that begins as it should, and waits for that.

    Parameters:
        prefix: of the subscription.
    """

    def __init__(self, context: Context, address: str, prefix: bytes) -> None:
        self._socket = context.socket(zmq.XPUB)
        self._socket.set(zmq.SNDHWM, FANOUT_HWM)
        self._socket.connect(address)
        self.subscription = self._await(b"\1" + prefix)[1:]

    def _await(self, beginning: bytes) -> bytes:
        while self._socket.poll(int(TIMEOUT * 1000)):
            message = self._socket.recv()
            if message.startswith(beginning):
                return message
        raise HbshimError("no subscription arrived")

    def publish(self, body: bytes) -> None:
        """Publish one message, whose first frame is the subscription."""
        self._socket.send_multipart((self.subscription, body))

    def publish_whole(self, *pieces: bytes) -> None:
        """Publish one message of one frame, which begins with the subscription."""
        self._socket.send(b"".join((self.subscription, *pieces)))


class BareConnection(ClientConnection, Protocol):
    """One connection of a client."""

    def fanout(self, body: bytes) -> None:
        """Send to all servers of a topic."""
        ...


class BareClient(SingleThreadClient):
    """See :class:`hbshim.bench.rpc.parts.Client`."""

    def __init__(self, connection: BareConnection) -> None:
        super().__init__(connection)
        self._fanout = connection.fanout

    def fanout(self) -> None:
        self._fanout(encode({"method": "take", "args": {"payload": PAYLOAD}}))


class BareServer(SingleThreadServer):
    """See :class:`hbshim.bench.rpc.parts.Server`. One thread reads all sockets."""

    def __init__(self) -> None:
        super().__init__()
        self.context: Context = zmq.Context()
        self._poller = zmq.Poller()
        self._handlers: dict[Socket, Callable[[list[bytes]], None]] = {}

    def read(self, socket: Socket, handler: Callable[[list[bytes]], None]) -> None:
        """Have `handler` called with each message of a socket."""
        self._handlers[socket] = handler
        self._poller.register(socket, zmq.POLLIN)

    def serve_once(self, seconds: float) -> None:
        for socket, _ in self._poller.poll(int(seconds * 1000)):
            handler = self._handlers[socket]
            for message in arrived(socket):
                handler(message)

    def on_note(self, message: list[bytes]) -> None:
        """Take a notification, whose body is the last frame."""
        json.loads(message[-1])
        self.counter.notification()

    def on_cast(self, message: list[bytes]) -> None:
        """Take a cast, whose body is the last frame."""
        json.loads(message[-1])
        self.counter.request()


def arrived(socket: Socket, most: int = 200) -> list[list[bytes]]:
    """Return what has arrived, up to a number."""
    found: list[list[bytes]] = []
    try:
        while len(found) < most:
            found.append(socket.recv_multipart(zmq.NOBLOCK))
    except zmq.Again:
        pass
    return found
