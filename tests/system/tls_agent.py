"""The agent for TLS: several connections at once, blocked consumers, watched SSL objects.

python tests/system/tls_agent.py native|eventlet|gevent amqp|kombu|pika
"""

from __future__ import annotations

from collections.abc import Callable

from typing import Any

# ruff: noqa: T201, I001 - the agent patches first; the answers are printed.

from tests.system.agent import LIBRARY, Agent, answer

import json
import os
import sys
import threading
import time
import zlib
from random import Random

import hbshim
from tests.forcing import NoLock
from tests.stress.clients import CLIENTS, AmqpClient
from tests.system.ssl_witness import Witness

SIZES = (0, 100, 4_000, 20_000, 70_000)
#: Messages under way, so that the broker writes while the client does.
WINDOW = 5
#: Seconds to wait for the broker's next message.
TIMEOUT = 60


class TlsAgent(Agent):
    """Each method without an underscore is a command."""

    def __init__(self) -> None:
        super().__init__()
        self.clients: list[Any] = []
        self.witness: Witness | None = None

    def open_all(
        self,
        openings: list[dict[str, Any]],
        shim: str = "install",
        options: dict[str, Any] | None = None,
        linger: float | None = None,
    ) -> list[dict[str, Any]]:
        """Open one connection for each of `openings`; return TLS versions and queues.

        With `linger`, in seconds, their SSL objects are watched; see ssl_witness.py.
        """
        if shim == "install":
            hbshim.install(**(options or {}))
        if linger is not None:
            self.witness = Witness(linger)
            self.witness.watch_new_sessions()
        for opening in openings:
            client = CLIENTS[LIBRARY](opening)
            client.connect()
            self.clients.append(client)
        self.client = self.clients[0]
        return [
            {
                "version": client.sock().version(),
                "cipher": client.sock().cipher()[0],
                "queue": client.queue,
            }
            for client in self.clients
        ]

    def consume_all(self, limit: float) -> list[dict[str, Any]]:
        """Each connection sits in its library's blocking call, in a thread of its own.

        Patched threads are green: then this wait lets the hub run.
        """

        def block(client: AmqpClient, result: dict[str, Any]) -> None:
            deadline = time.monotonic() + limit
            client.subscribe()
            while not client.consumed and time.monotonic() < deadline:
                client.drain(limit)
            result["consumed"] = client.consumed

        return self._side_by_side(block)

    def converse_all(self, seconds: float) -> list[dict[str, Any]]:
        """Each connection sends to its own queue and reads it, in a thread of its own.

        Every body carries its number and a checksum.
        """
        return self._side_by_side(lambda client, result: converse(client, seconds, result))

    def listen_all(self, seconds: float) -> list[dict[str, Any]]:
        """Each connection reads, and writes nothing, in a thread of its own."""

        def listen(client: AmqpClient, result: dict[str, Any]) -> None:
            client.subscribe(acks=False)
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                client.drain(TIMEOUT)
            result["consumed"] = client.consumed

        return self._side_by_side(listen)

    def _side_by_side(
        self, function: Callable[[AmqpClient, dict[str, Any]], object]
    ) -> list[dict[str, Any]]:
        results: list[dict[str, Any]] = [{"error": None} for _ in self.clients]

        def run(client: AmqpClient, result: dict[str, Any]) -> None:
            try:
                function(client, result)
            except Exception as error:
                result["error"] = f"{type(error).__name__}: {error}"

        threads = [
            threading.Thread(target=run, args=pair)
            for pair in zip(self.clients, results, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results

    def publish_all(self) -> list[dict[str, Any]]:
        """Publish one message on each connection and count it at the broker."""
        results: list[dict[str, Any]] = []
        for client in self.clients:
            try:
                client.publish(100)
                results.append({"arrived": self._count_within(client, 10), "error": None})
            except Exception as error:
                results.append({"arrived": 0, "error": f"{type(error).__name__}: {error}"})
        return results

    def _count_within(self, client: AmqpClient, limit: float) -> int:
        # RabbitMQ's answer may overtake a publish.
        deadline = time.monotonic() + limit
        while not (count := client.count()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return count

    def witnessed(self) -> dict[str, Any]:
        """What the SSL objects saw."""
        assert self.witness is not None
        return self.witness.report()

    def let_all_threads_in(self) -> None:
        """Take hbshim's lock around the SSL objects away, to see the witness notice it."""
        for link in self._links():
            link.wire._ssl.lock = NoLock()


def converse(client: AmqpClient, seconds: float, result: dict[str, Any]) -> None:
    """Send and receive at once until the time is up, then receive the rest."""
    expected, random = iter(range(2**62)), Random(client.queue)
    result.update(sent=0, received=0, byte_count=0)

    def on_body(body: bytes) -> None:
        assert zlib.crc32(body[4:]) == int.from_bytes(body[:4], "big"), "a body was changed"
        assert int.from_bytes(body[4:12], "big") == next(expected), "a body is missing"
        result["received"] += 1
        result["byte_count"] += len(body)

    client.subscribe(on_body)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for _ in range(random.randrange(1, 8)):
            # From within one record to several of them.
            inside = result["sent"].to_bytes(8, "big") + random.randbytes(random.choice(SIZES))
            client.send(zlib.crc32(inside).to_bytes(4, "big") + inside)
            result["sent"] += 1
        while result["received"] < result["sent"] - WINDOW:
            client.drain(TIMEOUT)
        # Silence enough for a heartbeat to find the SSL object free.
        time.sleep(0.02)
    while result["received"] < result["sent"]:
        client.drain(TIMEOUT)


def main() -> None:
    agent = TlsAgent()
    for line in sys.stdin:
        print(json.dumps(answer(agent, json.loads(line))), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
