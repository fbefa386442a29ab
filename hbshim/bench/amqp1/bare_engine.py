"""A contestant: hbshim's engine for AMQP 1.0 on a blocking socket, without a messaging driver."""

from __future__ import annotations

import socket
import time
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from hbshim.amqp1.connection import Connection
from hbshim.amqp1.events import Attached, Begun, CreditChanged, Opened, Received, Updated
from hbshim.amqp1.mechanisms import Anonymous
from hbshim.amqp1.messages import Data, Message, decode_message, encode_message
from hbshim.amqp1.performatives import Accepted, Header, Properties, Source, Target
from hbshim.amqp1.receiver import Receiver
from hbshim.amqp1.sasl import SaslClient
from hbshim.amqp1.sender import Sender
from hbshim.bench.rpc.bare import CONTENT_TYPE, SingleThreadClient, SingleThreadServer, notes
from hbshim.bench.rpc.parts import PREFETCH, TIMEOUT
from hbshim.errors import HbshimError

_MOST_BYTES = 1 << 18


class _Socket:
    """The engine and its socket."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self.engine = Connection(
            f"bench-{uuid.uuid4().hex}",
            hostname=parts.hostname,
            sasl=SaslClient([Anonymous()], parts.hostname),
        )
        self.handlers: dict[Receiver, Callable[[Any], None]] = {}
        self._socket = socket.create_connection((parts.hostname, parts.port or 5672), TIMEOUT)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._events: list[Any] = []
        self.await_event(Opened)
        self.session = self.engine.begin()
        self.await_event(Begun)

    def flush(self) -> None:
        data = self.engine.data_to_send(time.monotonic())
        if data:
            self._socket.sendall(data)

    def step(self, seconds: float) -> None:
        """Send, wait for what arrives, and call the handlers of received messages."""
        self.flush()
        self._socket.settimeout(seconds)
        try:
            data = self._socket.recv(_MOST_BYTES)
        except TimeoutError:
            return
        for event in self.engine.receive_data(data, time.monotonic()):
            if isinstance(event, Received):
                self.handlers[event.link](event.delivery)
            else:
                self._events.append(event)
        if not data:
            raise HbshimError("the router closed the connection")

    def await_event(self, kind: type, where: Callable[[Any], object] = lambda _: True) -> None:
        """Wait for an event; earlier ones are dropped."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            events, self._events = self._events, []
            for event in events:
                if isinstance(event, kind) and where(event):
                    return
            if time.monotonic() > deadline:
                raise HbshimError(f"the router did not answer in time: no {kind.__name__}")
            self.step(1.0)

    def sender(self, address: str | None) -> Sender:
        link = self.session.attach_sender(uuid.uuid4().hex, Target(address))
        self.await_event(CreditChanged, lambda event: event.link is link and link.credit)
        return link

    def receiver(self, address: str, handler: Callable[[Any], None]) -> None:
        link = self.session.attach_receiver(uuid.uuid4().hex, Source(address))
        link.grant(PREFETCH)
        self.await_event(Attached, lambda event: event.link is link)

        def handle(delivery: Any) -> None:
            handler(delivery)
            link.settle(delivery, Accepted())
            if link.credit <= PREFETCH // 2:
                link.grant(PREFETCH - link.credit)

        self.handlers[link] = handle

    def taken(self, link: Sender, data: bytes) -> None:
        """Send a message, and wait until it is accepted."""
        delivery = link.send(data)
        self.await_event(Updated, lambda event: event.delivery is delivery)
        if not isinstance(delivery.state, Accepted):
            raise HbshimError(f"a message was not accepted, but {delivery.state}")


def _message(body: bytes, **properties: Any) -> bytes:
    return encode_message(
        Message(
            Data((body,)), Header(), properties=Properties(**properties, content_type=CONTENT_TYPE)
        )
    )


def _body(message: Message) -> bytes:
    assert isinstance(message.body, Data)
    return message.body.content


class _ClientConnection:
    def __init__(self, url: str, topic: str) -> None:
        self.replies: list[tuple[str, bytes]] = []
        self._socket = _Socket(url)
        self._topic, self._reply_to = topic, f"{topic}-{uuid.uuid4().hex}"
        self._socket.receiver(self._reply_to, self._on_reply)
        # Each message names its address: where no server is yet, a link would have no credit.
        self._sender = self._socket.sender(None)

    def call(self, correlation: str, body: bytes) -> None:
        data = _message(body, message_id=correlation, to=self._topic, reply_to=self._reply_to)
        self._sender.send(data)

    def cast(self, body: bytes) -> None:
        self._socket.taken(self._sender, _message(body, to=self._topic))

    def notify(self, body: bytes) -> None:
        self._socket.taken(self._sender, _message(body, to=notes(self._topic)))

    def drain(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self.replies and time.monotonic() < deadline:
            self._socket.step(seconds)

    def _on_reply(self, delivery: Any) -> None:
        message = decode_message(delivery.payload)
        assert message.properties is not None
        self.replies.append((str(message.properties.correlation_id), _body(message)))


def client(_scheme: str, url: str, topic: str) -> SingleThreadClient:
    """A client."""
    return SingleThreadClient(_ClientConnection(url, topic))


class Server(SingleThreadServer):
    """A server."""

    def __init__(self, _scheme: str, url: str, topic: str) -> None:
        super().__init__()
        self._socket = _Socket(url)
        self._replies = self._socket.sender(None)
        self._socket.receiver(topic, self._on_request)
        self._socket.receiver(notes(topic), lambda _: self.counter.notification())
        self.start()

    def serve_once(self, seconds: float) -> None:
        self._socket.step(seconds)

    def _on_request(self, delivery: Any) -> None:
        message = decode_message(delivery.payload)
        answer, properties = self.answer(_body(message)), message.properties
        if properties is not None and properties.reply_to is not None:
            data = _message(answer, to=properties.reply_to, correlation_id=properties.message_id)
            self._replies.send(data)
