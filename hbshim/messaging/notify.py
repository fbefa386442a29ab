"""Notifications: messages that a queue stores until a consumer handles them."""

from __future__ import annotations

import datetime
import functools
import time
import uuid
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from hbshim.errors import DeliveryError, MessagingError, OptionError, PayloadError
from hbshim.messaging.base import PRIORITIES, Driver, Incoming, Payload, timeout_of
from hbshim.messaging.encoding import Encoding
from hbshim.messaging.handling import Handling, Invocation, handle
from hbshim.messaging.reporting import OnError, ends_thread, reporting_to
from hbshim.messaging.serving import Serving, Workers
from hbshim.messaging.target import Target

#: An endpoint returns this to have the notification redelivered later.
REQUEUE: Final = "requeue"

#: An endpoint returns this, or None, when it has handled the notification.
HANDLED: Final = "handled"


@dataclass(frozen=True, slots=True)
class Notification:
    """A report of an event.

    Attributes:
        message_id: the same when it is redelivered.
        timestamp: UTC, ISO 8601.
    """

    event_type: str
    payload: Any
    priority: str
    publisher_id: str
    message_id: str
    timestamp: str


class NotificationSender:
    """Encodes notifications, and sends each to all topics; see :class:`Notifier`."""

    def __init__(
        self,
        driver: Driver,
        topics: str | Sequence[str],
        publisher_id: str,
        exchange: str | None,
        encoding: Encoding | None,
    ) -> None:
        names = (topics,) if isinstance(topics, str) else tuple(topics)
        self._driver = driver
        self._targets = [Target(name, exchange=exchange) for name in names]
        self._publisher_id = publisher_id
        self._encoding = encoding or Encoding(limit=driver.payload_limit)

    def encoded(self, priority: str, event_type: str, payload: Any) -> Payload:
        """Return a notification as it is sent.

        Raises:
            PayloadError: the payload cannot be sent, or `priority` is none.
        """
        if priority not in PRIORITIES:
            raise PayloadError(
                f"{priority!r} is not a priority; use one of {', '.join(PRIORITIES)}"
            )
        value = {
            "event_type": event_type,
            "payload": payload,
            "publisher_id": self._publisher_id,
            "message_id": uuid.uuid4().hex,
            "timestamp": datetime.datetime.now(datetime.timezone.utc).isoformat(),
        }
        return Payload(self._encoding.encode(value), self._encoding.content_type)

    def send(self, body: Payload, priority: str, timeout: float) -> None:
        """Send an encoded notification within `timeout` seconds.

        Raises:
            MessagingError: it was not sent to all topics; the text names those that have it.
        """
        # One deadline for all topics.
        deadline = time.monotonic() + timeout_of(timeout)
        sent: list[str] = []
        for target in self._targets:
            left = max(0.0, deadline - time.monotonic())
            try:
                if sent and not left:
                    raise DeliveryError(f"no time was left for topic {target.topic!r}")
                self._driver.notify(target, body, priority, left)
            except MessagingError as error:
                if sent:
                    _say_what_was_sent(error, sent)
                raise
            sent.append(target.topic)


class Notifier:
    """Sends notifications; each method returns when the broker has stored the notification.

    Parameters:
        driver: see :func:`hbshim.messaging.connect`.
        topics: each notification goes to each of them.
        publisher_id: the sender, for example ``service.host``.
        timeout: seconds for one notification.
        exchange: None: the option `default_notification_exchange`.
    """

    def __init__(
        self,
        driver: Driver,
        topics: str | Sequence[str],
        publisher_id: str,
        *,
        timeout: float = 60.0,
        exchange: str | None = None,
        encoding: Encoding | None = None,
    ) -> None:
        self._sender = NotificationSender(driver, topics, publisher_id, exchange, encoding)
        self._timeout = timeout
        for priority in PRIORITIES:
            setattr(self, priority, functools.partial(self.notify, priority))

    debug: Callable[[str, Any], None]
    info: Callable[[str, Any], None]
    audit: Callable[[str, Any], None]
    warn: Callable[[str, Any], None]
    error: Callable[[str, Any], None]
    critical: Callable[[str, Any], None]
    sample: Callable[[str, Any], None]

    def notify(self, priority: str, event_type: str, payload: Any) -> None:
        """Send a notification.

        Parameters:
            priority: one of :data:`PRIORITIES`.
            event_type: the event, for example ``instance.created``.
            payload: any value that the encoding accepts.

        Raises:
            PayloadError: the payload cannot be sent.
            DeliveryError: the broker did not accept it.
            MessagingError: it was not delivered. With several topics, the message names those for
                which it is stored.
        """
        body = self._sender.encoded(priority, event_type, payload)
        self._sender.send(body, priority, self._timeout)


def _say_what_was_sent(error: MessagingError, sent: Sequence[str]) -> None:
    text = f"{error}; it is stored for topics {', '.join(map(repr, sent))}, and for no others"
    error.args = (text, *error.args[1:])


