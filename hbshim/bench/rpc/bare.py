"""What the contestants on bare libraries share: no messaging layer, and one thread for everything.

CALL is by RabbitMQ's direct reply-to. Several at a time are requests of one thread that are
under way at the same time: the least that a client can do, without callers that wait.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from typing import Any, Protocol

from hbshim.bench.rpc.parts import PAYLOAD, TIMEOUT, Counter
from hbshim.errors import HbshimError

DIRECT_REPLY = "amq.rabbitmq.reply-to"

#: Milliseconds after which an unused queue expires.
EXPIRES = 600_000

#: The default of hbshim's drivers; confirms arrive sooner than with persistent messages.
TRANSIENT = 1

CONTENT_TYPE = "application/json"


def encode(value: Any) -> bytes:
    """As JSON."""
    return json.dumps(value).encode()


def notes(topic: str) -> str:
    """The queue for notifications."""
    return f"{topic}-notes"


class ClientConnection(Protocol):
    """One connection of a client."""

    def call(self, correlation: str, body: bytes) -> None:
        """Publish a request."""
        ...

    def cast(self, body: bytes) -> None: ...
    def notify(self, body: bytes) -> None: ...
    def drain(self, seconds: float) -> None:
        """Wait for something to arrive, and put the replies into `replies`."""
        ...

    @property
    def replies(self) -> list[tuple[str, bytes]]: ...


class SingleThreadClient:
    """See :class:`hbshim.bench.rpc.parts.Client`."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    def calls(self, callers: int, seconds: float) -> list[float]:
        connection, clock = self._connection, time.perf_counter
        taken: list[float] = []
        sent: dict[str, float] = {}
        end = clock() + seconds
        for _ in range(callers):
            self._request(sent)
        last = clock()
        while sent:
            connection.drain(TIMEOUT)
            now = clock()
            if not connection.replies and now - last > TIMEOUT:
                raise HbshimError("a call over the bare library got no reply")
            for correlation, body in connection.replies:
                json.loads(body)
                last = now = clock()
                taken.append(now - sent.pop(correlation))
                if now < end:
                    self._request(sent)
            connection.replies.clear()
        return taken

    def _request(self, sent: dict[str, float]) -> None:
        correlation = uuid.uuid4().hex
        sent[correlation] = time.perf_counter()
        self._connection.call(correlation, encode({"method": "echo", "args": {"payload": PAYLOAD}}))

    def cast(self) -> None:
        self._connection.cast(encode({"method": "take", "args": {"payload": PAYLOAD}}))

    def notify(self) -> None:
        self._connection.notify(encode({"event_type": "bench", "payload": PAYLOAD}))


class SingleThreadServer:
    """See :class:`hbshim.bench.rpc.parts.Server`; its one thread runs :meth:`serve_once`."""

    def __init__(self) -> None:
        self.counter = Counter()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def counts(self) -> dict[str, float]:
        return self.counter.counts()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(TIMEOUT)

    def _run(self) -> None:
        while not self._stopped.is_set():
            self.serve_once(0.5)

    def serve_once(self, seconds: float) -> None:
        """Wait for something to arrive, and serve it."""
        raise NotImplementedError

    def answer(self, body: bytes) -> bytes:
        """What comes of a request."""
        request = json.loads(body)
        self.counter.request()
        return encode(request["args"]["payload"])
