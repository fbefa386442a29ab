"""A contestant: bare qpid-proton, with its blocking connection.

A request is not waited for but by its reply; a cast is, until it is accepted.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from proton import Message, Timeout
from proton.utils import BlockingConnection

from hbshim.bench.rpc.bare import CONTENT_TYPE, SingleThreadClient, SingleThreadServer, notes
from hbshim.bench.rpc.parts import PREFETCH, TIMEOUT


def _connected(url: str) -> Any:
    parts = urlsplit(url)
    return BlockingConnection(
        f"amqp://{parts.hostname}:{parts.port}", timeout=TIMEOUT, allowed_mechs="ANONYMOUS"
    )


class _ClientConnection:
    def __init__(self, url: str, topic: str) -> None:
        self.replies: list[tuple[str, bytes]] = []
        self._connection = _connected(url)
        self._receiver = self._connection.create_receiver(None, dynamic=True, credit=PREFETCH)
        self._reply_to = self._receiver.link.remote_source.address
        self._requests = self._connection.create_sender(topic)
        self._notes = self._connection.create_sender(notes(topic))

    def call(self, correlation: str, body: bytes) -> None:
        message = Message(
            body=body, id=correlation, reply_to=self._reply_to, content_type=CONTENT_TYPE
        )
        self._requests.link.send(message)

    def cast(self, body: bytes) -> None:
        self._requests.send(Message(body=body, content_type=CONTENT_TYPE))

    def notify(self, body: bytes) -> None:
        self._notes.send(Message(body=body, content_type=CONTENT_TYPE))

    def drain(self, seconds: float) -> None:
        timeout = seconds
        while True:
            try:
                message = self._receiver.receive(timeout=timeout)
            except Timeout:
                return
            self._receiver.accept()
            self._receiver.link.flow(1)
            self.replies.append((message.correlation_id, bytes(message.body)))
            if not self._receiver.fetcher.has_message:
                return


def client(_scheme: str, url: str, topic: str) -> SingleThreadClient:
    """A client."""
    return SingleThreadClient(_ClientConnection(url, topic))


class Server(SingleThreadServer):
    """A server: one more credit for each message that it has handled."""

    def __init__(self, _scheme: str, url: str, topic: str) -> None:
        super().__init__()
        self._connection = _connected(url)
        self._receivers = [
            (self._connection.create_receiver(topic, credit=PREFETCH), self._on_request),
            (self._connection.create_receiver(notes(topic), credit=PREFETCH), self._on_note),
        ]
        self._replies = self._connection.create_sender(None)
        self.start()

    def serve_once(self, seconds: float) -> None:
        receivers = [receiver for receiver, _ in self._receivers]
        try:
            self._connection.wait(
                lambda: any(each.fetcher.has_message for each in receivers), timeout=seconds
            )
        except Timeout:
            return
        for receiver, handler in self._receivers:
            while receiver.fetcher.has_message:
                handler(receiver.receive(timeout=0))
                receiver.accept()
                receiver.link.flow(1)

    def _on_request(self, message: Any) -> None:
        answer = self.answer(bytes(message.body))
        if message.reply_to:
            self._replies.link.send(
                Message(body=answer, address=message.reply_to, correlation_id=message.id)
            )

    def _on_note(self, _message: Any) -> None:
        self.counter.notification()
