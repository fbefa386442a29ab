"""A restart of the broker leaves a pool full of connections that it has closed."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pika
import pytest

from hbshim import messaging
from hbshim.errors import ConfirmTimeoutError, MessagingError
from hbshim.messaging.dispatch import Request
from tests.messaging.conftest import LIMIT, connections_of, unique
from tests.waiting import wait_until
from wsgi_harness.stack.broker import Broker
from wsgi_harness.wire.relay import Relay

SCHEMES = ("hbkombu", "hbpika")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_first_cast_after_all_connections_were_closed_is_sent(
    broker: Broker, scheme: str
) -> None:
    url = broker.amqp_url().replace("amqp://", f"{scheme}://")
    driver: Any = messaging.connect(url, connection_retry_attempts=1)
    pool = driver._sender.pool
    client = messaging.Client(driver, messaging.Target("unserved"))
    try:
        with contextlib.ExitStack() as checked_out:
            for _ in range(6):
                checked_out.enter_context(driver._sender._checkout(time.monotonic() + 30))
        assert pool.statistics().idle == 6
        shown = functools.partial(connections_of, os.getpid(), broker, scheme[2:])
        wait_until(lambda: len(shown()) == 6, 30)
        for each in shown():
            broker.management.close_connection(each["name"])
        client.cast("anything")
        assert pool.statistics().dead >= 1
    finally:
        with contextlib.suppress(MessagingError):
            driver.close()


class Endpoint:
    def __init__(self) -> None:
        self.done: list[Any] = []

    def note(self, request: Request, word: str) -> str:
        self.done.append(word)
        return word


@contextlib.contextmanager
def copied(broker: Broker, driver: Any, target: messaging.Target) -> Iterator[Callable[..., Any]]:
    """Count what is sent to the queue of `target`."""
    topology, name = driver._topology, unique("copies")
    with contextlib.closing(pika.BlockingConnection(pika.URLParameters(broker.amqp_url()))) as spy:
        channel = spy.channel()
        channel.queue_declare(name, exclusive=True)
        channel.queue_bind(name, topology.rpc_exchange(target), topology.rpc_key(target))
        yield lambda: channel.queue_declare(name, passive=True).method.message_count


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("way", ["call", "cast"])
def test_what_a_lost_connection_has_not_confirmed_is_not_sent_again(
    broker: Broker, scheme: str, way: str
) -> None:
    """A server may have it: sent again, it would run twice where there are two servers.

    A second queue gets a copy of whatever arrives, as a server drops what it has seen before.
    """
    url = broker.amqp_url().replace("amqp://", f"{scheme}://")
    target = messaging.Target(unique("topic"))
    endpoint = Endpoint()
    outcome: list[Any] = []
    serving = messaging.connect(url)
    server = messaging.Server(serving, target, [endpoint])
    assert server.start(LIMIT)
    with Relay(broker.host, broker.amqp_port) as relay, copied(broker, serving, target) as copies:
        driver: Any = messaging.connect(url.replace(f":{broker.amqp_port}", f":{relay.port}"))
        client = messaging.Client(driver, target, timeout=LIMIT)
        limits = driver._connector.limits

        def send(word: str) -> None:
            # No size is known to be accepted: what is sent is confirmed.
            limits._accepted = 0
            try:
                outcome.append(getattr(client, way)("note", word=word))
            except MessagingError as error:
                outcome.append(error)

        try:
            send("first")
            wait_until(lambda: endpoint.done == ["first"])
            relay.deaf(sides={"server"})
            sending = threading.Thread(target=send, args=("second",))
            sending.start()
            wait_until(lambda: endpoint.done == ["first", "second"])
            relay.reset()
            relay.resume()
            sending.join(LIMIT)
            send("third")
            wait_until(lambda: "third" in endpoint.done)
            assert endpoint.done == ["first", "second", "third"]
            assert copies() == 3
            if way == "call":
                assert outcome == ["first", "second", "third"]
            else:
                assert isinstance(outcome[1], ConfirmTimeoutError)
        finally:
            driver.close()
            server.stop(10)
            serving.close()
