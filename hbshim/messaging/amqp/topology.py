"""The exchanges and queues of the messaging patterns, and their names.

:mod:`hbshim.messaging.amqp.names` makes names from exchange, topic, server, pool and priority.
Different ones never share a queue or a routing key, and no name is too long.

- CALL and CAST: a direct exchange; one queue for a topic, which its servers share, and one
  for each server.
- FANOUT: a direct exchange beside it; each server has its own exclusive queue.
- NOTIFY: a direct exchange; one queue for each topic and priority.
- Replies that cannot use direct reply-to: a direct exchange, and a queue for each client.

RabbitMQ 4.3 refuses queues that are neither durable nor exclusive: shared queues are durable,
and expire (`x-expires`).
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import re
from dataclasses import dataclass
from typing import Protocol

from hbshim.errors import OptionError, TopologyError
from hbshim.heartbeat import service
from hbshim.messaging.amqp import names
from hbshim.messaging.amqp.connection import Queue
from hbshim.messaging.amqp.names import DEAD, joined, part
from hbshim.messaging.amqp.queue_options import QueueOptions
from hbshim.messaging.base import NEVER, PRIORITIES
from hbshim.messaging.target import Target
from hbshim.options import DEFAULT, Default
from hbshim.protocol.reply_codes import PRECONDITION_FAILED

_log = logging.getLogger("hbshim.messaging")

DIRECT = "direct"

#: The argument for the lifetime of an unused queue, which the broker's errors name.
LIFETIME = "x-expires"

#: The broker's text when a queue exists with another lifetime.
_LIFETIME = re.compile(
    rf"inequivalent arg '{LIFETIME}' .* current is (none|(the value )?'(?P<milliseconds>\d+)')"
)

#: Arguments that classic queues do not have.
QUORUM_ARGUMENTS = frozenset(
    ("x-delivery-limit", "x-max-in-memory-length", "x-max-in-memory-bytes")
)

#: Prefix of a priority that is not in :data:`PRIORITIES`; no server's name has it.
_OTHER_PRIORITY = "*"

#: Suffix of the name of a client's reply queue, after the identity of the client.
_REPLIES = "*"

#: Suffix of the name of a result queue, after the id of the request.
_RESULTS = "*result"

#: How many encoded names of servers are cached.
_RESERVED = (*PRIORITIES, DEAD[1:])

#: How many subscriptions are cached.
_REMEMBERED = 256


class Declaring(Protocol):
    """A connection that declares exchanges and queues.

    See :class:`hbshim.messaging.amqp.connection.Connection`.
    """

    def declare_exchange(self, name: str, kind: str, deadline: float | None = None) -> None: ...
    def declare_queue(self, queue: Queue, deadline: float | None = None) -> None: ...
    def bind(
        self, queue: str, exchange: str, routing_key: str, deadline: float | None = None
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class Subscription:
    """A queue, and its bindings."""

    queue: Queue
    exchange: str
    routing_key: str

    def declare(self, connection: Declaring, deadline: float | None = None) -> None:
        """Declare queue, exchange and bindings.

        An existing queue keeps its type (classic or quorum).

        Parameters:
            connection: the connection.
            deadline: see :class:`hbshim.messaging.amqp.connection.Connection`.

        Raises:
            TopologyError: an exchange or queue of this name exists with other properties.
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
                # The broker names one difference of several; a listener can adopt this one.
                if LIFETIME in str(refused):
                    raise
                raise error from None
            if self.queue.quorum:
                _report_classic(self.queue.name)
        connection.bind(self.queue.name, self.exchange, self.routing_key, deadline)

    def declare_as_there(self, connection: Declaring, deadline: float | None = None) -> None:
        """Declare it as :meth:`declare` does; an existing queue also keeps its lifetime.

        Raises:
            TopologyError: as for :meth:`declare`.
        """
        try:
            self.declare(connection, deadline)
        except TopologyError as error:
            found = _LIFETIME.search(str(error))
            if found is None:
                raise
            queue = self.queue
            arguments = dict(queue.arguments)
            if found["milliseconds"]:
                arguments[LIFETIME] = int(found["milliseconds"])
            there = dataclasses.replace(queue, expires=None, arguments=arguments)
            dataclasses.replace(self, queue=there).declare(connection, deadline)

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
    """Names and types of exchanges and queues, as the options define them."""

    def __init__(self, options: QueueOptions) -> None:
        self._options = options
        #: The queue for one priority of a topic; each pool has one. Called for each notification.
        self.notifications = functools.lru_cache(_REMEMBERED)(self._notifications)

    def rpc_exchange(self, target: Target) -> str:
        return names.exchange(self._named(target))

    def fanout_exchange(self, target: Target) -> str:
        return names.fanout_exchange(self._named(target))

    def _named(self, target: Target) -> str:
        return target.exchange or self._options.default_rpc_exchange

    def _named_for_notifications(self, target: Target) -> str:
        return target.exchange or self._options.default_notification_exchange

    def fanout_key(self, target: Target) -> str:
        return joined(part(target.topic))

    def rpc_key(self, target: Target) -> str:
        return joined(*_rpc_parts(target))

    def rpc(self, target: Target, expires: float | Default = DEFAULT) -> Subscription:
        """Return the queue of a topic, or of one server.

        Parameters:
            target: topic and server.
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
        """Return a server's own queue for messages to all servers."""
        exchange = self.fanout_exchange(target)
        name = joined(part(exchange), part(target.topic), part(unique))
        return Subscription(Queue(name, exclusive=True), exchange, self.fanout_key(target))

    def _notifications(self, target: Target, priority: str, pool: str | None) -> Subscription:
        exchange = names.exchange(self._named_for_notifications(target))
        key = [part(target.topic), priority]
        if priority not in PRIORITIES:
            key[1:] = [_OTHER_PRIORITY, part(priority)]
        name = joined(part(exchange), *([part(pool)] if pool else []), *key)
        return Subscription(self._shared(name, NEVER), exchange, joined(*key))

    def results(self, request: str, expires: float) -> Queue:
        """Return the queue for the replies to a stored request.

        Its name is its routing key in the default exchange.

        Parameters:
            request: the id of the request.
            expires: seconds after which it expires while no caller waits for the replies, or
                :data:`NEVER`.
        """
        exchange = names.exchange(self._options.rpc_reply_exchange)
        name = joined(part(exchange), part(request), _RESULTS)
        return self._shared(name, expires)

    def replies(self, client: str, number: int = 0) -> Subscription:
        """Return the queue for the replies that did not arrive by direct reply-to.

        Parameters:
            client: the routing key with which each of the client's queues is bound. A reply so
                reaches the queue that the client has now, whichever it had when it sent the
                request.
            number: counts the queues of the client: when a queue becomes unusable, for example
                because its node is down, the next one needs another name.
        """
        options = self._options
        exchange = names.exchange(options.rpc_reply_exchange)
        name = joined(part(exchange), part(client), f"{_REPLIES}{number or ''}")
        queue = self._shared(name, options.rpc_queue_expiration)
        return Subscription(queue, exchange, joined(part(client), _REPLIES))


def _rpc_parts(target: Target) -> tuple[str, ...]:
    topic = part(target.topic)
    # If RPC and notifications share an exchange, the key of a server never equals that of a
    # priority, and its queue is never a dead-letter queue.
    return (topic,) if target.server is None else (topic, part(target.server, _RESERVED))
