"""The driver over AMQP 0-9-1, for any client library."""

from __future__ import annotations

import contextlib
import functools
import time
import uuid
import weakref
from collections.abc import Sequence

from hbshim.errors import ConfirmTimeoutError, MessagingError
from hbshim.messaging.amqp import patterns
from hbshim.messaging.amqp.caller import Caller
from hbshim.messaging.amqp.connection import FORMAT, Queue
from hbshim.messaging.amqp.connector import Connector, Open
from hbshim.messaging.amqp.listener import AmqpListener
from hbshim.messaging.amqp.options import AmqpOptions
from hbshim.messaging.amqp.results import StoredReplies
from hbshim.messaging.amqp.retries import Retries
from hbshim.messaging.amqp.sender import Sender
from hbshim.messaging.amqp.topology import Topology
from hbshim.messaging.base import NEVER, Payload, Reply, timeout_of
from hbshim.messaging.callers import Callers
from hbshim.messaging.calling import CallRequest
from hbshim.messaging.capabilities import Capabilities
from hbshim.messaging.consuming import Source
from hbshim.messaging.hosts import Host
from hbshim.messaging.pool import PoolStatistics
from hbshim.messaging.steps import Steps, WaitsInThread
from hbshim.messaging.target import Target
from hbshim.options import DEFAULT, Default
from hbshim.protocol.messages import PERSISTENT, Message
from hbshim.runtime.weak import members

#: Seconds for deleting the queue of a request that was not stored; otherwise it expires.
DELETE_WITHIN = 0.3


