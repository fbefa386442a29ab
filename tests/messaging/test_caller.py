"""Calls share one connection; who reads from it makes way for who must ask the broker."""

from __future__ import annotations

import threading

import pytest

from hbshim import messaging
from hbshim.messaging.dispatch import Request
from wsgi_harness.stack.broker import Broker

LIBRARIES = ("hbkombu", "hbpika")


class Endpoint:
    def __init__(self) -> None:
        self.begun = threading.Event()
        self.may_end = threading.Event()

    def wait(self, request: Request) -> bool:
        self.begun.set()
        return self.may_end.wait(30)

    def ping(self, request: Request) -> str:
        return "pong"


@pytest.mark.parametrize("scheme", LIBRARIES)
def test_a_first_call_to_another_exchange_does_not_wait_for_a_long_one(
    broker: Broker, scheme: str
) -> None:
    url = broker.amqp_url().replace("amqp://", f"{scheme}://")
    endpoint = Endpoint()
    driver, serving = messaging.connect(url), messaging.connect(url)
    servers = [
        messaging.Server(serving, messaging.Target("t", server="s", exchange=exchange), [endpoint])
        for exchange in (f"{scheme}-one", f"{scheme}-two")
    ]
    for server in servers:
        assert server.start()
    clients = [
        messaging.Client(driver, messaging.Target("t", exchange=f"{scheme}-{name}"), timeout=30)
        for name in ("one", "two")
    ]
    results = []
    long_one = threading.Thread(target=lambda: results.append(clients[0].call("wait")))
    try:
        long_one.start()
        assert endpoint.begun.wait(20)
        # Its exchange was never used: to declare it, the reader must be had to make way.
        assert clients[1].prepare(timeout=20).call("ping") == "pong"
        assert not results
        endpoint.may_end.set()
        long_one.join(20)
        assert results == [True]
    finally:
        endpoint.may_end.set()
        long_one.join(20)
        for server in servers:
            server.stop(10)
        driver.close()
        serving.close()
