"""py-amqp, kombu and pika behind one interface; imported after a green library has patched.

What a client is opened with is a mapping, because most of it comes as a line of JSON: `host`,
`port`, `user`, `password`, `heartbeat` (T to ask for, in seconds) and `name` (the connection's
name at the broker). Optional are:

- `queue`: to publish to; without it, the connection declares one of its own.
- `confirms`: wait for the broker's confirmation of each message.
- `persistent`: have messages survive a restart of the broker. kombu's do in any case.
- `open_limit`: seconds for each step of opening.
- `patient`: leave a broker that reads nothing to the kernel's own limit.
- `ca_file`, `tls_version`, `ciphers`: connect with TLS.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

import hbshim
from hbshim.heartbeat.link import Link
from hbshim.options import Options

#: Seconds that the broker may take to answer.
_TIMEOUT = 30

#: kombu's own default.
_OPEN_LIMIT = 5


class AmqpClient:
    """py-amqp by itself."""

    def __init__(self, opening: dict[str, Any]) -> None:
        self.opening = opening
        self.connection: Any = None
        self.channel: Any = None
        self.queue: str | None = opening.get("queue")
        self.consumed = 0

    def tls(self) -> Any:
        if "ca_file" not in self.opening:
            return False
        options = {
            "ca_certs": self.opening["ca_file"],
            "cert_reqs": ssl.CERT_REQUIRED,
            "server_hostname": "localhost",
        }
        if "tls_version" in self.opening:
            version = ssl.TLSVersion[self.opening["tls_version"]]
            options |= {"tls_minimum_version": version, "tls_maximum_version": version}
        if "ciphers" in self.opening:
            options["ciphers"] = self.opening["ciphers"]
        return options

    def connect(self) -> None:
        import amqp

        opening = self.opening
        self.connection = amqp.Connection(
            f"{opening['host']}:{opening['port']}",
            opening["user"],
            opening["password"],
            heartbeat=opening["heartbeat"],
            client_properties={"connection_name": opening["name"]},
            confirm_publish=self.confirms(),
            connect_timeout=opening.get("open_limit"),
            ssl=self.tls(),
            socket_settings=self.socket_settings(),
        )
        self.connection.connect()
        self.use(self.connection)

    def socket_settings(self) -> dict[int, int]:
        # py-amqp sets one second here, so its kernel gives up on a broker whose window
        # is closed, hbshim or not; this asks for the kernel's own timeout.
        return {socket.TCP_USER_TIMEOUT: 0} if self.opening.get("patient") else {}

    def confirms(self) -> bool:
        return bool(self.opening.get("confirms"))

    def properties(self) -> dict[str, Any]:
        return {"delivery_mode": 2} if self.opening.get("persistent") else {}

    def link(self) -> Link | None:
        """hbshim's link of the open connection."""
        from hbshim.adapters.pyamqp import heartbeat

        return heartbeat.attach(self.connection, Options.load())

    def use(self, connection: Any) -> None:
        self.channel = connection.channel()
        if self.queue is None:
            self.queue = self.channel.queue_declare("", exclusive=True).queue

    def declare(self, queue: str) -> None:
        """Use a queue that outlives the connection, for a minute."""
        self.queue = queue
        self.channel.queue_declare(
            queue, durable=True, auto_delete=False, arguments={"x-expires": 60_000}
        )

    def publish(self, size: int) -> None:
        self.send(os.urandom(size))

    def send(self, body: bytes) -> None:
        import amqp

        self.channel.basic_publish(amqp.Message(body, **self.properties()), routing_key=self.queue)

    def count(self) -> int:
        """Messages in the queue, by the broker's answer."""
        return int(self.channel.queue_declare(self.queue, passive=True).message_count)

    def consume(self, first_callback: float, total: int, hold: Any) -> None:
        """Consume `total` messages; the first one's callback takes its time."""

        def on_message(message: Any) -> None:
            if self.consumed == 0:
                hold(first_callback)
            self.consumed += 1
            self.channel.basic_ack(message.delivery_tag)

        self.channel.basic_consume(self.queue, callback=on_message)
        while self.consumed < total:
            self.drain(60.0)

    def subscribe(
        self, on_body: Callable[[bytes], None] = lambda _: None, acks: bool = True
    ) -> None:
        """Consume what comes, and count it; :meth:`drain` waits for it."""

        def on_message(message: Any) -> None:
            self.consumed += 1
            on_body(bytes(message.body))
            if acks:
                self.channel.basic_ack(message.delivery_tag)

        self.channel.basic_consume(self.queue, callback=on_message, no_ack=not acks)

    def drain(self, limit: float) -> None:
        self.connection.drain_events(timeout=limit)

    def listen(self, limit: float) -> None:
        """Wait for messages, of which none comes, for so long or until the connection ends."""
        # A timeout of the library's own is no end of the connection.
        with contextlib.suppress(TimeoutError):
            self.drain(limit)

    def tick(self) -> None:
        """What existing code calls from time to time."""
        self.connection.heartbeat_tick()

    def keep_alive(self, **options: Any) -> None:
        hbshim.keep_alive(self.connection, **options)

    def transport(self) -> Any:
        return self.connection.transport

    def sock(self) -> Any:
        return self.transport().sock

    def close(self) -> None:
        self.connection.close()

    def clean_up(self) -> None:
        """Let the library drop the connection, as pools and hooks do after a fork."""
        self.connection.collect()

    def abandon(self) -> None:
        """Drop a connection that has failed."""
        self.clean_up()

    def recoverable(self, error: BaseException) -> bool:
        """Whether existing code reconnects on this error."""
        return isinstance(error, self.connection.recoverable_connection_errors)


