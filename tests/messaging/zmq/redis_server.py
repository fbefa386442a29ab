"""A Redis in a container, to be asked, killed and started again.

The tests ask it by connections of their own, not by those that they test.
"""

from __future__ import annotations

from typing import Any

import redis

from tests.waiting import wait_until
from wsgi_harness.engine.engine import Engine

PORT = 6379


class Container:
    """Runs commands in a container."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self._name = name
        published = engine.run("port", name, f"{PORT}/tcp").splitlines()[0]
        self.host, _, port = published.rpartition(":")
        self.port = int(port)

    def address(self) -> str:
        """The container's own address, which has all its ports."""
        template = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"
        return self._engine.run("inspect", "--format", template, self._name).split()[0]

    def run(self, *argv: str) -> str:
        """Run a command to its end."""
        return self._engine.run("exec", self._name, *argv)

    def start(self, *argv: str) -> None:
        """Start a command, and leave it running."""
        self._engine.run("exec", "--detach", self._name, *argv)


class RedisServer:
    """The server that has the container's published port."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self.host, self.port = container.host, container.port

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}"

    def start(self, *options: str) -> None:
        """Start it, empty, unless it runs."""
        if not self.answers():
            common = ("--protected-mode", "no", "--save", "", "--daemonize", "yes")
            self._container.run("redis-server", "--port", str(PORT), *common, *options)
            wait_until(self.answers)

    def kill(self) -> None:
        """Kill it; what it had is lost."""
        self._container.run("sh", "-c", "kill -9 $(pidof redis-server)")
        wait_until(lambda: not self.answers())

    def answers(self) -> bool:
        try:
            self.command("PING")
        except redis.AuthenticationError:
            return True
        except (redis.RedisError, OSError):
            return False
        return True

    def command(self, *words: Any, password: str | None = None) -> Any:
        """Run one command; return its answer as bytes."""
        connection = redis.Connection(
            host=self.host, port=self.port, password=password, socket_timeout=30
        )
        try:
            connection.send_command(*words)
            return connection.read_response()
        finally:
            connection.disconnect()