class NotificationServer(Serving):
    """Passes notifications to endpoints, and acknowledges those that they have handled.

    Parameters:
        driver: see :func:`hbshim.messaging.connect`.
        topics: the topics to listen to.
        endpoints: objects with methods named as priorities, each called with a
            :class:`Notification`, or, with `batch_size`, with a list of them. If a method returns
            :data:`REQUEUE`, or raises, the notification is handled again after a delay, each of
            a batch alone; after `notification_retry_attempts` it goes to a dead-letter queue.
        pool: servers of one pool share the notifications; each pool gets all of them.
        workers: how many notifications, or batches, are handled at the same time.
        batch_size: the most notifications in a batch; None: no batches.
        batch_timeout: seconds to wait for a batch to fill.
        prefetch: the most unacknowledged notifications; None: twice the number that is handled
            at the same time.
        on_error: called with errors of endpoints, of decoding, with a lost connection, and with
            a queue that the broker refuses. By default they are logged by
            ``logging.getLogger("hbshim.messaging")``.

    Raises:
        OptionError: no topic, no endpoint with a method named as a priority, or another
            parameter is not valid.
    """

    def __init__(
        self,
        driver: Driver,
        topics: Sequence[str],
        endpoints: Sequence[object],
        *,
        exchange: str | None = None,
        pool: str | None = None,
        workers: int = 1,
        batch_size: int | None = None,
        batch_timeout: float | None = None,
        prefetch: int | None = None,
        encoding: Encoding | None = None,
        on_error: OnError | None = None,
    ) -> None:
        self._handler = NotificationHandler(
            endpoints,
            encoding or Encoding(limit=driver.payload_limit),
            on_error,
            batched=batch_size is not None,
        )
        if prefetch is None:
            prefetch = 2 * workers * (batch_size or 1)
        targets = self._handler.targets(topics, exchange)
        listener = driver.listen_for_notifications(targets, pool, prefetch)
        super().__init__(
            listener,
            Workers(
                listener,
                self._handler.work,
                workers,
                self._handler.on_error,
                batch_size or 1,
                batch_timeout,
            ),
        )


class NotificationHandler:
    """Has endpoints handle notifications; see :class:`NotificationServer` for the parameters.

    Attributes:
        on_error: called with each error.

    Raises:
        OptionError: no endpoint has a method named as a priority.
    """

    def __init__(
        self,
        endpoints: Sequence[object],
        encoding: Encoding,
        on_error: OnError | None,
        *,
        batched: bool,
    ) -> None:
        self.on_error = reporting_to(on_error)
        self._endpoints = endpoints
        self._encoding = encoding
        self._batched = batched
        self._wanted = [
            priority
            for priority in PRIORITIES
            if any(callable(getattr(endpoint, priority, None)) for endpoint in endpoints)
        ]
        if not self._wanted:
            raise OptionError(
                "no endpoint has a method that is named as a priority; name one of its methods "
                f"{', '.join(PRIORITIES)}"
            )

    def targets(self, topics: Sequence[str], exchange: str | None) -> list[tuple[Target, str]]:
        """Return what to listen to.

        Raises:
            OptionError: there is no topic.
        """
        return targets_of(topics, self._wanted, exchange)

    def work(self, batch: Sequence[Incoming]) -> None:
        """Have a batch handled in this thread."""
        handle(self.handling(batch))

    def handling(self, batch: Sequence[Incoming]) -> Handling:
        """Have a batch handled."""
        try:
            yield from self._work_on(batch)
        except BaseException as error:
            if ends_thread(error):
                for incoming in batch:
                    incoming.return_to_queue()
            raise

    def _work_on(self, batch: Sequence[Incoming]) -> Handling:
        by_priority: dict[str, list[tuple[Incoming, Notification]]] = {}
        for incoming in batch:
            try:
                notification = notification_of(incoming, self._encoding)
            except MessagingError as error:
                # Decoding it again would fail again.
                incoming.reject(str(error))
                self.on_error(error)
            else:
                by_priority.setdefault(incoming.priority, []).append((incoming, notification))
        for priority, entries in by_priority.items():
            again = yield from self._handle(priority, [each for _, each in entries])
            for incoming, _ in entries:
                if again:
                    incoming.requeue()
                else:
                    incoming.acknowledge()

    def _handle(
        self, priority: str, notifications: list[Notification]
    ) -> Generator[Invocation, Any, bool]:
        """Call the endpoints; return whether the notifications are to be handled again."""
        again = False
        for endpoint in self._endpoints:
            method = getattr(endpoint, priority, None)
            if method is None:
                continue
            try:
                first = notifications if self._batched else notifications[0]
                outcome = yield Invocation(method, first, {})
                again = bool(outcome == REQUEUE) or again
            except BaseException as error:
                if ends_thread(error):
                    raise
                self.on_error(error)
                again = True
        return again


def targets_of(
    topics: Sequence[str], priorities: Sequence[str], exchange: str | None
) -> list[tuple[Target, str]]:
    """Return each topic with each priority.

    Raises:
        OptionError: there is no topic.
    """
    if isinstance(topics, str) or not topics:
        raise OptionError(f"topics must be a list with at least one topic, got {topics!r}")
    return [
        (Target(topic, exchange=exchange), priority) for topic in topics for priority in priorities
    ]


def notification_of(incoming: Incoming, encoding: Encoding) -> Notification:
    """Decode a notification.

    Raises:
        PayloadError: it is none.
    """
    payload = incoming.payload
    value = encoding.decode(payload.body, payload.content_type)
    try:
        return Notification(
            event_type=value["event_type"],
            payload=value["payload"],
            priority=incoming.priority,
            publisher_id=value["publisher_id"],
            message_id=value["message_id"],
            timestamp=value["timestamp"],
        )
    except Exception as error:
        # A serializer of the application may return any type.
        raise PayloadError(f"a notification lacks {error}; check its sender") from None
