"""Which exchanges and queues the patterns use, by what names.

- CALL and CAST: a direct exchange; one queue for a topic, which its servers share, and one
  for each server.
- FANOUT: a direct exchange beside it; each server has a queue of its own, exclusive.
- NOTIFY: a direct exchange; one queue for each topic and priority.
- Replies that cannot go the direct way: a direct exchange, and a queue for each client.

RabbitMQ 4.3 refuses queues that are neither durable nor exclusive: shared ones are durable,
and go by `x-expires`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from hbshim.messaging.amqp.connection import Connection, Queue
from hbshim.messaging.base import NEVER
from hbshim.messaging.options import MessagingOptions
from hbshim.messaging.target import Target

DIRECT = "direct"

#: Joins the parts of a name; between exchange and topic, so that equal topics in different
#: exchanges do not share a queue.
_DOT = "."


#: Subscriptions that are not made anew each time.
_REMEMBERED = 256


@dataclass(frozen=True, slots=True)
class Subscription:
    """A queue, and what it is bound to."""

    queue: Queue
    exchange: str
    routing_key: str

    def declare(self, connection: Connection, deadline: float | None = None) -> None:
        """Have all of it.

        Parameters:
            deadline: see :class:`hbshim.messaging.amqp.connection.Connection`.

        Raises:
            TopologyError: something of these names is there, and of another kind.
        """
        connection.declare_exchange(self.exchange, DIRECT, deadline)
        connection.declare_queue(self.queue, deadline)
        connection.bind(self.queue.name, self.exchange, self.routing_key, deadline)


class Topology:
    """Names and kinds, as the options have them."""

    def __init__(self, options: MessagingOptions) -> None:
        self._options = options
        #: The queue for one priority of a topic; each pool has one. Asked for each notification.
        self.notifications = functools.lru_cache(_REMEMBERED)(self._notifications)

    def rpc_exchange(self, target: Target) -> str:
        return target.exchange or self._options.default_rpc_exchange

    def fanout_exchange(self, target: Target) -> str:
        return f"{self.rpc_exchange(target)}_fanout"

    def rpc_key(self, target: Target) -> str:
        return target.topic if target.server is None else _DOT.join((target.topic, target.server))

    def rpc(self, target: Target, expires: float | None = None) -> Subscription:
        """The queue of a topic, or of one server.

        Parameters:
            expires: seconds without a consumer until it goes, or :data:`NEVER`; None: the
                option `rpc_queue_expiration`.
        """
        if expires is None:
            expires = self._options.rpc_queue_expiration
        exchange, key = self.rpc_exchange(target), self.rpc_key(target)
        quorum = self._options.quorum_queues
        lifetime = None if expires == NEVER else expires
        queue = Queue(_DOT.join((exchange, key)), expires=lifetime, quorum=quorum)
        return Subscription(queue, exchange, key)

    def fanout(self, target: Target, unique: str) -> Subscription:
        """A server's own queue for what goes to all."""
        exchange = self.fanout_exchange(target)
        queue = Queue(_DOT.join((exchange, target.topic, unique)), exclusive=True)
        return Subscription(queue, exchange, target.topic)

    def notification_exchange(self, target: Target) -> str:
        return target.exchange or self._options.default_notification_exchange

    def notification_key(self, target: Target, priority: str) -> str:
        return _DOT.join((target.topic, priority))

    def _notifications(self, target: Target, priority: str, pool: str | None) -> Subscription:
        exchange, key = self.notification_exchange(target), self.notification_key(target, priority)
        name = _DOT.join(filter(None, (exchange, pool, key)))
        return Subscription(Queue(name, quorum=self._options.quorum_queues), exchange, key)

    def replies(self, client: str, number: int = 0) -> Subscription:
        """Return the queue for the replies that did not come by direct reply-to.

        Parameters:
            client: the routing key, which every one of the client's queues is bound with. So a
                reply finds the queue that the client has now, whichever it had at its request.
            number: counts the queues of the client: a queue can become unusable, for example
                when the node dies that holds it, and another one needs another name.
        """
        options = self._options
        parts = [options.rpc_reply_exchange, client]
        if number:
            parts.append(str(number))
        queue = Queue(
            _DOT.join(parts),
            expires=options.rpc_queue_expiration,
            quorum=options.quorum_queues,
        )
        return Subscription(queue, options.rpc_reply_exchange, client)