class KombuClient(AmqpClient):
    """kombu over py-amqp."""

    def connect(self) -> None:
        import kombu

        opening = self.opening
        self.kombu = kombu.Connection(
            hostname=opening["host"],
            port=opening["port"],
            userid=opening["user"],
            password=opening["password"],
            heartbeat=opening["heartbeat"],
            connect_timeout=opening.get("open_limit", _OPEN_LIMIT),
            ssl=self.tls(),
            transport_options={
                "client_properties": {"connection_name": opening["name"]},
                "confirm_publish": self.confirms(),
                "socket_settings": self.socket_settings(),
            },
        )
        self.kombu.connect()
        self.connection = self.kombu.connection
        self.use(self.kombu)

    def send(self, body: bytes) -> None:
        import kombu

        producer = kombu.Producer(self.channel, auto_declare=False)
        producer.publish(
            body,
            routing_key=self.queue,
            serializer=None,
            content_type="application/octet-stream",
            content_encoding="binary",
        )

    def tick(self) -> None:
        self.kombu.heartbeat_check()

    def keep_alive(self, **options: Any) -> None:
        hbshim.keep_alive(self.kombu, **options)

    def close(self) -> None:
        self.kombu.release()

    def clean_up(self) -> None:
        self.kombu.collect()

    def recoverable(self, error: BaseException) -> bool:
        return isinstance(error, self.kombu.recoverable_connection_errors)


