"""The interface of one AMQP 0-9-1 connection, as the messaging driver uses it.

:class:`hbshim.messaging.amqp.session.Session` implements it over kombu and pika. Nothing above it
knows which library is used.

One thread (or green thread) at a time calls :meth:`Connection.drain` and the synchronous methods;
other threads may call `publish`, `acknowledge`, `requeue`, `wake` and `close` at the same time. No
method logs, and none raises an error of the client library: all errors are of
:mod:`hbshim.errors`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from hbshim.messaging.joining import Part
from hbshim.protocol.messages import Delivery, Message

#: The property `type` of requests: the version of their format. That of a reply is its kind.
FORMAT = "hbshim/1"

#: Seconds that the broker may take to answer connection.close.
CLOSE_TIMEOUT = 1.0


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue to declare, of a type that RabbitMQ 4.3 accepts.

    Attributes:
        exclusive: used by its connection alone, and deleted with it.
        expires: seconds without a consumer after which the broker deletes it; None: never.
        quorum: a replicated quorum queue; otherwise a classic queue. Both are durable unless
            exclusive.
        arguments: further arguments, as RabbitMQ names them.
    """

    name: str
    exclusive: bool = False
    expires: float | None = None
    quorum: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def declaration(self) -> dict[str, Any]:
        """Return the optional arguments of queue.declare."""
        arguments = dict(self.arguments)
        if self.expires is not None:
            arguments["x-expires"] = max(1, int(self.expires * 1000))
        if self.quorum and not self.exclusive:
            arguments["x-queue-type"] = "quorum"
        return arguments


OnDelivery: TypeAlias = Callable[[Delivery], None]
OnCancelled: TypeAlias = Callable[[str | None], None]

OnChannelClosed: TypeAlias = Callable[[int, str], None]

#: Seconds that the broker may take to answer a synchronous method.
METHOD_TIMEOUT = 10.0


def answer_by(deadline: float | None) -> float:
    """Return the deadline of a synchronous method, at most :data:`METHOD_TIMEOUT` from now."""
    limit = time.monotonic() + METHOD_TIMEOUT
    return limit if deadline is None else min(limit, deadline)


def ignore_channel_closed(_code: int, _text: str) -> None:
    """The default of :attr:`Connection.on_channel_closed`."""


