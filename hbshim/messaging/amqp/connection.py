"""What the messaging driver needs of an AMQP 0-9-1 client library: one connection.

:class:`hbshim.messaging.amqp.session.Session` is one, over kombu or pika, and nothing above it
knows which of the two is at work.

One thread (or green thread) at a time calls :meth:`Connection.drain` and whatever asks the
broker for an answer; `publish`, `acknowledge`, `requeue`, `wake` and `close` may come from
any other meanwhile. No method logs, and none raises an error of the library's: they are of
:mod:`hbshim.errors`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from hbshim.protocol.messages import Delivery, Message

#: The property `type` of requests: the version of their format. That of a reply is its kind.
FORMAT = "hbshim/1"

#: Seconds that the broker may take to answer connection.close.
CLOSE_TIMEOUT = 1.0


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue to be declared, of a kind that RabbitMQ 4.3 accepts.

    Attributes:
        exclusive: seen and used by its connection alone, and gone with it.
        expires: seconds without a consumer after which the broker deletes it; None: never.
        quorum: replicated; else a classic queue. Both are durable unless exclusive.
        arguments: further ones, as RabbitMQ names them.
    """

    name: str
    exclusive: bool = False
    expires: float | None = None
    quorum: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def declaration(self) -> dict[str, Any]:
        """The optional arguments of queue.declare."""
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
    """Until when the broker may answer a synchronous method: `deadline`, if that is sooner."""
    limit = time.monotonic() + METHOD_TIMEOUT
    return limit if deadline is None else min(limit, deadline)


def ignore_channel_closed(_code: int, _text: str) -> None:
    """The first value of :attr:`Connection.on_channel_closed`."""


class Connection(Protocol):
    """One AMQP connection, kept alive by hbshim's heartbeats from the moment it is open.

    Every method raises :class:`hbshim.errors.ConnectionLostError` once it is lost.

    Attributes:
        name: of host and port, for people; without credentials.
        is_open: as far as this side knows without asking.
        blocked: the broker said that it accepts no messages for now (connection.blocked).
        on_channel_closed: called with code and text when the broker closes the channel of a
            message that was sent without a confirm; the message was not delivered.
            May be called from any thread that uses the connection, which must not wait for it.

    Synchronous methods, to which the broker sends an answer, take a `deadline`: of
    ``time.monotonic()``; None, or one further away: :data:`METHOD_TIMEOUT` from now. After that
    the connection is lost, so one that several callers share gets no caller's own deadline;
    :class:`hbshim.errors.BrokerBlockedError` is raised if it was blocked, of which RabbitMQ
    reads nothing, not even methods.
    """

    on_channel_closed: OnChannelClosed

    @property
    def name(self) -> str: ...
    @property
    def is_open(self) -> bool: ...
    @property
    def blocked(self) -> bool: ...

    def publish(self, message: Message, timeout: float | None = None) -> None:
        """Write `message` and return; whether it arrives anywhere is not asked.

        An error means that the broker did not get it whole, and so takes it for nothing.

        Parameters:
            timeout: seconds that it may take while the broker reads nothing.

        Raises:
            BrokerBlockedError: the broker accepts no messages, or none within `timeout`.
        """
        ...

    def publish_confirmed(self, message: Message, timeout: float) -> None:
        """Publish with `mandatory`, and return when the broker has taken responsibility.

        Raises:
            RejectedError: the broker said basic.nack.
            UnroutableError: no queue would get it (basic.return).
            BrokerBlockedError: as above.
            UnconfirmedError: the connection ended before the confirm; it may have been stored.
            ConfirmTimeoutError: no confirm within `timeout`; it may have been stored.
        """
        ...

    def declare_exchange(self, name: str, kind: str, deadline: float | None = None) -> None:
        """Declare a durable exchange.

        Raises:
            TopologyError: there is one of that name and another type.
        """
        ...

    def declare_queue(self, queue: Queue, deadline: float | None = None) -> None:
        """Declare `queue`.

        Raises:
            TopologyError: there is one of that name and other properties, or it is
                exclusive to another connection.
        """
        ...

    def queue_exists(self, name: str, deadline: float | None = None) -> bool:
        """Check for a queue (queue.declare, passive)."""
        ...

    def bind(
        self, queue: str, exchange: str, routing_key: str, deadline: float | None = None
    ) -> None:
        """Have messages to `exchange` with `routing_key` put into `queue`.

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
        """Delete a queue; deleting one that does not exist is no error.

        Returns:
            How many messages went with it.

        Raises:
            TopologyError: it is in use, or not empty.
        """
        ...

    def set_prefetch(self, count: int, deadline: float | None = None) -> None:
        """Unacknowledged messages that each consumer started from now on may hold; 0: any."""
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
        """Have `on_delivery` called, from within :meth:`drain`, with what arrives in `queue`.

        Parameters:
            acknowledged: each delivery is to be acknowledged; else it is as it is sent.
            priority: RabbitMQ's consumer priority (`x-priority`).
            on_cancelled: called from :meth:`drain` when the broker ends the consumer: with
                None if it ends this one alone, as it does when the queue is deleted
                (RabbitMQ's consumer cancel notification); with the broker's reason if it
                closes the channel. Then all earlier deliveries are requeued.

        Returns:
            The consumer's tag, for :meth:`cancel`.

        Raises:
            TopologyError: there is no such queue, or it is another's.
        """
        ...

    def cancel(self, consumer_tag: str, deadline: float | None = None) -> None:
        """Stop a consumer; what was delivered to it stays to be acknowledged."""
        ...

    def start_consumer(
        self,
        queue: str,
        on_delivery: OnDelivery,
        *,
        on_cancelled: OnCancelled,
    ) -> str:
        """Consume as :meth:`consume` does, from any thread and without the broker's answer.

        Where the queue does not exist, the broker closes the channel: look it up before, over
        another connection.
        """
        ...

    def stop_consumer(
        self,
        consumer_tag: str,
        on_stopped: Callable[[], None] | None = None,
    ) -> None:
        """Cancel from any thread, without the broker's answer; what comes until then, comes.

        Parameters:
            on_stopped: called from :meth:`drain` when nothing comes any more.
        """
        ...

    def acknowledge(self, tag: int) -> bool:
        """Tell the broker that a delivery is done with (basic.ack), without waiting.

        Returns:
            False if the broker has closed the delivery's channel, and so has requeued it.
        """
        ...

    def requeue(self, tag: int) -> bool:
        """Give a delivery back to its queue (basic.nack with requeue); returns as above."""
        ...

    def drain(self, timeout: float) -> None:
        """Take in what the broker sends: call the consumers' functions.

        Returns after the first batch of deliveries, when :meth:`wake` is called, or after
        `timeout` seconds; 0: takes what is there.
        """
        ...

    def wake(self) -> None:
        """Have the :meth:`drain` that runs, or else the next one, return at once."""
        ...

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Close; never raises.

        Parameters:
            timeout: seconds to wait for the broker's answer; it shows that what was written
                before has arrived.
        """
        ...
