"""A contestant: bare pika, over its ``BlockingConnection``."""

from __future__ import annotations

from typing import Any

import pika

from hbshim.bench.rpc.bare import (
    CONTENT_TYPE,
    DIRECT_REPLY,
    EXPIRES,
    TRANSIENT,
    SingleThreadClient,
    SingleThreadServer,
    notes,
)
from hbshim.bench.rpc.parts import PREFETCH


class _ClientConnection:
    def __init__(self, url: str, topic: str) -> None:
        self._topic = topic
        self.replies: list[tuple[str, bytes]] = []
        self._connection = pika.BlockingConnection(pika.URLParameters(url))
        self._channel = self._connection.channel()
        self._channel.basic_consume(DIRECT_REPLY, self._on_reply, auto_ack=True)
        # A channel in confirm mode makes each publish wait: casts go over the other.
        self._confirming = self._connection.channel()
        self._confirming.confirm_delivery()

    def _on_reply(self, _channel: Any, _method: Any, properties: Any, body: bytes) -> None:
        self.replies.append((properties.correlation_id, body))

    def call(self, correlation: str, body: bytes) -> None:
        properties = pika.BasicProperties(
            CONTENT_TYPE, correlation_id=correlation, reply_to=DIRECT_REPLY, delivery_mode=TRANSIENT
        )
        self._channel.basic_publish("", self._topic, body, properties)

    def cast(self, body: bytes) -> None:
        properties = pika.BasicProperties(CONTENT_TYPE, delivery_mode=TRANSIENT)
        self._channel.basic_publish("", self._topic, body, properties)

    def notify(self, body: bytes) -> None:
        properties = pika.BasicProperties(CONTENT_TYPE, delivery_mode=TRANSIENT)
        self._confirming.basic_publish("", notes(self._topic), body, properties, mandatory=True)

    def drain(self, seconds: float) -> None:
        self._connection.process_data_events(seconds)


def client(_scheme: str, url: str, topic: str) -> SingleThreadClient:
    """A client."""
    return SingleThreadClient(_ClientConnection(url, topic))


class Server(SingleThreadServer):
    """A server."""

    def __init__(self, _scheme: str, url: str, topic: str) -> None:
        super().__init__()
        self._connection = pika.BlockingConnection(pika.URLParameters(url))
        self._channel = self._connection.channel()
        self._channel.basic_qos(prefetch_count=PREFETCH)
        for queue, on_message in ((topic, self._on_request), (notes(topic), self._on_note)):
            self._channel.queue_declare(queue, durable=True, arguments={"x-expires": EXPIRES})
            self._channel.basic_consume(queue, on_message)
        self.start()

    def serve_once(self, seconds: float) -> None:
        self._connection.process_data_events(seconds)

    def _on_request(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        channel.basic_ack(method.delivery_tag)
        reply = self.answer(body)
        if properties.reply_to:
            answering = pika.BasicProperties(
                CONTENT_TYPE, correlation_id=properties.correlation_id, delivery_mode=TRANSIENT
            )
            channel.basic_publish("", properties.reply_to, reply, answering)

    def _on_note(self, channel: Any, method: Any, _properties: Any, _body: bytes) -> None:
        channel.basic_ack(method.delivery_tag)
        self.counter.notification()
