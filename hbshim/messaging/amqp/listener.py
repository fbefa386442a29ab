"""Receives messages over AMQP 0-9-1; see :mod:`hbshim.messaging.consuming`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from hbshim.errors import ConnectionLostError
from hbshim.messaging.amqp.connection import Connection
from hbshim.messaging.amqp.connector import Connector
from hbshim.messaging.amqp.incoming import AmqpIncoming
from hbshim.messaging.amqp.retries import Retries
from hbshim.messaging.amqp.sender import Sender
from hbshim.messaging.amqp.topology import Subscription, Topology
from hbshim.messaging.consuming import Consumer, ConsumingListener, Source
from hbshim.protocol.messages import Delivery


class AmqpListener(ConsumingListener[AmqpIncoming, Connection]):
    """See :class:`hbshim.messaging.base.Listener`.

    Parameters:
        sources: the queues to listen to.
        prefetch: the most unacknowledged messages of each consumer.
        acknowledge_first, retry_delay: see
            :class:`hbshim.messaging.consuming.ConsumingListener`.

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
        super().__init__(sources, acknowledge_first=acknowledge_first, retry_delay=retry_delay)
        self._connector = connector
        self._sender = sender
        self._topology = topology
        self._prefetch = prefetch
        self._retries = retries
        self._channel_closed = False

    def _hold_left(self) -> float:
        return self._retries.held.left()

    def _retry_held(self) -> None:
        self._retries.held.retry()

    def _open_connection(self, deadline: float) -> Connection:
        return self._connector.connect(deadline, attempts=1)

    def _connected(self, connection: Connection, deadline: float | None) -> None:
        connection.set_prefetch(self._prefetch, deadline)

    def _start(self, connection: Connection, consumer: Consumer, deadline: float | None) -> None:
        subscription: Subscription = consumer.subscription
        subscription.declare_as_there(connection, deadline)
        consumer.tag = connection.consume(
            subscription.queue.name,
            self._receiving(consumer, self._incoming(consumer, subscription.queue.name)),
            on_cancelled=self._on_cancelled(consumer),
            deadline=deadline,
        )
        self._channel_closed = False

    def _incoming(self, consumer: Consumer, queue: str) -> Callable[[Delivery], AmqpIncoming]:
        return functools.partial(
            AmqpIncoming,
            sender=self._sender,
            topology=self._topology,
            priority=consumer.source.priority,
            queue=queue,
            retries=self._retries,
            later=consumer.source.later,
        )

    def _on_cancelled(self, consumer: Consumer) -> Callable[[str | None], None]:
        def on_cancelled(reason: str | None) -> None:
            self._cancelled(consumer)
            if reason is not None:
                # With its channel closed, everything delivered over it was requeued.
                self._inbox.drop_redelivered()
                if not self._channel_closed:
                    # Once for all of its consumers.
                    self._channel_closed = True
                    self._errors.append(_channel_closed(reason))

        return on_cancelled

    def _stop(self, connection: Connection, tags: Sequence[Any], deadline: float) -> None:
        for tag in tags:
            connection.cancel(tag, deadline)
        # Deliveries that arrived before the broker's answer.
        connection.drain(0)


def _channel_closed(reason: str) -> ConnectionLostError:
    remedy = ""
    if "timed out" in reason or "timeout" in reason:
        remedy = (
            "; processing took longer than RabbitMQ's consumer_timeout: raise it, or acknowledge "
            "before processing. This process does not start again what it is processing"
        )
    return ConnectionLostError(f"the channel of the consumers was {reason}{remedy}")
