"""One publishing connection of each library, as an application holds it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any

from hbshim.heartbeat.link import Link
from hbshim.options import Options

#: Seconds for each step of opening. No heartbeat is negotiated before a connection is
#: open, so hbshim cannot help there: these are the libraries' own time limits.
OPEN_LIMIT = 3


@dataclass(frozen=True)
class Opening:
    """Where to connect, and how.

    Attributes:
        heartbeat: T to ask for, in seconds.
        name: the connection's name for the broker, and the queue it publishes to.
        confirms: wait for the broker's confirmation of each message.
    """

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    heartbeat: int
    name: str
    confirms: bool


class KombuClient:
    """kombu over py-amqp."""

    def __init__(self, opening: Opening) -> None:
        import kombu

        self._opening = opening
        self._connection: Any = kombu.Connection(
            hostname=opening.host,
            port=opening.port,
            userid=opening.user,
            password=opening.password,
            heartbeat=opening.heartbeat,
            connect_timeout=OPEN_LIMIT,
            transport_options={
                "client_properties": {"connection_name": opening.name},
                "confirm_publish": opening.confirms,
            },
        )
        self._producer: Any = None

    def open(self) -> None:
        """Connect and open a channel."""
        import kombu

        self._connection.connect()
        self._producer = kombu.Producer(self._connection.channel(), auto_declare=False)

    def link(self) -> Link | None:
        """hbshim's link of the open connection."""
        from hbshim.adapters.pyamqp import heartbeat as amqp

        return amqp.attach(self._connection.connection, Options.load())

    def publish(self, body: str) -> None:
        """Send one persistent message to the queue."""
        self._producer.publish(
            body, routing_key=self._opening.name, delivery_mode=2, content_type="text/plain"
        )

    def listen(self, seconds: float) -> None:
        """Wait for messages, of which none comes, for so long or until the connection ends."""
        # A timeout of the library's own is no end of the connection.
        with contextlib.suppress(TimeoutError):
            self._connection.drain_events(timeout=seconds)

    def recoverable(self, error: BaseException) -> bool:
        """Whether existing code reconnects on this error."""
        return isinstance(error, self._connection.recoverable_connection_errors)

    def close(self) -> None:
        """Say goodbye to the broker, and wait for its answer."""
        self._connection.close()

    def abandon(self) -> None:
        """Let go of a connection that has failed, without a word on the wire."""
        self._connection.collect()


class PikaClient:
    """pika's BlockingConnection."""

    def __init__(self, opening: Opening) -> None:
        import pika

        self._opening = opening
        self._parameters = pika.ConnectionParameters(
            opening.host,
            opening.port,
            credentials=pika.PlainCredentials(opening.user, opening.password),
            heartbeat=opening.heartbeat,
            socket_timeout=OPEN_LIMIT,
            stack_timeout=2 * OPEN_LIMIT,
            client_properties={"connection_name": opening.name},
        )
        self._connection: Any = None
        self._channel: Any = None

    def open(self) -> None:
        """Connect and open a channel."""
        import pika

        self._connection = pika.BlockingConnection(self._parameters)
        self._channel = self._connection.channel()
        if self._opening.confirms:
            self._channel.confirm_delivery()

    def link(self) -> Link | None:
        """hbshim's link of the open connection."""
        from hbshim.adapters.pika import heartbeat as pika

        return pika.attach(self._connection, Options.load())

    def publish(self, body: str) -> None:
        """Send one persistent message to the queue."""
        import pika

        self._channel.basic_publish(
            "", self._opening.name, body.encode(), pika.BasicProperties(delivery_mode=2)
        )

    def listen(self, seconds: float) -> None:
        """Wait for messages, of which none comes, for so long or until the connection ends."""
        self._connection.process_data_events(time_limit=seconds)

    def recoverable(self, error: BaseException) -> bool:
        """Whether existing code reconnects on this error."""
        import pika.exceptions

        return isinstance(error, pika.exceptions.AMQPConnectionError)

    def close(self) -> None:
        """Say goodbye to the broker, and wait for its answer."""
        self._connection.close()

    def abandon(self) -> None:
        """Let go of a connection that has failed."""
        import pika.exceptions

        if self._connection is not None and self._connection.is_open:
            with contextlib.suppress(pika.exceptions.AMQPError, OSError):
                self._connection.close()


Client = KombuClient | PikaClient
CLIENTS: dict[str, type[KombuClient] | type[PikaClient]] = {
    "kombu": KombuClient,
    "pika": PikaClient,
}
