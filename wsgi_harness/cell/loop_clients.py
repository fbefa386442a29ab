"""The client libraries as an ASGI application uses them; runs inside uvicorn.

Nothing here depends on hbshim: the cells with it run the same code.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote, urlsplit

#: Seconds for opening a connection: far more than it takes, less than a request's limit.
_OPEN_LIMIT = 15


class LoopClient(Protocol):
    """One connection of one library, used in an event loop."""

    async def open(self, ca_pem: str | None) -> None:
        """Connect and open a channel.

        Parameters:
            ca_pem: PEM of the authority to trust over TLS; None for a plain connection.
        """

    async def publish(self, queue: str, body: str) -> None:
        """Send one message to a queue, without waiting for a confirmation."""


class Destination(NamedTuple):
    """The broker as a cell reaches it, and what the cell asks of it.

    Attributes:
        heartbeat: T to ask for, in seconds.
        name: the connection's name for the broker.
    """

    host: str
    port: int
    user: str
    password: str
    heartbeat: int
    name: str


class AioPikaClient:
    """aio-pika."""

    def __init__(self, to: Destination) -> None:
        self._to = to
        self._exchange: Any = None

    async def open(self, ca_pem: str | None) -> None:
        import aio_pika

        to = self._to
        connection = await aio_pika.connect(
            host=to.host,
            port=to.port,
            login=to.user,
            password=to.password,
            heartbeat=to.heartbeat,
            ssl=ca_pem is not None,
            ssl_context=None if ca_pem is None else ssl.create_default_context(cadata=ca_pem),
            timeout=_OPEN_LIMIT,
            client_properties={"connection_name": to.name},
        )
        channel = await connection.channel(publisher_confirms=False)
        self._exchange = channel.default_exchange

    async def publish(self, queue: str, body: str) -> None:
        import aio_pika

        await self._exchange.publish(aio_pika.Message(body.encode()), queue)


class PikaLoopClient:
    """pika's connection for asyncio, or for Tornado."""

    def __init__(self, to: Destination, *, tornado: bool) -> None:
        self._to = to
        self._tornado = tornado
        self._channel: Any = None

    async def open(self, ca_pem: str | None) -> None:
        import pika
        from pika.adapters.asyncio_connection import AsyncioConnection

        to, kind = self._to, AsyncioConnection
        if self._tornado:
            from pika.adapters.tornado_connection import TornadoConnection

            kind = TornadoConnection
        parameters = pika.ConnectionParameters(
            host=to.host,
            port=to.port,
            credentials=pika.PlainCredentials(to.user, to.password),
            heartbeat=to.heartbeat,
            client_properties={"connection_name": to.name},
        )
        if ca_pem is not None:
            context = ssl.create_default_context(cadata=ca_pem)
            parameters.ssl_options = pika.SSLOptions(context, to.host)
        opened: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        kind(
            parameters,
            on_open_callback=lambda connection: connection.channel(
                on_open_callback=opened.set_result
            ),
            on_open_error_callback=lambda _connection, error: opened.set_exception(error),
        )
        self._channel = await asyncio.wait_for(opened, _OPEN_LIMIT)

    async def publish(self, queue: str, body: str) -> None:
        self._channel.basic_publish("", queue, body.encode())


class CeleryClient:
    """A Celery app that sends tasks from an async view, on a connection with heartbeats."""

    def __init__(self, to: Destination) -> None:
        import celery

        self._to = to
        self._app: Any = celery.Celery("cell")
        self._connection: Any = None

    async def open(self, ca_pem: str | None) -> None:
        to = self._to
        self._connection = self._app.connection_for_write(
            f"amqp://{to.host}:{to.port}//",
            userid=to.user,
            password=to.password,
            heartbeat=to.heartbeat,
            connect_timeout=_OPEN_LIMIT,
            ssl=False if ca_pem is None else {"cadata": ca_pem},
            transport_options={"client_properties": {"connection_name": to.name}},
        )
        self._connection.connect()

    async def publish(self, queue: str, body: str) -> None:
        import kombu

        # The queue exists, and is not declared: that would need its arguments.
        to = kombu.Queue(queue, kombu.Exchange(""), routing_key=queue)
        with self._app.amqp.Producer(self._connection, auto_declare=False) as producer:
            self._app.send_task(
                "cell.task", [body], producer=producer, queue=to, declare=[], retry=False
            )


def loop_client_of(cell: Mapping[str, Any], url: str) -> LoopClient:
    """Return the client that a cell's configuration names.

    Parameters:
        cell: see :func:`wsgi_harness.matrix.scenarios.orders`.
        url: the broker's account.
    """
    account = urlsplit(url)
    to = Destination(
        cell["host"],
        cell["port"],
        unquote(account.username or ""),
        unquote(account.password or ""),
        cell["heartbeat"],
        cell["name"],
    )
    if cell["library"] == "aio-pika":
        return AioPikaClient(to)
    if cell["library"] == "celery":
        return CeleryClient(to)
    return PikaLoopClient(to, tornado=cell["library"] == "pika-tornado")
