"""Receives messages over a connection that only consumes.

A poll that finds the connection lost opens a new one. Pauses between attempts grow until messages
arrive again or the connection has lasted. Polling itself is in :mod:`hbshim.messaging.polling`.

Each queue has its own consumer. If the broker refuses a queue, the listener retries that queue,
and the consumers of the others are not affected.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from hbshim.errors import (
    ConnectError,
    ConnectionLostError,
    MessagingError,
    OptionError,
    PayloadError,
    TopologyError,
)
from hbshim.messaging.amqp.connection import Connection
from hbshim.messaging.amqp.connector import Connector
from hbshim.messaging.amqp.incoming import AmqpIncoming
from hbshim.messaging.amqp.retries import Retries
from hbshim.messaging.amqp.sender import Sender
from hbshim.messaging.amqp.topology import Subscription, Topology
from hbshim.messaging.backoff import Backoff
from hbshim.messaging.base import CLOSE_LIMIT
from hbshim.messaging.polling import SHORTEST_CLOSE, WAIT_AT_MOST, PollingListener
from hbshim.messaging.reporting import LOG
from hbshim.protocol.messages import Delivery
from hbshim.protocol.reply_codes import NOT_FOUND, RESOURCE_LOCKED

#: Seconds for one attempt to connect.
CONNECT_LIMIT = 10.0

#: The shortest bound of the first pause between two attempts to connect or to consume, and the
#: longest pause, in seconds.
SHORTEST_PAUSE, LONGEST_PAUSE = 0.05, 5.0

#: Seconds after which a connection counts as healthy, even if it has delivered nothing.
HEALTHY_AFTER = 10.0

#: Reply codes with which the broker refuses a queue that may be available later: its node is down,
#: or the connection that owns it has ended and the broker has not noticed yet.
PASSING = (NOT_FOUND, RESOURCE_LOCKED)

#: The broker's text when a queue exists with another lifetime.
_LIFETIME = re.compile(
    r"inequivalent arg 'x-expires' .* current is (none|(the value )?'(?P<milliseconds>\d+)')"
)


@dataclass(frozen=True, slots=True)
class Source:
    """A queue to listen to.

    Attributes:
        subscription: called for each connection; it may return a new name each time.
        kept: the queue exists longer than the listener, so requeued messages are not lost. A
            queue that is not kept is optional: a listener works without it.
        priority: of the notifications in it.
        later: a requeued message is stored for a later attempt, even if it has a time limit.
    """

    subscription: Callable[[], Subscription]
    kept: bool = True
    priority: str = ""
    later: bool = False


class _Consumer:
    """A source, and its consumer.

    Attributes:
        tag: of the consumer at the broker; None while there is none.
        subscription: the queue that it consumes from, or tries to.
        refused: the error with which the broker refused the last attempt.
    """

    def __init__(self, source: Source, backoff: Backoff) -> None:
        self.source = source
        self.backoff = backoff
        self.tag: str | None = None
        self.subscription: Subscription | None = None
        self.refused: MessagingError | None = None

    @property
    def hopeless(self) -> bool:
        """Whether it was refused for a reason that does not go away by itself."""
        error = self.refused
        return error is not None and not (
            isinstance(error, TopologyError) and error.code in PASSING
        )


class AmqpListener(PollingListener[AmqpIncoming, Connection]):
    """See :class:`hbshim.messaging.base.Listener`.

    Parameters:
        sources: the queues to listen to.
        prefetch: the most unacknowledged messages of each consumer.
        acknowledge_first: acknowledge each message when it is handed out, before it is processed:
            it is processed at most once. Otherwise it is acknowledged after its processing.
        retry_delay: bound of the first pause before another attempt to connect, in seconds.

    Attributes:
        reconnects: the number of connections opened after the first one.

    Raises:
        OptionError: there is no source.
    """

    def __init__(
        self,
        connector: Connector,
        sender: Sender,
        topology: Topology,
        sources: Sequence[Source],
        prefetch: int,
        *,
        acknowledge_first: bool,
        retry_delay: float,
        retries: Retries,
    ) -> None:
        if not sources:
            raise OptionError("there is no queue to listen to; name at least one topic")
        super().__init__(acknowledge_first=acknowledge_first)
        self._connector = connector
        self._sender = sender
        self._topology = topology
        self._prefetch = prefetch
        self._retries = retries
        self.reconnects = -1
        delay = max(retry_delay, SHORTEST_PAUSE)
        self._backoff = Backoff(delay, LONGEST_PAUSE)
        self._consumers = [_Consumer(each, Backoff(delay, LONGEST_PAUSE)) for each in sources]
        self._connected_at = 0.0
        self._channel_closed = False
        # Every queue has its consumer.
        self._complete = False

    def _hold_left(self) -> float:
        return self._retries.held.left()

    def _retry_held(self) -> None:
        self._retries.held.retry()

    def _check_refusals(self) -> None:
        for consumer in self._consumers:
            if consumer.hopeless and consumer.refused is not None:
                error, consumer.refused = consumer.refused, None
                consumer.backoff.reset()
                if error in self._errors:
                    self._errors.remove(error)
                # The owner may never use this listener again.
                self._drop()
                raise error

    def _serves(self) -> bool:
        """Whether every queue has its consumer; an optional queue was at least tried."""
        return self._connection is not None and all(
            each.tag is not None or (each.refused is not None and not each.source.kept)
            for each in self._consumers
        )

    # -- connecting and consuming --------------------------------------------

    def _receive(self, left: float, *, drain: bool = True) -> None:
        self._changed.clear()
        deadline = time.monotonic() + left
        try:
            connection = self._connection or self._connect(left)
            if connection is None:
                return
            if not (self._complete or self._paused or self._stopped):
                self._consume(connection)
            if drain and not (self._stopped or self._changed.is_set()):
                left = deadline - time.monotonic()
                if not self._complete:
                    left = min(left, self._next_attempt())
                connection.drain(max(0.0, left))
        except MessagingError as error:
            if isinstance(error, ConnectError):
                raise
            self._lose(error)

    def _connect(self, left: float) -> Connection | None:
        backoff = self._backoff
        pause = backoff.left()
        if pause > 0:
            # Stopping the listener ends the pause, too.
            self._changed.wait(min(pause, left))
            return None
        if self._stopped:
            return None
        try:
            limit = time.monotonic() + min(left, CONNECT_LIMIT)
            connection = self._connector.connect(limit, attempts=1)
        except ConnectError as error:
            if error.final:
                backoff.fail()
                raise
            # The first failures are reported, then none until it works again.
            if backoff.grows:
                self._errors.append(error)
            backoff.fail()
            return None
        except BaseException:
            backoff.fail()
            raise
        self._connected_at = time.monotonic()
        self.reconnects += 1
        if self.reconnects:
            LOG.info("listening again, over a new connection to %s", connection.name)
        self._connection = connection
        connection.set_prefetch(self._prefetch)
        return connection

    def _consume(self, connection: Connection) -> None:
        for consumer in self._consumers:
            if consumer.tag is None and not consumer.backoff.left():
                try:
                    self._start(connection, consumer)
                except (TopologyError, PayloadError) as error:
                    consumer.subscription = None
                    if consumer.backoff.grows:
                        self._errors.append(error)
                    consumer.refused = error
                    consumer.backoff.fail()
                else:
                    consumer.refused = None
        self._complete = all(each.tag is not None for each in self._consumers)

    def _start(self, connection: Connection, consumer: _Consumer) -> None:
        source = consumer.source
        if consumer.subscription is None:
            consumer.subscription = source.subscription()
        subscription = consumer.subscription
        self._declare(connection, subscription)
        consumer.tag = connection.consume(
            subscription.queue.name,
            self._on_delivery(consumer, subscription.queue.name),
            on_cancelled=self._on_cancelled(consumer),
        )
        self._consuming = True
        self._channel_closed = False

    def _declare(self, connection: Connection, subscription: Subscription) -> None:
        queue = subscription.queue
        try:
            subscription.declare(connection)
        except TopologyError as error:
            found = _LIFETIME.search(str(error))
            if found is None:
                raise
            # The queue exists with another lifetime, which it keeps.
            arguments = dict(queue.arguments)
            if found["milliseconds"]:
                arguments["x-expires"] = int(found["milliseconds"])
            there = replace(queue, expires=None, arguments=arguments)
            replace(subscription, queue=there).declare(connection)

    def _next_attempt(self) -> float:
        waits = [each.backoff.left() for each in self._consumers if each.tag is None]
        return min(waits) if waits and not self._paused else WAIT_AT_MOST

    def _on_delivery(self, consumer: _Consumer, queue: str) -> Callable[[Delivery], None]:
        sender, topology, retries, source = (
            self._sender,
            self._topology,
            self._retries,
            consumer.source,
        )
        put, kept, priority, later = self._inbox.put, source.kept, source.priority, source.later
        connecting, consuming = self._backoff, consumer.backoff

        def on_delivery(delivery: Delivery) -> None:
            incoming = AmqpIncoming(
                delivery, sender, topology, priority, queue=queue, retries=retries, later=later
            )
            put((incoming, kept))
            if connecting.failures or consuming.failures:
                connecting.reset()
                consuming.reset()

        return on_delivery

    def _on_cancelled(self, consumer: _Consumer) -> Callable[[str | None], None]:
        def on_cancelled(reason: str | None) -> None:
            consumer.tag = None
            consumer.subscription = None
            self._complete = False
            consumer.backoff.fail()
            if reason is not None:
                # With its channel closed, everything delivered over it was requeued.
                self._inbox.drop_redelivered()
                if not self._channel_closed:
                    # Once for all of its consumers.
                    self._channel_closed = True
                    self._errors.append(_channel_closed(reason))

        return on_cancelled

    # -- the end -------------------------------------------------------------

    def _stop_consuming(self) -> None:
        connection = self._connection
        tags = [each.tag for each in self._consumers if each.tag is not None]
        self._consuming = self._complete = False
        for consumer in self._consumers:
            consumer.tag = None
        try:
            if connection is not None and tags:
                deadline = min(time.monotonic() + CLOSE_LIMIT, self._stop_by)
                for tag in tags:
                    connection.cancel(tag, deadline)
                # Deliveries that arrived before the broker's answer.
                connection.drain(0)
        except MessagingError as error:
            self._lose(error)
        self._inbox.return_to_queue(stopped=self._stopped)

    def _lose(self, error: Exception) -> None:
        """Report a lost connection; the next poll opens a new one, after a pause."""
        if self._connection is not None and not self._stopped:
            if time.monotonic() - self._connected_at >= HEALTHY_AFTER:
                self._backoff.reset()
            if self._backoff.grows:
                self._errors.append(error)
            self._backoff.fail()
        self._drop()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        self._consuming = self._complete = False
        for consumer in self._consumers:
            consumer.tag = consumer.subscription = None
        self._inbox.lose()
        if connection is not None:
            connection.close(SHORTEST_CLOSE)


def _channel_closed(reason: str) -> ConnectionLostError:
    remedy = ""
    if "timed out" in reason or "timeout" in reason:
        remedy = (
            "; processing took longer than RabbitMQ's consumer_timeout: raise it, or acknowledge "
            "before processing. This process does not start again what it is processing"
        )
    return ConnectionLostError(f"the channel of the consumers was {reason}{remedy}")
