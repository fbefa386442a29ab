"""What becomes of messages that could not be handled: they wait, and in the end are put aside.

A message that is to be handled later waits in a queue of its own beside its first one, from
which the broker returns it after the pause (`x-message-ttl` with a dead-letter exchange).
While it waits it neither occupies a server's prefetch nor counts against the delivery limit of
a quorum queue, and any server of the queue gets it next. A message that was tried often enough
goes to a dead-letter queue, where it stays.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable

from hbshim.errors import TopologyError
from hbshim.messaging.amqp.connection import Queue
from hbshim.messaging.amqp.names import DEAD
from hbshim.messaging.amqp.options import AmqpOptions
from hbshim.messaging.amqp.sender import Sender, Sending
from hbshim.messaging.backoff import Backoff
from hbshim.protocol.messages import Message
from hbshim.protocol.reply_codes import PRECONDITION_FAILED

#: Header with the number of times that a message was tried already.
ATTEMPTS_HEADER = "x-hbshim-attempts"

#: Header of a new copy of a message whose deliveries the broker is to count anew.
RENEWED_HEADER = "x-hbshim-renewed"

#: Header that RabbitMQ adds in quorum queues: how often the message was requeued.
DELIVERY_COUNT_HEADER = "x-delivery-count"

#: Headers of the broker's that a new copy of a message must not have.
BROKER_HEADERS = (
    DELIVERY_COUNT_HEADER,
    "x-acquired-count",
    "x-death",
    "x-first-death-",
    "x-last-death-",
)

#: Seconds that no pause exceeds.
LONGEST_PAUSE = 60.0

#: Times that a pause is doubled at most: no float is large enough for what follows.
_DOUBLED_AT_MOST = 60

#: Seconds of the first pause after which storing a message is tried again.
SHORTEST_HOLD = 1.0

#: Seconds that storing a message for later may take.
STORE_LIMIT = 5.0

#: Seconds that a queue of waiting messages exists longer than any message in it.
_SPARE = 60.0

#: Bytes of a name in AMQP 0-9-1.
_NAME_LIMIT = 255


class Retries:
    """Stores messages for later, on connections of a sender.

    Parameters:
        options: how often and after which first pause a notification is tried again.

    Attributes:
        held: what could not be stored.
    """

    def __init__(self, sender: Sender, options: AmqpOptions) -> None:
        self._sender = sender
        self.attempts = options.notification_retry_attempts
        self.held = Held()
        self._delay = options.notification_retry_delay
        self._quorum = bool(options.quorum_queues)

    def retry(self, message: Message, queue: str, attempts: int) -> str:
        """Store `message` for a later attempt, or in the dead-letter queue.

        Parameters:
            queue: that it came from.
            attempts: how often it was tried.

        Returns:
            The name of the dead-letter queue, if it went there; else an empty string.

        Raises:
            MessagingError: it was not stored.
        """
        headers = dict(message.headers or {})
        headers[ATTEMPTS_HEADER] = attempts
        message.headers = headers
        if attempts >= self.attempts:
            dead = Queue(dead_letter_name(queue), quorum=self._quorum)
            # Whatever its type and arguments, a queue of this name keeps the message.
            self._store(message, dead, None)
            return dead.name
        waiting = self._waiting(queue, attempts, quorum=self._quorum)
        self._store(message, waiting, self._waiting(queue, attempts, quorum=not self._quorum))
        return ""

    def renew(self, message: Message, queue: str) -> None:
        """Put a new copy of `message` into `queue`; the broker counts its deliveries anew.

        Raises:
            MessagingError: it was not stored.
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
            other: the queue that may be there instead, of the same name; None: any one.
        """
        deadline = time.monotonic() + STORE_LIMIT

        def declare(sending: Sending) -> None:
            try:
                sending.connection.declare_queue(queue, deadline)
            except TopologyError as error:
                if error.code != PRECONDITION_FAILED:
                    raise
                if other is not None:
                    sending.connection.declare_queue(other, deadline)

        # Each time: only a declaration makes an unused queue exist for longer.
        self._sender.manage(declare, deadline)
        self._sender.send_confirmed(_to(message, queue.name), None, deadline, None)


class Held:
    """Deliveries that cannot be stored for now, and that the broker would drop if requeued again.

    They stay unacknowledged, and storing them is tried again after growing pauses.
    """

    def __init__(self) -> None:
        self._backoff = Backoff(SHORTEST_HOLD, LONGEST_PAUSE)
        self._entries: deque[Callable[[], bool]] = deque()

    def add(self, store: Callable[[], bool]) -> None:
        """Hold a delivery.

        Parameters:
            store: tries to store it, and returns whether it need not be held any more.
        """
        if not self._entries:
            self._backoff.reset()
            self._backoff.fail()
        self._entries.append(store)

    def left(self) -> float:
        """Return the seconds until :meth:`retry` is due; infinite if nothing is held."""
        return self._backoff.left() if self._entries else float("inf")

    def retry(self) -> None:
        """If it is due, try to store what is held, until that fails."""
        if self.left() > 0:
            return
        # First: another thread is not to do the same.
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
    room = _NAME_LIMIT - len(suffix.encode())
    if len(data) > room:
        digest = hashlib.sha256(data).hexdigest()[:16]
        kept = data[: room - len(digest) - 1].decode(errors="ignore")
        queue = f"{kept}-{digest}"
    return queue + suffix


def own_headers(headers: dict[str, object]) -> dict[str, object]:
    """Return the headers without those that the broker added."""
    # A name that is not UTF-8 is bytes.
    return {
        name: value
        for name, value in headers.items()
        if isinstance(name, str) and not name.startswith(BROKER_HEADERS)
    }


def pause_before_requeue(since: float) -> None:
    """Wait before a message that could not be stored for later is requeued at once.

    Parameters:
        since: of ``time.monotonic()``, when storing it began.
    """
    time.sleep(max(0.0, 1.0 - (time.monotonic() - since)))
