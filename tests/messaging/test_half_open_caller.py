"""A server replies at once into a connection of which only the broker thinks that it is open."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from hbshim.errors import CallTimeoutError
from hbshim.messaging.amqp.driver import AmqpDriver
from hbshim.messaging.dispatch import Request
from hbshim.messaging.hosts import Host
from hbshim.messaging.rpc import Client
from hbshim.messaging.server import Server
from hbshim.messaging.target import Target
from tests.messaging.conftest import LIMIT
from tests.messaging.half_open import HalfOpenRelay
from wsgi_harness.stack.broker import Broker

Drivers = Callable[..., AmqpDriver]
Serve = Callable[..., Server]

#: Seconds by which a call may be late on a busy machine; tests of deadlines are stricter.
ALLOWANCE = 5.0


class Cutting:
    """Breaks the caller's connection while its request runs, and replies within milliseconds."""

    def __init__(self, relay: HalfOpenRelay, broker_after: float | None) -> None:
        self._relay = relay
        self._broker_after = broker_after
        self.timers: list[threading.Timer] = []

    def cut(self, request: Request, value: int) -> int:
        self._relay.close_client_sides()
        if self._broker_after is not None:
            self.timers.append(threading.Timer(self._broker_after, self._relay.close_broker_sides))
            self.timers[-1].start()
        return value

    def echo(self, request: Request, value: int) -> int:
        return value


@pytest.fixture
def relay(broker: Broker) -> Iterator[HalfOpenRelay]:
    with HalfOpenRelay(broker.host, broker.amqp_port) as relay:
        yield relay


@pytest.fixture
def caller(relay: HalfOpenRelay, host: Host, drivers: Drivers, target: Target) -> Client:
    way = Host("127.0.0.1", relay.port, host.username, host.password)
    # The broker knows of it after 3 T.
    return Client(drivers(way, heartbeat_interval=20), target, timeout=LIMIT)


@pytest.mark.parametrize("broker_after", [0.0, 0.02, 0.1])
def test_the_reply_finds_its_caller_when_the_broker_knows(
    caller: Client, relay: HalfOpenRelay, drivers: Drivers, serve: Serve, broker_after: float
) -> None:
    endpoint = Cutting(relay, broker_after)
    serve(drivers(), caller.target, endpoint)
    for number in range(3):
        assert caller.call("cut", value=number) == number
        endpoint.timers[-1].join(LIMIT)
    assert caller.call("echo", value="next") == "next"


def test_the_call_ends_in_its_time_when_the_broker_does_not_know(
    caller: Client, relay: HalfOpenRelay, drivers: Drivers, serve: Serve
) -> None:
    """The reply is lost; the caller is told in time, and its next call is answered."""
    serve(drivers(), caller.target, Cutting(relay, None))
    began = time.monotonic()
    with pytest.raises(CallTimeoutError, match="sent, but not answered"):
        caller.prepare(timeout=2).call("cut", value=1)
    assert time.monotonic() - began < 2 + ALLOWANCE
    assert caller.call("echo", value="next") == "next"
