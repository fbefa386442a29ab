"""A contestant: bare pyzmq, with ZeroMQ's own proxy between client and server."""

from __future__ import annotations

import zmq

from hbshim.bench.rpc.bare import notes
from hbshim.bench.zmq.bare import (
    BareClient,
    BareServer,
    Context,
    Publisher,
    arrived,
    connected,
    places,
)


class _ClientConnection:
    def __init__(self, url: str, topic: str) -> None:
        place = places(url)
        context: Context = zmq.Context()
        self.replies: list[tuple[str, bytes]] = []
        self._call = connected(context, zmq.DEALER, place["call"])
        self._cast = connected(context, zmq.PUSH, place["cast"])
        self._topic = Publisher(context, place["fanout"], topic.encode())
        self._notes = Publisher(context, place["notify"], notes(topic).encode())

    def call(self, correlation: str, body: bytes) -> None:
        self._call.send_multipart((correlation.encode(), body))

    def cast(self, body: bytes) -> None:
        self._cast.send(body)

    def fanout(self, body: bytes) -> None:
        self._topic.publish(body)

    def notify(self, body: bytes) -> None:
        self._notes.publish(body)

    def drain(self, seconds: float) -> None:
        if self._call.poll(int(seconds * 1000)):
            for correlation, body in arrived(self._call):
                self.replies.append((correlation.decode(), body))


def client(_scheme: str, url: str, topic: str) -> BareClient:
    """A client."""
    return BareClient(_ClientConnection(url, topic))


class Server(BareServer):
    """A server."""

    def __init__(self, _scheme: str, url: str, topic: str) -> None:
        super().__init__()
        place, context = places(url), self.context
        self._requests = connected(context, zmq.DEALER, place["server-call"])
        self.read(self._requests, self._on_request)
        self.read(connected(context, zmq.PULL, place["server-cast"]), self.on_cast)
        for pipeline, name, handler in (
            ("fanout", topic, self.on_cast),
            ("notify", notes(topic), self.on_note),
        ):
            socket = connected(context, zmq.SUB, place[f"server-{pipeline}"])
            socket.set(zmq.SUBSCRIBE, name.encode())
            self.read(socket, handler)
        self.start()

    def _on_request(self, message: list[bytes]) -> None:
        *envelope, body = message
        self._requests.send_multipart((*envelope, self.answer(body)))
