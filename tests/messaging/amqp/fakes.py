"""A broker in memory, for what is decided above the client library."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from hbshim.errors import ConnectionLostError
from hbshim.messaging.amqp.limits import Limits
from hbshim.messaging.amqp.sender import Sending
from hbshim.protocol.messages import Delivery, Message


class Clock:
    """Takes the place of the module ``time``: it advances when a test calls for it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += max(0.0, seconds)


class FakeConnection:
    """Of :class:`hbshim.messaging.amqp.connection.Connection` what a caller needs.

    Attributes:
        published: what was sent.
        drained: the seconds that each `drain` was given.
        on_drain: takes the place of the wait in `drain`.
    """

    name = "fake"
    blocked = False

    def __init__(self) -> None:
        self.is_open = True
        self.on_channel_closed: Callable[[int, str], None] = lambda _code, _text: None
        self.published: list[Message] = []
        self.dropped: list[str] = []
        self.declared: list[str] = []
        self.drained: list[float] = []
        self.on_drain: Callable[[float], None] | None = None
        self.consumers: dict[str, Callable[[Delivery], None]] = {}
        self._inbox: deque[tuple[str, Delivery]] = deque()
        self._news = threading.Condition()
        self._woken = False

    def __getattr__(self, name: str) -> Any:
        return lambda *_arguments, **_named: self.declared.append(name)

    def publish(self, message: Message, _timeout: float | None = None, _unless: Any = None) -> bool:
        self._check()
        self.published.append(message)
        return True

    def consume(self, queue: str, on_delivery: Callable[[Delivery], None], **_named: Any) -> str:
        self._check()
        self.consumers[queue] = on_delivery
        return queue

    def deliver(self, message: Message, body: bytes = b"null", kind: str = "result") -> None:
        """Have `message` answered over the direct way."""
        queue = str(message.reply_to)
        delivery = Delivery(
            self,
            1,
            body,
            queue,
            correlation_id=message.correlation_id,
            type=kind,
        )
        with self._news:
            self._inbox.append((queue, delivery))
            self._news.notify_all()

    def drain(self, timeout: float) -> None:
        self._check()
        self.drained.append(timeout)
        if self.on_drain is not None:
            self.on_drain(timeout)
        with self._news:
            if self.on_drain is None and not self._inbox and not self._woken:
                self._news.wait(timeout)
            self._woken = False
            arrived, self._inbox = self._inbox, deque()
        for queue, delivery in arrived:
            self.consumers[queue](delivery)
        self._check()

    def wake(self) -> None:
        with self._news:
            self._woken = True
            self._news.notify_all()

    def lose(self) -> None:
        self.is_open = False
        self.wake()

    def close(self, timeout: float = 1.0) -> None:
        self.lose()

    def _check(self) -> None:
        if not self.is_open:
            raise ConnectionLostError("fake: the connection is lost; open a new one")


class FakeConnector:
    """Opens fake connections.

    Attributes:
        opened: all of them.
        before: called before each with the deadline; an error that it raises is raised.
    """

    refused = "no host has answered yet"

    def __init__(self, before: Callable[[float], None] = lambda _deadline: None) -> None:
        self.limits = Limits()
        self.opened: list[FakeConnection] = []
        self.before = before

    def connect(self, deadline: float, attempts: int | None = None) -> FakeConnection:
        self.before(deadline)
        self.opened.append(FakeConnection())
        return self.opened[-1]


class FakeSender:
    """The pool of a caller.

    Attributes:
        connection: the only one.
        confirmed: what was to be sent with a confirm, or as if it needed one.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.connection = FakeConnection()
        self.confirmed: list[Message] = []

    def send(
        self, message: Message, _deadline: float, _attempts: Any, *, resend: bool, queue: Any
    ) -> None:
        assert not resend, "a request that two servers would execute"
        assert queue is not None
        self.confirmed.append(message)

    def with_connection(
        self, work: Callable[[Any], Any], _deadline: float, _attempts: Any = None
    ) -> Any:
        return work(Sending(self.connection, self.limits))
