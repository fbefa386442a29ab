"""A broker without a network: what a listener sees of it, and what it asks for."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from hbshim.errors import ConnectionLostError
from hbshim.messaging.amqp.connection import OnCancelled, OnDelivery, Queue
from hbshim.messaging.amqp.retries import Held
from hbshim.protocol.messages import Delivery, Message


class FakeConnection:
    """Delivers what it is given; notes what is asked and settled.

    Attributes:
        on_declare: called with each queue that is declared; may raise.
        on_cancel: called with each tag before the consumer is cancelled.
        settled: "ack" or "nack", with the tag of the delivery.
    """

    def __init__(self, name: str = "fake:5672") -> None:
        self.name = name
        self.deadlines: list[float] = []
        # Of what opens a listener.
        self.opening: list[float | None] = []
        self.is_open, self.blocked = True, False
        self.declared: list[str] = []
        self.consumers: dict[str, tuple[OnDelivery, OnCancelled | None]] = {}
        self.cancelled: list[str] = []
        self.settled: list[tuple[str, int]] = []
        self.closed_after: float | None = None
        self.on_declare: Callable[[Queue], None] = lambda _queue: None
        self.on_cancel: Callable[[str], None] = lambda _tag: None
        self.stale: set[int] = set()
        self._lost: Exception | None = None
        self._arrived: deque[Callable[[], None]] = deque()
        self._news = threading.Event()
        self._tags = 0

    # -- what a test does ----------------------------------------------------

    def deliver(
        self, queue: str, identity: str, body: bytes = b"{}", **properties: Any
    ) -> Delivery:
        """Have a message arrive at the consumer of `queue`."""
        self._tags += 1
        delivery = Delivery(self, self._tags, body, queue, message_id=identity, **properties)
        on_delivery, _ = self.consumers[queue]
        self._arrived.append(lambda: on_delivery(delivery))
        self._news.set()
        return delivery

    def close_channel(self, reason: str) -> None:
        """Do what a broker does whose consumer_timeout is over."""
        consumers, self.consumers = self.consumers, {}
        self.stale.update(range(1, self._tags + 1))
        for _, on_cancelled in consumers.values():
            assert on_cancelled is not None
            self._arrived.append(lambda notify=on_cancelled: notify(reason))  # type: ignore[misc]
        self._news.set()

    def delete(self, queue: str) -> None:
        """Delete a queue under its consumer."""
        _, on_cancelled = self.consumers.pop(queue)
        assert on_cancelled is not None
        self._arrived.append(lambda: on_cancelled(None))
        self._news.set()

    def lose(self) -> None:
        """Have every further use fail."""
        self._lost = ConnectionLostError(f"{self.name}: lost")
        self.is_open = False
        self._news.set()

    # -- the protocol --------------------------------------------------------

    def _check(self) -> None:
        if self._lost is not None:
            raise self._lost

    def declare_exchange(self, _name: str, _kind: str, deadline: float | None = None) -> None:
        self._check()
        self.opening.append(deadline)

    def declare_queue(self, queue: Queue, deadline: float | None = None) -> None:
        self._check()
        self.opening.append(deadline)
        self.on_declare(queue)
        self.declared.append(queue.name)

    def bind(
        self, _queue: str, _exchange: str, _routing_key: str, deadline: float | None = None
    ) -> None:
        self._check()
        self.opening.append(deadline)

    def set_prefetch(self, _count: int, deadline: float | None = None) -> None:
        self._check()
        self.opening.append(deadline)

    def consume(
        self,
        queue: str,
        on_delivery: OnDelivery,
        *,
        on_cancelled: OnCancelled | None = None,
        deadline: float | None = None,
    ) -> str:
        self._check()
        self.opening.append(deadline)
        self.consumers[queue] = (on_delivery, on_cancelled)
        return queue

    def cancel(self, tag: str, deadline: float | None = None) -> None:
        self._check()
        assert deadline is not None
        self.deadlines.append(deadline)
        self.on_cancel(tag)
        self.consumers.pop(tag, None)
        self.cancelled.append(tag)

    def acknowledge(self, tag: int) -> bool:
        return self._settle("ack", tag)

    def requeue(self, tag: int) -> bool:
        return self._settle("nack", tag)

    def refuse(self, tag: int) -> bool:
        return self._settle("reject", tag)

    def _settle(self, how: str, tag: int) -> bool:
        self._check()
        if tag in self.stale:
            return False
        self.settled.append((how, tag))
        return True

    def drain(self, timeout: float) -> None:
        self._check()
        if not self._arrived:
            self._news.wait(timeout)
        self._news.clear()
        self._check()
        for _ in range(len(self._arrived)):
            self._arrived.popleft()()

    def wake(self) -> None:
        self._news.set()

    def close(self, timeout: float = 1.0) -> None:
        self.closed_after = timeout
        self.lose()


class FakeConnector:
    """Gives out connections, or raises what it is given instead."""

    def __init__(self) -> None:
        self.connections: list[FakeConnection] = []
        self.errors: list[Exception] = []
        self.prepare: Callable[[FakeConnection], None] = lambda _connection: None
        self.asked = 0

    def connect(self, _deadline: float, attempts: int | None = None) -> FakeConnection:
        assert attempts == 1
        self.asked += 1
        if self.errors:
            raise self.errors.pop(0)
        connection = FakeConnection()
        self.prepare(connection)
        self.connections.append(connection)
        return connection


class FakeRetries:
    """Notes what it is to store."""

    def __init__(self) -> None:
        self.stored: list[tuple[Message, str, int]] = []
        self.renewed: list[str] = []
        self.error: Exception | None = None
        self.held = Held()

    def retry(self, message: Message, queue: str, attempts: int) -> str:
        if self.error is not None:
            raise self.error
        self.stored.append((message, queue, attempts))
        return ""

    def renew(self, message: Message, _queue: str) -> None:
        if self.error is not None:
            raise self.error
        assert message.message_id is not None
        self.renewed.append(message.message_id)
