"""A connection with the exchanges and queues that were declared on it."""

from __future__ import annotations

from hbshim.messaging.amqp.addresses import exchange_address
from hbshim.messaging.amqp.topology import DIRECT, Subscription
from hbshim.messaging.amqp1.connection import Connection
from hbshim.messaging.amqp1.links import IncomingLink
from hbshim.messaging.amqp1.management import Declares, declaring
from hbshim.protocol.messages import Message


class Prepared:
    """See the module.

    Attributes:
        connection: the connection.
        management: declares over it.
        replies: the link over which replies arrive; None: there is none.
        used: a message was sent over it.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.management: Declares = declaring(connection)
        self.replies: IncomingLink | None = None
        self.used = False
        self._declared: set[str] = set()

    def prepare(self, exchange: str, deadline: float) -> None:
        """Declare an exchange, and check that messages may be sent to it; once.

        RabbitMQ would end the session, with the messages of all callers in it, over a message that
        may not be sent.

        Raises:
            TopologyError: it exists with another type, or the user lacks a permission.
        """
        if exchange and exchange not in self._declared:
            self.management.declare_exchange(exchange, DIRECT, deadline)
            self.connection.check_address(exchange_address(exchange), deadline)
            self._declared.add(exchange)

    def prepare_queue(self, subscription: Subscription, deadline: float) -> None:
        """Declare a queue, its exchange and its binding; once.

        Raises:
            TopologyError: as for :meth:`prepare`.
        """
        name = f"queue {subscription.queue.name}"
        if name not in self._declared:
            subscription.declare(self.management, deadline)
            self.prepare(subscription.exchange, deadline)
            self._declared.add(name)

    def forget(self, message: Message | None, subscription: Subscription | None) -> None:
        """Declare again what a message is sent to: it may have been deleted."""
        if message is not None:
            self._declared.discard(message.exchange)
        if subscription is not None:
            self._declared.discard(f"queue {subscription.queue.name}")