class AmqpDriver(WaitsInThread):
    """See :class:`hbshim.messaging.storing.StoringDriver`. It connects at its first use.

    Parameters:
        hosts: in the order in which they are tried.
        options: see :class:`AmqpOptions`.
        open_one: opens one connection with the client library.
    """

    capabilities = Capabilities(
        stores=True, requeues=True, pools=True, mandatory=True, survives_restart=True
    )

    def __init__(self, hosts: Sequence[Host], options: AmqpOptions, open_one: Open) -> None:
        self.options = options
        self.rpc_timeout = options.rpc_timeout
        self.payload_limit = options.payload_limit
        self._topology = Topology(options)
        self._connector = Connector(hosts, options, open_one)
        self._sender = Sender(self._connector, options)
        self._callers = Callers(lambda: Caller(self._connector, self._sender, self._topology))
        self._listeners: weakref.WeakSet[AmqpListener] = weakref.WeakSet()

    def call_steps(self, request: CallRequest) -> Steps[Reply]:
        return self._callers.get().call_steps(request)

    def cast(
        self,
        target: Target,
        payload: Payload,
        timeout: float,
        *,
        attempts: int | Default | None = DEFAULT,
        mandatory: bool = False,
    ) -> None:
        deadline = time.monotonic() + timeout_of(timeout)
        message = patterns.cast(self._topology, target, payload, deadline)
        tries = self.options.attempts(attempts)
        queue = None if target.fanout else functools.partial(self._topology.rpc, target)
        if mandatory:
            self._sender.send_confirmed(message, None, deadline, tries, queue=queue)
        else:
            self._sender.send(message, deadline, tries, resend=False, queue=queue)

    def submit(
        self,
        target: Target,
        payload: Payload,
        timeout: float,
        *,
        ignore_result: bool = False,
        result_lifetime: float | Default = DEFAULT,
    ) -> StoredReplies | None:
        deadline = time.monotonic() + timeout_of(timeout)
        request = uuid.uuid4().hex
        message = Message(
            payload.body,
            self._topology.rpc_exchange(target),
            self._topology.rpc_key(target),
            content_type=payload.content_type,
            message_id=request,
            delivery_mode=PERSISTENT,
            type=FORMAT,
        )
        attempts = self.options.connection_retry_attempts
        reached = functools.partial(self._topology.rpc, target)
        if ignore_result:
            self._sender.send_confirmed(message, None, deadline, attempts, queue=reached)
            return None
        queue = self._results(request, result_lifetime)
        message.correlation_id, message.reply_to = request, queue.name
        self._sender.with_connection(
            lambda found: found.connection.declare_queue(queue, deadline),
            deadline,
            attempts,
        )
        try:
            self._sender.send_confirmed(message, None, deadline, attempts, queue=reached)
        except ConfirmTimeoutError:
            # It may be stored, and a result may arrive: the queue expires.
            raise
        except BaseException:
            self._delete_soon(queue.name)
            raise
        return self.attach(request)

    def _delete_soon(self, name: str) -> None:
        until = time.monotonic() + DELETE_WITHIN
        with contextlib.suppress(MessagingError):
            self._sender.with_connection(
                lambda found: found.connection.delete_queue(name, deadline=until), until, 1
            )

    def attach(self, request: str) -> StoredReplies:
        return StoredReplies(self._callers.get, request, self._results(request).name)

    def _results(self, request: str, lifetime: float | Default = DEFAULT) -> Queue:
        if lifetime is DEFAULT:
            lifetime = self.options.result_expiration
        return self._topology.results(request, lifetime)

    def notify(
        self,
        target: Target,
        payload: Payload,
        priority: str,
        timeout: float,
        *,
        attempts: int | Default | None = DEFAULT,
    ) -> None:
        deadline = time.monotonic() + timeout_of(timeout)
        subscription = self._topology.notifications(target, priority, None)
        message = patterns.notification(
            subscription, payload, persistent=self.options.notification_persistence
        )
        self._sender.send_confirmed(
            message, subscription, deadline, self.options.attempts(attempts)
        )

    def listen(
        self,
        target: Target,
        prefetch: int | Default = DEFAULT,
        *,
        acknowledge_first: bool = True,
        expires: float | Default = DEFAULT,
    ) -> AmqpListener:
        sources = patterns.rpc_sources(self._topology, target, expires)
        count = patterns.prefetch_count(prefetch, self.options.rpc_prefetch_count)
        return self._listener(sources, count, acknowledge_first=acknowledge_first)

    def listen_for_notifications(
        self,
        targets: Sequence[tuple[Target, str]],
        pool: str | None = None,
        prefetch: int | Default = DEFAULT,
    ) -> AmqpListener:
        sources = patterns.notification_sources(self._topology, targets, pool)
        for source in sources:
            source.subscription()  # a name that cannot be used is an error now
        count = patterns.prefetch_count(prefetch, self.options.notification_prefetch_count)
        return self._listener(sources, count, acknowledge_first=False)

    def _listener(
        self, sources: Sequence[Source], prefetch: int, *, acknowledge_first: bool
    ) -> AmqpListener:
        self._callers.require_open()
        listener = AmqpListener(
            self._connector,
            self._sender,
            self._topology,
            sources,
            prefetch,
            acknowledge_first=acknowledge_first,
            retry_delay=self.options.connection_retry_delay,
            retries=Retries(self._sender, self.options),
        )
        self._listeners.add(listener)
        return listener

    def declare_queue(self, target: Target, expires: float | Default = NEVER) -> None:
        deadline = time.monotonic() + self.options.rpc_timeout
        subscription = self._topology.rpc(target, expires)
        self._sender.with_connection(
            lambda sending: subscription.declare(sending.connection, deadline),
            deadline,
            self.options.connection_retry_attempts,
        )

    def delete_queue(self, target: Target) -> int:
        deadline = time.monotonic() + self.options.rpc_timeout
        name = self._topology.rpc(target).queue.name
        return self._sender.with_connection(
            lambda sending: sending.connection.delete_queue(name, deadline=deadline),
            deadline,
            self.options.connection_retry_attempts,
        )

    def statistics(self) -> PoolStatistics:
        """Return the statistics of the pool of publishing connections."""
        return self._sender.pool.statistics()

    def close(self) -> None:
        self._callers.close()
        for listener in members(self._listeners):
            listener.close()
        self._sender.pool.close()
