"""A contestant: bare pyzmq, with ``hbshim zmq-proxy`` between client and server.

It speaks the proxy's wire format. Headers are made once, except for the id of each message.
"""

from __future__ import annotations

import uuid

import zmq

from hbshim.bench.rpc.bare import CONTENT_TYPE, notes
from hbshim.bench.rpc.parts import PREFETCH, TIMEOUT
from hbshim.bench.zmq.bare import (
    BareClient,
    BareServer,
    Context,
    Publisher,
    arrived,
    connected,
    places,
)
from hbshim.errors import HbshimError
from hbshim.messaging.zmq import frames
from hbshim.messaging.zmq.frames import Header, Kind
from hbshim.messaging.zmq.subscriptions import (
    end_of_subscription,
    fanout_subscription,
    pool_subscription,
)

#: Where the id of a message is in its header.
_ID = slice(8, 24)

#: Where the lengths of its names are, and the last of these, that of the client; and where the
#: names begin.
_LENGTHS, _CLIENT, _NAMES = slice(36, 41), 40, 45

_PRIORITY = "info"

#: The proxy hands over no request that has no time left.
_LEFT = int(TIMEOUT * 1000)


def _note_key(topic: str) -> bytes:
    return frames.notification_key("", notes(topic), _PRIORITY)


class _Headers:
    """Headers of one kind, which differ in their ids."""

    def __init__(self, kind: Kind, topic: str = "", left: int = 0) -> None:
        header = Header(kind, bytes(16), left=left, topic=topic, content_type=CONTENT_TYPE)
        made = frames.encode(header)
        self._before, self._behind = made[: _ID.start], made[_ID.stop :]

    def of(self, id_: bytes, body: bytes) -> bytes:
        """Return a message."""
        return b"".join((self._before, id_, self._behind, body))

    def new(self, body: bytes) -> bytes:
        return self.of(uuid.uuid4().bytes, body)

    def reply(self, request: bytes, client: bytes, body: bytes) -> bytes:
        """Return a message to the proxy for a client."""
        before, behind = self._behind[: _CLIENT - _ID.stop], self._behind[_CLIENT + 1 - _ID.stop :]
        length = bytes((len(client),))
        return b"".join((self._before, request[_ID], before, length, behind, client, body))


class _ClientConnection:
    def __init__(self, url: str, topic: str) -> None:
        place = places(url)
        context: Context = zmq.Context()
        self.replies: list[tuple[str, bytes]] = []
        self._calls, self._casts = _Headers(Kind.CALL, topic, _LEFT), _Headers(Kind.CAST, topic)
        self._fanouts = _Headers(Kind.FANOUT, topic)
        self._notifications = _Headers(Kind.NOTIFY, f"{notes(topic)}.{_PRIORITY}")
        self._id = uuid.uuid4().bytes
        self._call = connected(context, zmq.DEALER, place["call"])
        self._cast = connected(context, zmq.PUSH, place["cast"])
        key = frames.key_of("", topic)
        self._topic = Publisher(context, place["fanout"], fanout_subscription(key))
        self._notes = Publisher(context, place["notify"], _note_key(topic))

    def call(self, correlation: str, body: bytes) -> None:
        self._call.send(self._calls.of(bytes.fromhex(correlation), body))

    def cast(self, body: bytes) -> None:
        self._cast.send(self._casts.new(body))

    def fanout(self, body: bytes) -> None:
        self._topic.publish_whole(self._id, self._fanouts.new(body))

    def notify(self, body: bytes) -> None:
        self._notes.publish_whole(self._id, self._notifications.new(body))

    def drain(self, seconds: float) -> None:
        if self._call.poll(int(seconds * 1000)):
            for (frame,) in arrived(self._call):
                self.replies.append((frame[_ID].hex(), _split(frame)[1]))


def _split(frame: bytes, at: int = 0) -> tuple[bytes, bytes]:
    """Return the client and the body in a frame whose header begins at `at`."""
    *names, client = frame[at + _LENGTHS.start : at + _LENGTHS.stop]
    start = at + _NAMES + sum(names)
    return frame[start : start + client], frame[start + client :]


def _published(message: list[bytes]) -> list[bytes]:
    """Return the body of a publication."""
    (frame,) = message
    return [_split(frame, end_of_subscription(frame) + frames.INSTANCE_SIZE)[1]]


def client(_scheme: str, url: str, topic: str) -> BareClient:
    """A client."""
    return BareClient(_ClientConnection(url, topic))


class Server(BareServer):
    """A server: one more request for each that it received, as soon as it is handled."""

    def __init__(self, _scheme: str, url: str, topic: str) -> None:
        super().__init__()
        place, context = places(url), self.context
        self._instance = uuid.uuid4().bytes
        self._key = frames.key_of("", topic)
        self._results = _Headers(Kind.RESULT)
        name = b"s" + self._instance
        self._requests = connected(context, zmq.DEALER, place["server-servers"], name)
        self._register()
        self.read(self._requests, self._on_request)
        for pipeline, subscription, handler in (
            (
                "fanout",
                fanout_subscription(self._key),
                self._on_fanout,
            ),
            (
                "notify",
                pool_subscription(_note_key(topic), "", self._instance),
                self._on_notification,
            ),
        ):
            socket = connected(context, zmq.SUB, place[f"server-{pipeline}"])
            socket.set(zmq.SUBSCRIBE, subscription)
            self.read(socket, handler)
        self.start()

    def _register(self) -> None:
        """Answer the proxy's probe, and wait until it has registered the server."""
        while self._requests.poll(int(TIMEOUT * 1000)):
            message = self._requests.recv_multipart()
            if message != [b""]:
                return
            self._send_control(Kind.HELLO, frames.encode_hello(PREFETCH, [self._key]))
        raise HbshimError("the proxy did not register the server")

    def _send_control(self, kind: Kind, body: bytes) -> None:
        self._requests.send(frames.encode(Header(kind, self._instance)) + body)

    def serve_once(self, seconds: float) -> None:
        self._handled = 0
        super().serve_once(seconds)
        if self._handled:
            self._send_control(Kind.CREDIT, frames.encode_credit(self._handled))

    def _on_fanout(self, message: list[bytes]) -> None:
        self.on_cast(_published(message))

    def _on_notification(self, message: list[bytes]) -> None:
        self.on_note(_published(message))

    def _on_request(self, message: list[bytes]) -> None:
        client, body = _split(message[0])
        if not body:
            return  # a check of the proxy
        self._handled += 1
        if client:
            self._requests.send(self._results.reply(message[0], client, self.answer(body)))
        else:
            self.on_cast([body])
