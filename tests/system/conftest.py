"""A client in an interpreter of its own, and the broker's view of it."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.stress.child import CHECKOUT, EXIT_LIMIT, Child, clean_environment
from tests.waiting import wait_until
from wsgi_harness.observe import observer
from wsgi_harness.stack.broker import Broker
from wsgi_harness.wire.relay import Relay

_numbers = itertools.count(1)

MODELS = ("native", "eventlet", "gevent")


class CommandError(Exception):
    """The agent's command raised.

    Parameters:
        name: of the client.
        answer: of the agent.

    Attributes:
        kind: the exception's class, with its module.
        recoverable: existing code of that library reconnects on it.
    """

    def __init__(self, name: str, answer: dict[str, Any]) -> None:
        super().__init__(f"{name}: {answer['error']}: {answer['message']}\n{answer['traceback']}")
        self.kind: str = answer["error"]
        self.recoverable: bool = answer["recoverable"]


class RemoteClient:
    """The test's end of tests/system/agent.py: each method call is a command there.

    Parameters:
        script: another script of this directory that speaks the same protocol.

    Attributes:
        name: the connection's name at the broker.
    """

    def __init__(self, broker: Broker, model: str, library: str, script: str = "agent.py") -> None:
        self.broker = broker
        self.model, self.library = model, library
        self.name = f"{library}-{model}-{os.getpid()}-{next(_numbers)}"
        self._child = Child(
            ["-W", "error", CHECKOUT / "tests/system" / script, model, library],
            environment=clean_environment(EVENTLET_TESTS="1"),
        )

    def send(self, command: str, **arguments: Any) -> None:
        """Give a command and do not wait for its answer."""
        self._child.send({"do": command, **arguments})

    def answer(self, limit: float = 60.0) -> Any:
        """The answer to the oldest command that has none yet.

        Raises:
            CommandError: it raised.
        """
        line = self._child.read(limit)
        assert line, f"the agent ended with code {self._child.wait(EXIT_LIMIT)}"
        answer = json.loads(line)
        if "error" in answer:
            raise CommandError(self.name, answer)
        return answer["ok"]

    def do(self, command: str, *, limit: float = 60.0, **arguments: Any) -> Any:
        """Give a command and return its answer."""
        self.send(command, **arguments)
        return self.answer(limit)

    def open(self, relay: Relay | None = None, **opening: Any) -> int:
        """Connect to the broker, or to a relay before it; return the local port."""
        port: int = self.do(
            "open",
            **{
                "host": "127.0.0.1",
                "port": self.broker.amqp_port if relay is None else relay.port,
                "user": self.broker.user,
                "password": self.broker.password,
                "name": self.name,
                **opening,
            },
        )
        return port

    def fails(self, command: str, **arguments: Any) -> CommandError:
        """The error of a command that must raise one."""
        with pytest.raises(CommandError) as caught:
            self.do(command, **arguments)
        return caught.value

    def wait_for_messages(self, count: int) -> None:
        """Wait until the queue holds as many: RabbitMQ's answer may overtake a publish."""
        wait_until(lambda: self.do("count") == count, 30)

    @property
    def link(self) -> dict[str, Any]:
        """What the agent reports of its only link."""
        (link,) = self.do("report")["links"]
        found: dict[str, Any] = link
        return found

    def wait_until_lost(self, limit: float) -> None:
        """Wait until hbshim has given the link up."""
        wait_until(lambda: self.link["state"] == "lost", limit)

    @property
    def at_broker(self) -> str | None:
        """The broker's own name of this connection while it is open; a second old."""
        found = self.broker.management.connection(self.name)
        return None if found is None else found["name"]

    def wait_until_at_broker(self) -> str:
        """The broker's own name of this connection, as soon as its management knows it."""
        wait_until(lambda: self.at_broker is not None, 30)
        name = self.at_broker
        assert name is not None
        return name

    def end(self) -> None:
        """End the process."""
        self._child.end()


def after_silence(broker: Broker, seconds: float) -> tuple[set[str | None], Any]:
    """Let `seconds` pass; then the names of the connections that the broker lists, and its log."""
    began = time.monotonic()
    while (left := began + seconds - time.monotonic()) > 0:
        time.sleep(left)
    listed = {
        found.get("client_properties", {}).get("connection_name")
        for found in broker.management.connections()
    }
    return listed, observer.read_log(observer.without_colour(broker.log()))


@pytest.fixture
def start(broker: Broker) -> Iterator[Callable[..., RemoteClient]]:
    """Start clients; each is in a process of its own, which ends with the test."""
    started: list[RemoteClient] = []

    def start_one(model: str, library: str, script: str = "agent.py") -> RemoteClient:
        started.append(RemoteClient(broker, model, library, script))
        return started[-1]

    yield start_one
    for client in started:
        client.end()


@pytest.fixture
def everywhere(start: Callable[[str, str], RemoteClient]) -> list[RemoteClient]:
    """One client of each library in each concurrency model, so that they can wait side by side."""
    return [start(model, library) for model in MODELS for library in ("kombu", "pika")]


@pytest.fixture
def relay(broker: Broker) -> Iterator[Relay]:
    """A relay before the broker."""
    with Relay(broker.host, broker.amqp_port) as relay:
        yield relay
