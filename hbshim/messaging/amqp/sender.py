"""Sends messages that need no reply: casts, notifications, and the replies of a server.

It uses connections that only publish: when a broker is short of memory it stops reading from
publishing connections, and consuming connections are not affected.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable
from types import TracebackType
from typing import TypeAlias, TypeVar

from hbshim.errors import (
    ConfirmTimeoutError,
    ConnectionLostError,
    MessagingError,
    RejectedError,
    TopologyError,
    UnconfirmedError,
    UnroutableError,
)
from hbshim.heartbeat import service
from hbshim.messaging.amqp.connection import Connection
from hbshim.messaging.amqp.connector import Connector
from hbshim.messaging.amqp.limits import Limits
from hbshim.messaging.amqp.options import AmqpOptions
from hbshim.messaging.amqp.replies import DirectReplies
from hbshim.messaging.amqp.topology import DIRECT, Declaring, Subscription
from hbshim.messaging.backoff import TOO_LITTLE, retrying
from hbshim.messaging.connecting import may_connect_yet
from hbshim.messaging.pool import Lease, Pool
from hbshim.protocol.messages import Message
from hbshim.protocol.reply_codes import NOT_FOUND

T = TypeVar("T")

#: Returns the queue that messages are for.
Reached: TypeAlias = Callable[[], Subscription]

#: Seconds for closing a pooled connection. A caller waits for it.
CLOSE_WITHIN = 0.4

#: A routing key that no queue is bound with.
ACCESS_CHECK = "hbshim-access-check"

#: After these errors the broker has not stored the message, and may accept it at another attempt.
NOT_TAKEN = (RejectedError, UnroutableError)


class _StaleConnectionError(ConnectionLostError):
    """A pooled connection was lost while it was idle.

    Not counted as an attempt: after a restart of the broker the pool may hold many such
    connections.
    """


class Sending:
    """A publishing connection, with the exchanges and queues that were declared on it."""

    __slots__ = ("_limits", "_on_channel_closed", "connection", "declared", "used")

    def __init__(self, connection: Connection, limits: Limits) -> None:
        self.connection = connection
        self.declared: set[str] = set()
        self.used = False
        self._limits = limits
        self._on_channel_closed = connection.on_channel_closed
        connection.on_channel_closed = self._channel_closed

    def _channel_closed(self, code: int, text: str) -> None:
        declared, self.declared = self.declared, set()
        # Something may have been deleted since its declaration, or write access may be denied.
        self._limits.refused(code, text, declared)
        self._on_channel_closed(code, text)

    def prepare(self, exchange: str, deadline: float, queue: Reached | None = None) -> None:
        """Declare `exchange` once: publishing to a missing exchange closes the channel.

        Parameters:
            exchange: the exchange.
            deadline: of ``time.monotonic()``.
            queue: returns the queue that the messages are for. It is bound again if the exchange
                was deleted meanwhile: its servers do not notice.
        """
        if exchange and exchange not in self.declared:
            if self._limits.writable(exchange) and not self.connection.exchange_exists(
                exchange, deadline
            ):
                self._limits.deleted(exchange)
            self.connection.declare_exchange(exchange, DIRECT, deadline)
            self.declared.add(exchange)
        if queue is not None and self._limits.was_deleted(exchange):
            self._bind_again(queue(), deadline)

    def _bind_again(self, subscription: Subscription, deadline: float) -> None:
        name, key = subscription.queue.name, subscription.routing_key
        if self._limits.is_bound(subscription.exchange, key):
            return
        try:
            if self.connection.queue_exists(name, deadline):
                self.connection.bind(name, subscription.exchange, key, deadline)
        except TopologyError as error:
            # A client needs no permission for that otherwise. Its servers bind their queue when
            # they connect again.
            service.current().metrics.record("not-bound-again", self.connection.name, str(error))
        self._limits.bound(subscription.exchange, key)

    def publish(self, message: Message, timeout: float) -> bool:
        """Publish without a confirm, on a channel that is as it was prepared.

        Returns:
            False if the broker has closed it meanwhile, over an earlier message: nothing is sent.
        """
        declared = self.declared
        return self.connection.publish(message, timeout, lambda: self.declared is not declared)

    def check_write_access(self, exchange: str, deadline: float) -> None:
        """Ask the broker, with a message that no queue gets, whether it accepts messages here.

        Raises:
            TopologyError: it does not.
        """
        now = time.monotonic()
        # It expires, for an alternate exchange that a policy may name.
        check = Message(b"", exchange, ACCESS_CHECK, deadline=min(deadline, now + 1))
        try:
            with contextlib.suppress(UnroutableError):
                self.connection.publish_confirmed(check, deadline - now)
        except TopologyError as error:
            self.refused(exchange, error)
            raise
        self._limits.accepted(0, exchange)

    def refused(self, exchange: str, error: TopologyError) -> None:
        """Record that the broker has closed the channel over a message to `exchange`."""
        # The exchange may have been deleted, and the bindings of queues with it.
        self.declared.clear()
        self._limits.refused(error.code, str(error), {exchange})

    def prepare_queue(self, subscription: Subscription, deadline: float) -> None:
        """Declare a queue, its exchange and its binding once."""
        if subscription.queue.name not in self.declared:
            subscription.declare(self.connection, deadline)
            self.declared.add(subscription.queue.name)


class _Checkout(Lease[Sending]):
    """Checks a connection out for a `with` block; a generator would take three times as long."""

    __slots__ = ("_sending",)

    def __enter__(self) -> Sending:
        self._sending = super().__enter__()
        return self._sending

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        was_used = self._sending.used
        if error is None:
            self._sending.used = True
        super().__exit__(kind, error, trace)
        if was_used and isinstance(error, ConnectionLostError):
            raise _StaleConnectionError(str(error)) from error


class Sender:
    """Publishes over a pool of connections, and retries.

    Attributes:
        pool: the connections.
        direct_replies: replies sent by direct reply-to that may not have arrived.
    """

    def __init__(self, connector: Connector, options: AmqpOptions) -> None:
        self._options = options
        self._limits = connector.limits
        self.direct_replies = DirectReplies(self)
        self.pool: Pool[Sending] = Pool(
            # The pool passes the remaining time of its caller.
            create=lambda left: Sending(
                connector.connect(time.monotonic() + left, attempts=1), connector.limits
            ),
            close=lambda sending: sending.connection.close(CLOSE_WITHIN),
            is_dead=lambda sending: not sending.connection.is_open,
            max_size=options.pool_max_size,
            max_overflow=options.pool_max_overflow,
            timeout=options.pool_timeout,
            recycle=options.pool_recycle,
            stale=options.pool_stale,
            # In a forked child, close() drops the child's copy and writes nothing.
            drop_inherited=lambda sending: sending.connection.close(),
        )

    def send(
        self,
        message: Message,
        deadline: float,
        attempts: int | None,
        *,
        resend: bool,
        queue: Reached | None = None,
    ) -> None:
        """Publish without a publisher confirm, unless the broker might close the channel over it.

        Parameters:
            message: the message.
            deadline: of ``time.monotonic()``, for everything.
            attempts: the most attempts; None: as many as the deadline allows.
            resend: whether to send it again if the broker may have received it. False for a
                request, which two servers would execute.
            queue: see :meth:`Sending.prepare`.

        Raises:
            ConnectError, ConnectionLostError, BrokerBlockedError, PoolTimeoutError: not sent.
            ConfirmTimeoutError: the broker may have received it.
            PayloadError: it is larger than the broker accepts.
            TopologyError: the broker refused it for another reason.
        """
        size = len(message.body)
        self._limits.check(size)
        if self._limits.known(size, message.exchange):
            publish = functools.partial(self._publish, message, deadline, queue)
            self._retry(publish, deadline, attempts)
            return
        # An unroutable message is no error here.
        with contextlib.suppress(UnroutableError):
            self.send_confirmed(message, None, deadline, attempts, resend=resend, queue=queue)

    def _publish(self, message: Message, deadline: float, queue: Reached | None) -> None:
        with self._checkout(deadline) as sending:
            _write(sending, message, deadline, queue)

    def send_confirmed(
        self,
        message: Message,
        subscription: Subscription | None,
        deadline: float,
        attempts: int | None,
        *,
        resend: bool = True,
        queue: Reached | None = None,
    ) -> None:
        """Publish, and return when the broker has confirmed that a queue stores the message.

        Parameters:
            message: the message.
            subscription: the queue, declared if it does not exist; None: do not declare a queue.
            deadline: of ``time.monotonic()``, for everything.
            attempts: the most attempts; None: as many as the deadline allows.
            resend: whether to send it again if the connection ended before the confirm.
            queue: see :meth:`Sending.prepare`; only without a subscription.

        Raises:
            DeliveryError, ConnectError, ConnectionLostError, BrokerBlockedError, PoolTimeoutError:
                it was not stored, or may not have been.
            PayloadError: it is larger than the broker accepts.
            TopologyError: the broker refused it for another reason.
        """
        self._limits.check(len(message.body))
        publish = functools.partial(
            self._publish_confirmed, message, subscription, deadline, resend, queue
        )
        refused = self._options.rejected_message_retry_attempts
        pause = self._options.rejected_message_retry_delay

        def publish_once() -> None:
            try:
                publish()
            except (*NOT_TAKEN, TopologyError) as error:
                if not _not_taken(error):
                    raise
                if subscription is None and isinstance(error, UnroutableError):
                    raise
                if refused == 1:
                    raise
                # `publish` above was the first attempt.
                retrying(refused - 1, pause, deadline, retry_on=_not_taken)(publish)

        self._retry(publish_once, deadline, attempts)

    def _publish_confirmed(
        self,
        message: Message,
        subscription: Subscription | None,
        deadline: float,
        resend: bool,
        queue: Reached | None,
    ) -> None:
        with self._checkout(deadline) as sending:
            if subscription is None:
                sending.prepare(message.exchange, deadline, queue)
            else:
                sending.prepare_queue(subscription, deadline)
            size = len(message.body)
            try:
                sending.connection.publish_confirmed(message, deadline - time.monotonic())
            except UnconfirmedError as error:
                if resend:
                    raise
                raise ConfirmTimeoutError(
                    f"{error}; the message may have been stored, so it was not sent again"
                ) from error
            except UnroutableError:
                if subscription is not None:
                    # Deleted since its declaration: the next attempt declares it again.
                    sending.declared.discard(subscription.queue.name)
                self._limits.accepted(size, message.exchange)
                raise
            except TopologyError as error:
                sending.refused(message.exchange, error)
                self._limits.check(size)
                raise
            self._limits.accepted(size, message.exchange)

    def with_connection(
        self, work: Callable[[Sending], T], deadline: float, attempts: int | None = None
    ) -> T:
        """Call `work` with a pooled connection, for example to declare a queue, and retry it.

        Parameters:
            work: is called with the connection. It must pass `deadline` to synchronous methods.
            deadline: of ``time.monotonic()``, for everything.
            attempts: the most attempts; None: as many as the deadline allows.
        """

        def once() -> T:
            with self._checkout(deadline) as sending:
                return work(sending)

        return self._retry(once, deadline, attempts)

    def declare(self, work: Callable[[Declaring], None], deadline: float) -> None:
        """Call `work` with a pooled connection, and retry it until the deadline."""
        self.with_connection(lambda sending: work(sending.connection), deadline)

    def _checkout(self, deadline: float) -> _Checkout:
        left = deadline - time.monotonic()
        return _Checkout(self.pool, min(left, self._options.pool_timeout))

    def _retry(self, work: Callable[[], T], deadline: float, attempts: int | None) -> T:
        # The common case first, without the cost of preparing retries.
        while time.monotonic() < deadline:
            try:
                return work()
            except _StaleConnectionError:
                continue
            except MessagingError as error:
                if attempts == 1 or not _not_sent(error) or _over(deadline):
                    raise
                break
        left = None if attempts is None else attempts - 1
        delay = self._options.connection_retry_delay
        return retrying(left, delay, deadline, retry_on=_not_sent)(work)


def _write(sending: Sending, message: Message, deadline: float, queue: Reached | None) -> None:
    # For the reason of :meth:`hbshim.messaging.pool.pool.Pool._drop_unusable`.
    written = False
    while not written:
        sending.prepare(message.exchange, deadline, queue)
        written = sending.publish(message, deadline - time.monotonic())


def _over(deadline: float) -> bool:
    """Return whether another attempt is too late: its error would only hide this one."""
    return deadline - time.monotonic() <= TOO_LITTLE


def _not_sent(error: BaseException) -> bool:
    return isinstance(error, ConnectionLostError) or may_connect_yet(error)


def _not_taken(error: BaseException) -> bool:
    # Not found: deleted since its declaration, and declared again at the next attempt.
    not_found = isinstance(error, TopologyError) and error.code == NOT_FOUND
    return not_found or isinstance(error, NOT_TAKEN)