class Connection(Protocol):
    """One AMQP connection, kept alive by hbshim's heartbeats from its opening.

    Every method raises :class:`hbshim.errors.ConnectionLostError` once the connection is lost.

    Attributes:
        name: host and port, for messages; without credentials.
        is_open: as far as this side knows; the broker is not asked.
        blocked: the broker accepts no messages for now (connection.blocked).
        on_channel_closed: called with code and text when the broker closes the channel over a
            message published without a confirm; the message was not delivered. Any thread that
            uses the connection may call it; it must not wait for the connection.
        dropped: has the correlation id of the last message published without a confirm, once the
            broker has closed the channel over it or one before it: no queue has got it.

    Synchronous methods take a `deadline` of ``time.monotonic()``; None means
    :data:`METHOD_TIMEOUT` from now, which is also the maximum. The connection is lost when the
    broker has not answered by then, so a connection that several callers share gets no caller's
    own deadline. If it was blocked, :class:`hbshim.errors.BrokerBlockedError` is raised, because
    RabbitMQ reads nothing from a blocked connection.
    """

    on_channel_closed: OnChannelClosed
    dropped: list[str]

    @property
    def name(self) -> str: ...
    @property
    def is_open(self) -> bool: ...
    @property
    def blocked(self) -> bool: ...

    def publish(
        self,
        message: Message,
        timeout: float | None = None,
        unless: Callable[[], bool] | None = None,
    ) -> bool:
        """Write `message` and return, without a publisher confirm.

        An error means that the broker has not received the whole message, and ignores it.

        Parameters:
            message: the message.
            timeout: seconds to wait while the broker reads nothing.
            unless: called when what has arrived was handled, such as the broker's answer to the
                last message; if it returns True, nothing is written.

        Returns:
            Whether it is written.

        Raises:
            BrokerBlockedError: the broker accepts no messages, or did not within `timeout`.
        """
        ...

    def publish_confirmed(self, message: Message, timeout: float) -> None:
        """Publish with `mandatory`, and return when the broker has confirmed the message.

        Parameters:
            message: the message.
            timeout: seconds for everything.

        Raises:
            RejectedError: basic.nack.
            UnroutableError: no queue accepts it (basic.return).
            BrokerBlockedError: as for :meth:`publish`.
            UnconfirmedError: the connection ended before the confirm; it may be stored.
            ConfirmTimeoutError: no confirm within `timeout`; it may be stored.
        """
        ...

    def declare_exchange(self, name: str, kind: str, deadline: float | None = None) -> None:
        """Declare a durable exchange.

        Raises:
            TopologyError: it exists with another type.
        """
        ...

    def exchange_exists(self, name: str, deadline: float | None = None) -> bool:
        """Return whether an exchange exists (exchange.declare, passive)."""
        ...

    def declare_queue(self, queue: Queue, deadline: float | None = None) -> None:
        """Declare `queue`.

        Raises:
            TopologyError: it exists with other properties, or is exclusive to another connection.
        """
        ...

    def queue_exists(self, name: str, deadline: float | None = None) -> bool:
        """Return whether a queue exists (queue.declare, passive)."""
        ...

    def bind(
        self, queue: str, exchange: str, routing_key: str, deadline: float | None = None
    ) -> None:
        """Bind a queue to an exchange.

        Raises:
            TopologyError: one of the two does not exist.
        """
        ...

    def delete_queue(
        self,
        name: str,
        *,
        if_unused: bool = False,
        if_empty: bool = False,
        deadline: float | None = None,
    ) -> int:
        """Delete a queue; no error if it does not exist.

        Returns:
            The number of messages that were in it.

        Raises:
            TopologyError: it is in use, or not empty.
        """
        ...

    def set_prefetch(self, count: int, deadline: float | None = None) -> None:
        """Set the prefetch of each consumer that is started from now on; 0: unlimited."""
        ...

    def consume(
        self,
        queue: str,
        on_delivery: OnDelivery,
        *,
        acknowledged: bool = True,
        priority: int = 0,
        on_cancelled: OnCancelled | None = None,
        deadline: float | None = None,
    ) -> str:
        """Start a consumer; :meth:`drain` calls `on_delivery` with what arrives.

        Parameters:
            queue: the name of the queue.
            on_delivery: called with each delivery.
            acknowledged: each delivery is to be acknowledged; otherwise the broker takes it as
                acknowledged when it is sent.
            priority: the consumer priority (`x-priority`).
            on_cancelled: called from :meth:`drain` when the broker ends the consumer: with None if
                it ends this consumer alone, for example because the queue was deleted (consumer
                cancel notification); with the broker's reason if it closes the channel. Then all
                earlier deliveries are requeued.
            deadline: see the class.

        Returns:
            The consumer tag, for :meth:`cancel`.

        Raises:
            TopologyError: the queue does not exist, or is exclusive to another connection.
        """
        ...

    def cancel(self, consumer_tag: str, deadline: float | None = None) -> None:
        """Stop a consumer; its deliveries still have to be acknowledged."""
        ...

    def start_consumer(
        self,
        queue: str,
        on_delivery: OnDelivery,
        *,
        on_cancelled: OnCancelled,
    ) -> str:
        """Start a consumer from any thread, without waiting for the broker's answer.

        If the queue does not exist, the broker closes the channel: check that it exists first, over
        another connection.
        """
        ...

    def stop_consumer(
        self,
        consumer_tag: str,
        on_stopped: Callable[[], None] | None = None,
    ) -> None:
        """Stop a consumer from any thread, without waiting for the broker's answer.

        Parameters:
            consumer_tag: of the consumer.
            on_stopped: called from :meth:`drain` after the last delivery.
        """
        ...

    def acknowledge(self, tag: int) -> bool:
        """Send basic.ack for a delivery, without waiting.

        Returns:
            False if the broker has closed the delivery's channel, and so has requeued it.
        """
        ...

    def requeue(self, tag: int) -> bool:
        """Requeue a delivery (basic.nack with requeue); returns as :meth:`acknowledge` does."""
        ...

    def refuse(self, tag: int) -> bool:
        """Have a delivery dead-lettered (basic.reject without requeue).

        It is dropped where its queue has no dead-letter exchange. Returns as above.
        """
        ...

    def drain(self, timeout: float) -> None:
        """Receive what the broker sends: call the functions of the consumers.

        Returns after the first batch of deliveries, when :meth:`wake` is called, or after
        `timeout` seconds; 0: receive only what has arrived.
        """
        ...

    def begin_wait(self, part: Part) -> bool:
        """See :meth:`hbshim.messaging.polling.Pollable.begin_wait`."""
        ...

    def wake(self) -> None:
        """End the current :meth:`drain`, or else the next one."""
        ...

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Close the connection; never raises.

        Parameters:
            timeout: seconds to wait for the broker's answer, which shows that everything written
                before has arrived.
        """
        ...
