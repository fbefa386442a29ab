"""Delayed retries of messages that could not be handled, and dead-lettering after the last one.

A message to be retried waits in a retry queue beside its original queue. The broker returns it
after the delay (`x-message-ttl` with a dead-letter exchange). While it waits it occupies no
server's prefetch and does not count against the delivery limit of a quorum queue, and any server
of the queue may receive it next. After the last attempt a message goes to a dead-letter queue,
where it stays.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from hbshim.errors import TopologyError
from hbshim.messaging.amqp.connection import Queue
from hbshim.messaging.amqp.names import DEAD
from hbshim.messaging.amqp.queue_options import QueueOptions
from hbshim.messaging.amqp.topology import Declaring
from hbshim.messaging.backoff import Backoff
from hbshim.protocol.messages import Message
from hbshim.protocol.reply_codes import PRECONDITION_FAILED

#: Header with the number of attempts so far.
ATTEMPTS_HEADER = "x-hbshim-attempts"

#: Header of a fresh copy of a message, for which the broker starts its delivery count anew.
RENEWED_HEADER = "x-hbshim-renewed"

#: Header that RabbitMQ adds in quorum queues: how often the message was requeued.
DELIVERY_COUNT_HEADER = "x-delivery-count"

#: Headers of the broker that a copy of a message must not have.
BROKER_HEADERS = (
    DELIVERY_COUNT_HEADER,
    "x-acquired-count",
    "x-death",
    "x-first-death-",
    "x-last-death-",
)

#: The longest delay, in seconds.
LONGEST_PAUSE = 60.0

#: How often a delay is doubled at most; a float could not hold much more.
_DOUBLED_AT_MOST = 60

#: Seconds before the first repeated attempt to store a message.
SHORTEST_HOLD = 1.0

#: Seconds for storing a message for a later attempt.
STORE_LIMIT = 5.0

#: Seconds that a retry queue exists longer than any message in it.
_SPARE = 60.0

#: The longest name in AMQP 0-9-1, in bytes.
_NAME_LIMIT = 255


class RetrySender(Protocol):
    """Declares the queues for retries, and stores messages in them."""

    def declare(self, work: Callable[[Declaring], None], deadline: float) -> None:
        """Call `work` with a connection, and again with another one while that is lost."""
        ...

    def send_confirmed(
        self, message: Message, subscription: None, deadline: float, attempts: None, /
    ) -> None:
        """Publish, and return when the broker has confirmed that a queue stores the message."""
        ...


class Retries:
    """Stores messages for later attempts, over the connections of a sender.

    Parameters:
        sender: publishes the copies.
        options: the number of attempts and the first delay.

    Attributes:
        held: deliveries that could not be stored.
    """

    def __init__(self, sender: RetrySender, options: QueueOptions) -> None:
        self._sender = sender
        self.attempts = options.notification_retry_attempts
        self.held = Held()
        self._delay = options.notification_retry_delay
        self._quorum = bool(options.quorum_queues)

    def retry(self, message: Message, queue: str, attempts: int) -> str:
        """Store `message` for a later attempt, or in the dead-letter queue.

        Parameters:
            message: the message as it was delivered.
            queue: the queue that it came from.
            attempts: the number of attempts so far.

        Returns:
            The name of the dead-letter queue if it went there, else an empty string.

        Raises:
            MessagingError: it was not stored.
        """
        headers = dict(message.headers or {})
        headers[ATTEMPTS_HEADER] = attempts
        message.headers = headers
        if attempts >= self.attempts:
            dead = Queue(dead_letter_name(queue), quorum=self._quorum)
            # An existing queue of this name keeps the message, whatever its type and arguments.
            self._store(message, dead, None)
            return dead.name
        waiting = self._waiting(queue, attempts, quorum=self._quorum)
        self._store(message, waiting, self._waiting(queue, attempts, quorum=not self._quorum))
        return ""

    def renew(self, message: Message, queue: str) -> None:
        """Replace `message` in `queue` by a fresh copy; the broker starts its delivery count anew.

        Raises:
            MessagingError: the copy was not stored.
        """
        message.headers = {**(message.headers or {}), RENEWED_HEADER: True}
        deadline = time.monotonic() + STORE_LIMIT
        self._sender.send_confirmed(_to(message, queue), None, deadline, None)

    def _waiting(self, queue: str, attempts: int, *, quorum: bool) -> Queue:
        doubled = min(attempts - 1, _DOUBLED_AT_MOST)
        pause = min(self._delay * 2**doubled, max(LONGEST_PAUSE, self._delay))
        milliseconds = max(1, int(pause * 1000))
        arguments: dict[str, object] = {
            "x-message-ttl": milliseconds,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": queue,
        }
        if quorum:
            # The broker keeps a message until the queue that it returns to has stored it.
            arguments["x-dead-letter-strategy"] = "at-least-once"
            arguments["x-overflow"] = "reject-publish"
        return Queue(
            _suffixed(queue, f".retry.{milliseconds}"),
            expires=pause + _SPARE,
            quorum=quorum,
            arguments=arguments,
        )

    def _store(self, message: Message, queue: Queue, other: Queue | None) -> None:
        """Store `message` in `queue`.

        Parameters:
            message: the message.
            queue: the queue to declare.
            other: a queue that may exist instead under the same name; None: any queue.
        """
        deadline = time.monotonic() + STORE_LIMIT

        def declare(connection: Declaring) -> None:
            try:
                connection.declare_queue(queue, deadline)
            except TopologyError as error:
                if error.code != PRECONDITION_FAILED:
                    raise
                if other is not None:
                    connection.declare_queue(other, deadline)

        # Each time: an unused queue lives longer only if it is declared again.
        self._sender.declare(declare, deadline)
        self._sender.send_confirmed(_to(message, queue.name), None, deadline, None)


class Held:
    """Deliveries that cannot be stored now, and that the broker would drop if they were requeued.

    They stay unacknowledged. Storing them is tried again after growing delays.
    """

    def __init__(self) -> None:
        self._backoff = Backoff(SHORTEST_HOLD, LONGEST_PAUSE)
        self._entries: deque[Callable[[], bool]] = deque()

    def add(self, store: Callable[[], bool]) -> None:
        """Hold a delivery.

        Parameters:
            store: tries to store the delivery; returns whether it need not be held any longer.
        """
        if not self._entries:
            self._backoff.reset()
            self._backoff.fail()
        self._entries.append(store)

    def left(self) -> float:
        """Return the seconds until :meth:`retry` is due; infinite if nothing is held."""
        return self._backoff.left() if self._entries else float("inf")

    def retry(self) -> None:
        """If it is due, try to store the held deliveries, until the first failure."""
        if self.left() > 0:
            return
        # First, so that no other thread does the same.
        self._backoff.fail()
        for _ in range(len(self._entries)):
            try:
                store = self._entries.popleft()
            except IndexError:
                return
            if not store():
                self._entries.append(store)
                return
        self._backoff.reset()


def _to(message: Message, queue: str) -> Message:
    message.exchange, message.routing_key = "", queue
    return message


def dead_letter_name(queue: str) -> str:
    """Return the name of the dead-letter queue of `queue`."""
    return _suffixed(queue, DEAD)


def _suffixed(queue: str, suffix: str) -> str:
    data = queue.encode()
    limit = _NAME_LIMIT - len(suffix.encode())
    if len(data) > limit:
        digest = hashlib.sha256(data).hexdigest()[:16]
        kept = data[: limit - len(digest) - 1].decode(errors="ignore")
        queue = f"{kept}-{digest}"
    return queue + suffix


def own_headers(headers: dict[str, object]) -> dict[str, object]:
    """Return the headers without those that the broker added."""
    # A name that is not valid UTF-8 is returned as bytes.
    return {
        name: value
        for name, value in headers.items()
        if isinstance(name, str) and not name.startswith(BROKER_HEADERS)
    }


def pause_before_requeue(since: float) -> None:
    """Wait before a message that could not be stored is requeued at once.

    Parameters:
        since: when storing began, of ``time.monotonic()``.
    """
    time.sleep(max(0.0, 1.0 - (time.monotonic() - since)))
