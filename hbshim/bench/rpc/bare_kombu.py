"""A contestant: bare kombu: its ``Producer`` and py-amqp's channel."""

from __future__ import annotations

import contextlib
from typing import Any

import kombu

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


def _connected(url: str, *, confirming: bool = False) -> Any:
    connection = kombu.Connection(url, transport_options={"confirm_publish": confirming})
    connection.connect()
    return connection


class _ClientConnection:
    def __init__(self, url: str, topic: str) -> None:
        self._topic = topic
        self.replies: list[tuple[str, bytes]] = []
        self._connection = _connected(url)
        self._producer = self._connection.Producer()
        self._producer.channel.basic_consume(DIRECT_REPLY, no_ack=True, callback=self._on_reply)
        # On a connection in confirm mode each publish waits: casts go over the other.
        self._confirming = _connected(url, confirming=True)
        self._confirmed = self._confirming.Producer()

    def _on_reply(self, message: Any) -> None:
        self.replies.append((message.properties["correlation_id"], message.body))

    def _publish(self, producer: Any, queue: str, body: bytes, **properties: Any) -> None:
        producer.publish(
            body,
            routing_key=queue,
            content_type=CONTENT_TYPE,
            content_encoding="utf-8",
            **properties,
        )

    def call(self, correlation: str, body: bytes) -> None:
        properties = {
            "correlation_id": correlation,
            "reply_to": DIRECT_REPLY,
            "delivery_mode": TRANSIENT,
        }
        self._publish(self._producer, self._topic, body, **properties)

    def cast(self, body: bytes) -> None:
        self._publish(self._producer, self._topic, body, delivery_mode=TRANSIENT)

    def notify(self, body: bytes) -> None:
        self._publish(
            self._confirmed, notes(self._topic), body, delivery_mode=TRANSIENT, mandatory=True
        )

    def drain(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            self._connection.drain_events(timeout=seconds)


def client(_scheme: str, url: str, topic: str) -> SingleThreadClient:
    """A client."""
    return SingleThreadClient(_ClientConnection(url, topic))


class Server(SingleThreadServer):
    """A server."""

    def __init__(self, _scheme: str, url: str, topic: str) -> None:
        super().__init__()
        self._connection = _connected(url)
        self._producer = self._connection.Producer()
        channel = self._channel = self._producer.channel
        channel.basic_qos(0, PREFETCH, False)
        for queue, on_message in ((topic, self._on_request), (notes(topic), self._on_note)):
            channel.queue_declare(
                queue, durable=True, auto_delete=False, arguments={"x-expires": EXPIRES}
            )
            channel.basic_consume(queue, callback=on_message)
        self.start()

    def serve_once(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            self._connection.drain_events(timeout=seconds)

    def _on_request(self, message: Any) -> None:
        self._channel.basic_ack(message.delivery_info["delivery_tag"])
        reply = self.answer(message.body)
        if to := message.properties.get("reply_to"):
            self._producer.publish(
                reply,
                routing_key=to,
                content_type=CONTENT_TYPE,
                content_encoding="utf-8",
                correlation_id=message.properties["correlation_id"],
                delivery_mode=TRANSIENT,
            )

    def _on_note(self, message: Any) -> None:
        self._channel.basic_ack(message.delivery_info["delivery_tag"])
        self.counter.notification()
