"""Receives messages over AMQP 1.0; see :mod:`hbshim.messaging.consuming`."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

from hbshim.errors import ConnectionLostError, MessagingError
from hbshim.messaging.amqp.patterns import Names
from hbshim.messaging.amqp.retries import Retries
from hbshim.messaging.amqp.topology import Subscription
from hbshim.messaging.amqp1.answers import Answers
from hbshim.messaging.amqp1.connection import Connection
from hbshim.messaging.amqp1.incoming import Amqp1Incoming
from hbshim.messaging.amqp1.links import IncomingLink
from hbshim.messaging.amqp1.management import Declares, declaring
from hbshim.messaging.amqp1.outcomes import Pattern
from hbshim.messaging.amqp1.profiles import Profile
from hbshim.messaging.amqp1.routed import RoutedIncoming
from hbshim.messaging.amqp1.sender import Sender
from hbshim.messaging.connecting import HostConnector
from hbshim.messaging.consuming import Consumer, ConsumingListener, Source
from hbshim.protocol.messages import Delivery, Message

#: Seconds for declaring a queue and consuming from it.
START_LIMIT = 10.0

#: Seconds that closing waits for clients to receive their replies, and between two checks.
ANSWERS_LIMIT, ANSWERS_SLICE = 1.0, 0.05


class Amqp1Listener(ConsumingListener[Amqp1Incoming, Connection]):
    """See :class:`hbshim.messaging.base.Listener`.

    Parameters:
        make_sources: returns the queues or addresses to listen to, as many for each kind of peer.
        profile: of the likely peer.
        prefetch: the most unsettled messages of each link; 0: any number.
        acknowledge_first, retry_delay: see
            :class:`hbshim.messaging.consuming.ConsumingListener`.
        retries: stores messages for later attempts, at a broker.
        reply_retry: the option.

    Raises:
        OptionError: there is no source.
    """

    def __init__(
        self,
        connector: HostConnector[Connection],
        sender: Sender,
        make_sources: Callable[[Names], Sequence[Source]],
        profile: Profile,
        prefetch: int,
        *,
        acknowledge_first: bool,
        retry_delay: float,
        retries: Retries,
        reply_retry: float,
    ) -> None:
        super().__init__(
            make_sources(profile.names),
            acknowledge_first=acknowledge_first,
            retry_delay=retry_delay,
        )
        self._connector = connector
        self._sender = sender
        self._make_sources = make_sources
        self._profile = profile
        self._prefetch = prefetch
        self._retries = retries
        self._answers = Answers(reply_retry, self._errors.append, lambda: self._stopped, self._wake)
        self._management: Declares | None = None
        # Links that are paused stay, so that their queues do not expire.
        self._paused_links: dict[Consumer, IncomingLink] = {}

    def _hold_left(self) -> float:
        return min(self._retries.held.left(), self._answers.left())

    def _retry_held(self) -> None:
        self._retries.held.retry()
        self._answers.retry(self._connection)

    def _drop(self) -> None:
        super()._drop()
        self._answers.lost()

    def _end(self, deadline: float) -> None:
        # A caller whose request is not settled would learn that this server is gone.
        last = max(deadline, self._stop_by)
        until = min(last, time.monotonic() + ANSWERS_LIMIT)
        connection = self._connection
        try:
            while connection is not None and self._answers and time.monotonic() < until:
                connection.drain(ANSWERS_SLICE)
                self._answers.retry(connection)
        except MessagingError:
            pass  # the connection is lost
        if not self._profile.routes:
            # Their requests are settled: no other server answers them.
            for answer in self._answers.give_away():
                self._send_elsewhere(answer.message, min(answer.deadline, last))
        super()._end(deadline)

    def _send_elsewhere(self, reply: Message, deadline: float) -> None:
        """Send a reply over the driver's connection; a client ignores one that it has received."""
        try:
            self._sender.send(lambda _: (reply, None), Pattern.REPLY, deadline, None)
        except MessagingError as error:
            self._errors.append(error)

    def _open_connection(self, deadline: float) -> Connection:
        return self._connector.connect(deadline, attempts=1)

    def _connected(self, connection: Connection, deadline: float | None) -> None:
        self._management = declaring(connection)
        self._paused_links.clear()
        if connection.profile is not self._profile:
            self._profile = connection.profile
            sources = self._make_sources(self._profile.names)
            for consumer, source in zip(self._consumers, sources, strict=True):
                consumer.source, consumer.subscription = source, None

    def _start(self, connection: Connection, consumer: Consumer, deadline: float | None) -> None:
        link = self._paused_links.pop(consumer, None)
        if link is not None and not link.ended:
            consumer.tag = link
            connection.resume(link)
            return
        subscription: Subscription = consumer.subscription
        if deadline is None:
            deadline = time.monotonic() + START_LIMIT
        assert self._management is not None, "it is connected"
        subscription.declare_as_there(self._management, deadline)
        consumer.tag = connection.receive_from(
            connection.profile.source(subscription.queue.name),
            self._prefetch,
            self._receiving(consumer, self._incoming(consumer, subscription.queue.name)),
            self._on_end(consumer),
            deadline,
        )

    def _incoming(self, consumer: Consumer, queue: str) -> Callable[[Delivery], Amqp1Incoming]:
        make = RoutedIncoming if self._profile.routes else Amqp1Incoming
        return functools.partial(
            make,
            sender=self._sender,
            names=self._profile.names,
            answers=self._answers,
            priority=consumer.source.priority,
            queue=queue,
            retries=self._retries,
            later=consumer.source.later,
        )

    def _on_end(self, consumer: Consumer) -> Callable[[str], None]:
        def on_end(reason: str) -> None:
            queue = consumer.subscription and consumer.subscription.queue.name
            self._cancelled(consumer)
            # What was delivered over the link was requeued.
            self._inbox.drop(lambda message: message.queue == queue)
            self._errors.append(
                ConnectionLostError(
                    f"the peer stopped delivering from {queue!r}: {reason}; the listener tries "
                    "again"
                )
            )

        return on_end

    def _stop(self, connection: Connection, tags: Sequence[Any], deadline: float) -> None:
        connection.pause(list(tags), deadline)
        # Deliveries that arrived before the broker's answer.
        connection.drain(0)

    def _stop_consuming(self) -> None:
        for consumer in self._consumers:
            if consumer.tag is not None:
                self._paused_links[consumer] = consumer.tag
        super()._stop_consuming()
