"""Which exchanges and queues the patterns use, and their names.

A name is made of exchange, topic, server, pool and priority by
:mod:`hbshim.messaging.amqp.names`, so that different ones never share a queue or a routing key,
and none is too long.

- CALL and CAST: a direct exchange; one queue for a topic, which its servers share, and one
  for each server.
- FANOUT: a direct exchange beside it; each server has a queue of its own, exclusive.
- NOTIFY: a direct exchange; one queue for each topic and priority.
- Replies that cannot go the direct way: a direct exchange, and a queue for each client.

RabbitMQ 4.3 refuses queues that are neither durable nor exclusive: shared ones are durable,
and go by `x-expires`.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from dataclasses import dataclass

from hbshim.errors import OptionError, TopologyError
from hbshim.heartbeat import service
from hbshim.messaging.amqp import names
from hbshim.messaging.amqp.connection import Connection, Queue
from hbshim.messaging.amqp.names import DEAD, joined, part
from hbshim.messaging.amqp.options import AmqpOptions
from hbshim.messaging.base import NEVER, PRIORITIES
from hbshim.messaging.target import Target
from hbshim.options import DEFAULT, Default
from hbshim.protocol.reply_codes import PRECONDITION_FAILED

_log = logging.getLogger("hbshim.messaging")

DIRECT = "direct"

#: The argument with the lifetime of an unused queue, which refusals name.
LIFETIME = "x-expires"

#: Arguments that classic queues do not have.
QUORUM_ARGUMENTS = frozenset(
    ("x-delivery-limit", "x-max-in-memory-length", "x-max-in-memory-bytes")
)

#: What stands before a priority that is none of :data:`PRIORITIES`, which no server's name is.
_OTHER_PRIORITY = "*"

#: What follows the identity of a client in the name of its queue for replies.
_REPLIES = "*"

#: The same for the id of a request and the queue of its results.
_RESULTS = "*result"

#: Names of servers that are encoded.
_RESERVED = (*PRIORITIES, DEAD[1:])

#: Subscriptions that are not made anew each time.
_REMEMBERED = 256


@dataclass(frozen=True, slots=True)
class Subscription:
    """A queue, and what it is bound to."""

    queue: Queue
    exchange: str
    routing_key: str

    def declare(self, connection: Connection, deadline: float | None = None) -> None:
        """Have all of it; an existing queue keeps its type (classic or quorum).

        Parameters:
            deadline: see :class:`hbshim.messaging.amqp.connection.Connection`.

        Raises:
            TopologyError: something of these names is there, with other properties.
        """
        connection.declare_exchange(self.exchange, DIRECT, deadline)
        try:
            connection.declare_queue(self.queue, deadline)
        except TopologyError as error:
            other = self._of_the_other_type()
            if error.code != PRECONDITION_FAILED or other is None:
                raise
            # The type cannot be changed, and a service must not stop because of it.
            try:
                connection.declare_queue(other, deadline)
            except TopologyError as refused:
                # The broker names one difference of several: a listener can follow this one.
                if LIFETIME in str(refused):
                    raise
                raise error from None
            if self.queue.quorum:
                _report_classic(self.queue.name)
        connection.bind(self.queue.name, self.exchange, self.routing_key, deadline)

    def _of_the_other_type(self) -> Queue | None:
        queue = self.queue
        if queue.exclusive:
            return None
        arguments = {
            name: value for name, value in queue.arguments.items() if name not in QUORUM_ARGUMENTS
        }
        return dataclasses.replace(queue, quorum=not queue.quorum, arguments=arguments)


@functools.lru_cache(1024)
def _report_classic(name: str) -> None:
    """Report, once for each queue, that it is not replicated although it should be."""
    detail = (
        f"queue {name!r} exists as a classic queue, so it is not replicated, and cannot be used "
        "while its node is down. It is used as it is; to have a quorum queue, delete it, for "
        f"example with: rabbitmqctl delete_queue {name}"
    )
    service.current().metrics.record("queue-not-replicated", "", detail)
    _log.warning("%s", detail)


class Topology:
    """Names and kinds, as the options have them."""

    def __init__(self, options: AmqpOptions) -> None:
        self._options = options
        #: The queue for one priority of a topic; each pool has one. Asked for each notification.
        self.notifications = functools.lru_cache(_REMEMBERED)(self._notifications)

    def rpc_exchange(self, target: Target) -> str:
        return names.exchange(self._named(target))

    def fanout_exchange(self, target: Target) -> str:
        return names.fanout_exchange(self._named(target))

    def _named(self, target: Target) -> str:
        return target.exchange or self._options.default_rpc_exchange

    def fanout_key(self, target: Target) -> str:
        return joined(part(target.topic))

    def rpc_key(self, target: Target) -> str:
        return joined(*_rpc_parts(target))

    def rpc(self, target: Target, expires: float | Default = DEFAULT) -> Subscription:
        """The queue of a topic, or of one server.

        Parameters:
            expires: seconds without a consumer until it expires, or :data:`NEVER`; DEFAULT: the
                option `rpc_queue_expiration`.
        """
        if expires is DEFAULT:
            expires = self._options.rpc_queue_expiration
        exchange = self.rpc_exchange(target)
        queue = self._shared(joined(part(exchange), *_rpc_parts(target)), expires)
        return Subscription(queue, exchange, self.rpc_key(target))

    def _shared(self, name: str, expires: float) -> Queue:
        """Return a queue that several servers may share, or that waits for one."""
        if not isinstance(expires, (int, float)):
            raise OptionError(
                f"a queue's lifetime must be a number of seconds or NEVER, got {expires!r}; leave "
                "it out, or give DEFAULT, for the option's value"
            )
        lifetime = None if expires == NEVER else expires
        if not self._options.quorum_queues:
            return Queue(name, expires=lifetime)
        arguments = self._options.quorum_arguments()
        return Queue(name, expires=lifetime, quorum=True, arguments=arguments)

    def fanout(self, target: Target, unique: str) -> Subscription:
        """A server's own queue for what goes to all."""
        exchange = self.fanout_exchange(target)
        name = joined(part(exchange), part(target.topic), part(unique))
        return Subscription(Queue(name, exclusive=True), exchange, self.fanout_key(target))

    def _notifications(self, target: Target, priority: str, pool: str | None) -> Subscription:
        exchange = names.exchange(target.exchange or self._options.default_notification_exchange)
        key = [part(target.topic), priority]
        if priority not in PRIORITIES:
            key[1:] = [_OTHER_PRIORITY, part(priority)]
        name = joined(part(exchange), *([part(pool)] if pool else []), *key)
        return Subscription(self._shared(name, NEVER), exchange, joined(*key))

    def results(self, request: str, expires: float | Default = DEFAULT) -> Queue:
        """The queue for the replies to a stored request; its name in the default exchange.

        Parameters:
            request: its id.
            expires: seconds after which it goes when no caller has waited for the replies
                meanwhile, or :data:`NEVER`; DEFAULT: the option `result_expiration`.
        """
        exchange = names.exchange(self._options.rpc_reply_exchange)
        name = joined(part(exchange), part(request), _RESULTS)
        lifetime = self._options.result_expiration if expires is DEFAULT else expires
        return self._shared(name, lifetime)

    def replies(self, client: str, number: int = 0) -> Subscription:
        """Return the queue for the replies that did not come by direct reply-to.

        Parameters:
            client: the routing key, which every one of the client's queues is bound with. So a
                reply finds the queue that the client has now, whichever it had at its request.
            number: counts the queues of the client: a queue can become unusable, for example
                when the node dies that holds it, and another one needs another name.
        """
        options = self._options
        exchange = names.exchange(options.rpc_reply_exchange)
        name = joined(part(exchange), part(client), f"{_REPLIES}{number or ''}")
        queue = self._shared(name, options.rpc_queue_expiration)
        return Subscription(queue, exchange, joined(part(client), _REPLIES))


def _rpc_parts(target: Target) -> tuple[str, ...]:
    topic = part(target.topic)
    # Where RPC and notifications share an exchange, a server's key is no priority's; and its
    # queue is no dead-letter queue.
    return (topic,) if target.server is None else (topic, part(target.server, _RESERVED))