class PikaClient(AmqpClient):
    """pika's BlockingConnection."""

    def parameters(self) -> Any:
        import pika

        opening, tls = self.opening, None
        if "ca_file" in opening:
            context = ssl.create_default_context(cafile=opening["ca_file"])
            if "tls_version" in opening:
                version = ssl.TLSVersion[opening["tls_version"]]
                context.minimum_version = context.maximum_version = version
            if "ciphers" in opening:
                context.set_ciphers(opening["ciphers"])
            tls = pika.SSLOptions(context, "localhost")
        limits = {}
        if "open_limit" in opening:
            limits["socket_timeout"] = opening["open_limit"]
            limits["stack_timeout"] = 2 * opening["open_limit"]
        return pika.ConnectionParameters(
            opening["host"],
            opening["port"],
            credentials=pika.PlainCredentials(opening["user"], opening["password"]),
            heartbeat=opening["heartbeat"],
            client_properties={"connection_name": opening["name"]},
            ssl_options=tls,
            **limits,
        )

    def connect(self) -> None:
        import pika

        self.connection = pika.BlockingConnection(self.parameters())
        self.channel = self.connection.channel()
        if self.confirms():
            self.channel.confirm_delivery()
        if self.queue is None:
            self.queue = self.channel.queue_declare("", exclusive=True).method.queue

    def link(self) -> Link | None:
        from hbshim.adapters.pika import heartbeat

        return heartbeat.attach(self.connection, Options.load())

    def send(self, body: bytes) -> None:
        import pika

        properties = pika.BasicProperties(**self.properties())
        self.channel.basic_publish("", self.queue, body, properties)

    def count(self) -> int:
        return int(self.channel.queue_declare(self.queue, passive=True).method.message_count)

    def consume(self, first_callback: float, total: int, hold: Any) -> None:
        def on_message(channel: Any, delivery: Any, _properties: Any, _body: bytes) -> None:
            if self.consumed == 0:
                hold(first_callback)
            self.consumed += 1
            channel.basic_ack(delivery.delivery_tag)

        self.channel.basic_consume(self.queue, on_message)
        deadline = time.monotonic() + 60.0
        while self.consumed < total and time.monotonic() < deadline:
            self.connection.process_data_events(time_limit=1)

    def subscribe(
        self, on_body: Callable[[bytes], None] = lambda _: None, acks: bool = True
    ) -> None:
        def on_message(channel: Any, delivery: Any, _properties: Any, body: bytes) -> None:
            self.consumed += 1
            on_body(body)
            if acks:
                channel.basic_ack(delivery.delivery_tag)

        self.channel.basic_consume(self.queue, on_message, auto_ack=not acks)

    def drain(self, limit: float) -> None:
        self.connection.process_data_events(time_limit=limit)

    def listen(self, limit: float) -> None:
        self.drain(limit)

    def tick(self) -> None:
        self.connection.process_data_events(time_limit=0)

    def keep_alive(self, **options: Any) -> None:
        hbshim.keep_alive(self.connection, **options)

    def transport(self) -> Any:
        return self.connection._impl._transport

    def sock(self) -> Any:
        return self.transport()._sock

    def close(self) -> None:
        self.connection.close()

    def clean_up(self) -> None:
        self.transport()._close_and_finalize()

    def abandon(self) -> None:
        import pika.exceptions

        if self.connection is not None and self.connection.is_open:
            with contextlib.suppress(pika.exceptions.AMQPError, OSError):
                self.close()

    def recoverable(self, error: BaseException) -> bool:
        import pika.exceptions

        return isinstance(error, pika.exceptions.AMQPConnectionError)


class PikaOnGevent(PikaClient):
    """pika's GeventConnection: callbacks, called in gevent's hub."""

    def connect(self) -> None:
        import gevent
        from gevent.event import AsyncResult
        from pika.adapters.gevent_connection import GeventConnection

        opened = AsyncResult()
        self.connection = GeventConnection(
            self.parameters(),
            on_open_callback=opened.set,
            on_open_error_callback=lambda _, error: opened.set_exception(error),
        )
        gevent.spawn(self.connection.ioloop.start)
        opened.get(timeout=_TIMEOUT)
        self.channel = self.called_back(lambda done: self.connection.channel(on_open_callback=done))
        self.queue = self.declared("", exclusive=True).queue

    def called_back(self, ask: Callable[[Any], Any]) -> Any:
        """What the library hands to the callback that `ask` gives it."""
        from gevent.event import AsyncResult

        answer = AsyncResult()
        ask(answer.set)
        return answer.get(timeout=_TIMEOUT)

    def declared(self, queue: str, **how: Any) -> Any:
        return self.called_back(
            lambda done: self.channel.queue_declare(queue, callback=done, **how)
        ).method

    def count(self) -> int:
        return int(self.declared(self.queue or "", passive=True).message_count)

    def transport(self) -> Any:
        return self.connection._transport


CLIENTS: dict[str, type[AmqpClient]] = {
    "amqp": AmqpClient,
    "kombu": KombuClient,
    "pika": PikaClient,
    "pika-gevent": PikaOnGevent,
}
