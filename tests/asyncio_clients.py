"""Event loops, and connections of aio-pika, for tests that block the loop."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import functools
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import aio_pika
import uvloop
from aio_pika.exceptions import CONNECTION_EXCEPTIONS

from wsgi_harness.stack.broker import Broker
from wsgi_harness.wire.relay import Relay

LOOPS: dict[str, Callable[[], Any]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
}

#: The negotiated heartbeat timeout, in seconds. RabbitMQ gives a silent client up after 2 T to 3 T.
T = 1

#: What aio-pika raises when a connection has ended.
RECOVERABLE = (*CONNECTION_EXCEPTIONS, aio_pika.exceptions.ChannelInvalidStateError)

#: Seconds after which a step counts as hanging.
LIMIT = 30.0


@functools.cache
def _authority_of(broker: Broker) -> str:
    """Return the broker's authority for a URL of aiormq; a command in its container reads it."""
    assert broker.ca_pem
    return base64.b64encode(ssl.PEM_cert_to_DER_cert(broker.ca_pem)).decode()


@dataclasses.dataclass(frozen=True)
class Way:
    """A way to connect: a kind of event loop, and a URL scheme.

    Attributes:
        loop: a key of `LOOPS`.
        scheme: amqp or amqps.
    """

    loop: str
    scheme: str
    broker: Broker

    @property
    def port(self) -> int:
        """The broker's port for the scheme."""
        port = self.broker.tls_port if self.scheme == "amqps" else self.broker.amqp_port
        assert port
        return port

    def url(self, relay: Relay | None = None, **query: Any) -> str:
        """Return the URL of the broker, or of a relay before it; T unless the query has another."""
        if self.scheme == "amqps":
            query["cadata"] = _authority_of(self.broker)
        port = self.port if relay is None else relay.port
        url = self.broker.amqp_url(**{"heartbeat": T, **query})
        url = url.replace(f":{self.broker.amqp_port}/", f":{port}/")
        return url.replace("amqp:", f"{self.scheme}:", 1)

    def relay(self, **buffers: int) -> Relay:
        """Make a relay before the broker."""
        return Relay(self.broker.host, self.port, **buffers)

    @contextlib.asynccontextmanager
    async def opened(
        self, connect: Callable[..., Any] = aio_pika.connect, **query: Any
    ) -> AsyncIterator[Any]:
        """Open a connection of aio-pika and close it in the end."""
        connection = await connect(self.url(**query))
        try:
            yield connection
        finally:
            await asyncio.wait_for(connection.close(), LIMIT)

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        """Run `main` in a new event loop, as ``asyncio.run()`` does."""
        loop = LOOPS[self.loop]()
        try:
            asyncio.set_event_loop(loop)
            loop.run_until_complete(main)
            _cancel_tasks_left(loop)
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            asyncio.set_event_loop(None)
            loop.close()


def _cancel_tasks_left(loop: asyncio.AbstractEventLoop) -> None:
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))


#: Loop and scheme of the ways to connect that a blocked event loop leaves alive.
KEPT_ALIVE = [("asyncio", "amqp"), ("asyncio", "amqps"), ("uvloop", "amqp")]


async def publish(connection: Any, body: bytes = b"alive") -> None:
    """Publish one message on a new channel, and wait for the broker's confirmation."""
    channel = await connection.channel()
    await publish_on(channel, body)
    await channel.close()


async def publish_on(channel: Any, body: bytes = b"alive") -> None:
    """Publish one message on an open channel, and wait for the broker's confirmation."""
    message = aio_pika.Message(body)
    await asyncio.wait_for(channel.default_exchange.publish(message, "without-a-reader"), LIMIT)


def block_by_sleeping(seconds: float) -> None:
    """Block the calling thread, and with it the event loop, in a system call."""
    time.sleep(seconds)


def block_by_computing(seconds: float) -> None:
    """Block the calling thread, and with it the event loop, in Python code."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        sum(range(1000))


async def until(condition: Callable[[], object]) -> None:
    """Return as soon as `condition` is true; the event loop runs meanwhile."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, f"not within {LIMIT} s: {condition}"
        await asyncio.sleep(0.005)
