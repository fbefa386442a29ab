"""Services with oslo.messaging, each in an interpreter of its own: it always imports eventlet."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.stress.oslo.processes import Service, configuration
from wsgi_harness.stack.broker import Broker

T = 2
MODELS = ("green", "native")


class Pair:
    """A service that serves a topic and one that calls it."""

    def __init__(self, server: Service, client: Service, topic: str) -> None:
        self.server, self.client, self.topic = server, client, topic


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Start services; they end with the test."""
    started: list[Service] = []
    numbers = itertools.count()

    def start(model: str, *lines: str, heartbeat: int = T) -> Service:
        one = Service(model, tmp_path / f"{next(numbers)}.log")
        started.append(one)
        one.send("configure", lines=configuration(lines, heartbeat=heartbeat))
        return one

    yield start
    for one in started:
        one.end()


@pytest.fixture
def url(broker: Broker) -> Callable[..., str]:
    """The broker's URL in a scheme."""

    def make(scheme: str, port: int | None = None, **query: Any) -> str:
        found = broker.amqp_url(**query).replace("amqp://", f"{scheme}://", 1)
        return found if port is None else found.replace(f":{broker.amqp_port}/", f":{port}/", 1)

    return make


@pytest.fixture
def pair(
    service: Callable[..., Service], url: Callable[..., str], request: pytest.FixtureRequest
) -> Callable[..., Pair]:
    """Start a server and a client, of one concurrency model and scheme or of two."""
    numbers = itertools.count()

    def start(model: str, server: str, client: str, *lines: str, port: int | None = None) -> Pair:
        found = Pair(
            service(model, *lines),
            service(model, *lines),
            f"{request.node.name}-{next(numbers)}",
        )
        # Side by side: importing oslo.messaging takes a second.
        found.server.send("serve", url=url(server, port), topic=found.topic)
        found.client.send("open", url=url(client, port), topic=found.topic)
        for each in (found.server, found.client):
            each.answer()
            each.answer()
        return found

    return start
