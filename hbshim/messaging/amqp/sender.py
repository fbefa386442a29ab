"""Sends what needs no reply: casts, notifications, and the replies of a server.

From connections that only send: a broker short of memory stops reading from those, and the
ones that listen go on.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

from hbshim.errors import (
    ConfirmTimeoutError,
    ConnectionLostError,
    MessagingError,
    RejectedError,
    TopologyError,
    UnconfirmedError,
    UnroutableError,
)
from hbshim.messaging.amqp.connection import Connection
from hbshim.messaging.amqp.connector import Connector, may_connect_yet
from hbshim.messaging.amqp.limits import Limits
from hbshim.messaging.amqp.options import AmqpOptions
from hbshim.messaging.amqp.replies import DirectReplies
from hbshim.messaging.amqp.topology import DIRECT, Subscription
from hbshim.messaging.backoff import TOO_LITTLE, retrying
from hbshim.messaging.pool import Pool
from hbshim.protocol.messages import Message

T = TypeVar("T")

#: Seconds for closing a connection of the pool, which some caller waits for.
CLOSE_WITHIN = 0.4

#: After these, the broker has it not, and may take it if it is asked once more.
NOT_TAKEN = (RejectedError, UnroutableError)


class _LeftOverError(ConnectionLostError):
    """A connection from better days. No attempt: a pool may hold many after a restart."""


class Sending:
    """A connection that sends, and what it has declared already."""

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
        # Something may have been deleted since it was declared, or may not be written to.
        self._limits.refused(code, text, declared)
        self._on_channel_closed(code, text)

    def prepare(self, exchange: str, deadline: float) -> None:
        """Have `exchange`: to publish to one that is missing would end the channel."""
        if exchange and exchange not in self.declared:
            self.connection.declare_exchange(exchange, DIRECT, deadline)
            self.declared.add(exchange)

    def prepare_queue(self, subscription: Subscription, deadline: float) -> None:
        """Have a queue, and whatever leads to it."""
        if subscription.queue.name not in self.declared:
            subscription.declare(self.connection, deadline)
            self.declared.add(subscription.queue.name)


class _Lent:
    """A connection for the length of a `with` block; a generator's would cost three times this."""

    __slots__ = ("_pool", "_sending", "_timeout")

    def __init__(self, pool: Pool[Sending], timeout: float) -> None:
        self._pool = pool
        self._timeout = timeout

    def __enter__(self) -> Sending:
        self._sending = self._pool.acquire(self._timeout)
        return self._sending

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        sending = self._sending
        left_over = sending.used
        if error is None:
            sending.used = True
        self._pool.release(sending, kind is not None and not issubclass(kind, Exception))
        if left_over and isinstance(error, ConnectionLostError):
            raise _LeftOverError(str(error)) from error


class Sender:
    """Lends connections that send, and tries again where that helps.

    Attributes:
        pool: of the connections.
        direct_replies: those that were sent, and may not have arrived.
    """

    def __init__(self, connector: Connector, options: AmqpOptions) -> None:
        self._options = options
        self._limits = connector.limits
        self.direct_replies = DirectReplies(self)
        self.pool: Pool[Sending] = Pool(
            # The pool says how long its caller still waits.
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
            # In a child of its process, a connection drops its copy and says nothing.
            disown=lambda sending: sending.connection.close(),
        )

    def send(
        self, message: Message, deadline: float, attempts: int | None, *, resend: bool
    ) -> None:
        """Publish without a confirm, unless the broker might close the channel over it.

        Parameters:
            deadline: of ``time.monotonic()``, for everything.
            attempts: how often to try; None: as often as the time allows.
            resend: whether to send it again where the broker may have it already; False for a
                request, which two servers would execute.

        Raises:
            ConnectError, ConnectionLostError, BrokerBlockedError, PoolTimeoutError.
            ConfirmTimeoutError: the broker may or may not have it.
            PayloadError: it is larger than the broker accepts.
            TopologyError: the broker refused it for another reason.
        """
        size = len(message.body)
        self._limits.check(size)
        if self._limits.known(size, message.exchange):
            self._insist(functools.partial(self._publish, message, deadline), deadline, attempts)
            return
        # A message without a queue is no error here.
        with contextlib.suppress(UnroutableError):
            self.send_confirmed(message, None, deadline, attempts, resend=resend)

    def _publish(self, message: Message, deadline: float) -> None:
        with self._lent(deadline) as sending:
            sending.prepare(message.exchange, deadline)
            sending.connection.publish(message, deadline - time.monotonic())

    def send_confirmed(
        self,
        message: Message,
        subscription: Subscription | None,
        deadline: float,
        attempts: int | None,
        *,
        resend: bool = True,
    ) -> None:
        """Publish, and return when the broker has stored the message in a queue.

        Parameters:
            subscription: the queue, which is declared where it is missing; None: it is
                for somebody else to declare.
            resend: whether to send it again where the connection ended before the confirm.

        Raises:
            DeliveryError, ConnectError, ConnectionLostError, BrokerBlockedError,
            PoolTimeoutError.
            PayloadError: it is larger than the broker accepts.
            TopologyError: the broker refused it for another reason.
        """
        self._limits.check(len(message.body))
        publish = functools.partial(
            self._publish_confirmed, message, subscription, deadline, resend
        )
        refused = self._options.rejected_message_retry_attempts
        pause = self._options.rejected_message_retry_delay

        def insist() -> None:
            try:
                publish()
            except NOT_TAKEN as error:
                if subscription is None and isinstance(error, UnroutableError):
                    raise
                if refused == 1:
                    raise
                # The first attempt was made above.
                retrying(refused - 1, pause, deadline, retry_on=_not_taken)(publish)

        self._insist(insist, deadline, attempts)

    def _publish_confirmed(
        self,
        message: Message,
        subscription: Subscription | None,
        deadline: float,
        resend: bool,
    ) -> None:
        with self._lent(deadline) as sending:
            if subscription is None:
                sending.prepare(message.exchange, deadline)
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
                    # Deleted since: the next try declares it again.
                    sending.declared.discard(subscription.queue.name)
                self._limits.accepted(size, message.exchange)
                raise
            except TopologyError as error:
                sending.declared.discard(message.exchange)
                self._limits.refused(error.code, str(error), {message.exchange})
                self._limits.check(size)
                raise
            self._limits.accepted(size, message.exchange)

    def manage(
        self, work: Callable[[Sending], T], deadline: float, attempts: int | None = None
    ) -> T:
        """Do something else with a connection, such as declaring a queue.

        Parameters:
            work: given the connection; gives the broker's answers the same deadline.
            attempts: how often to try; None: as often as the time allows.
        """

        def once() -> T:
            with self._lent(deadline) as sending:
                return work(sending)

        return self._insist(once, deadline, attempts)

    def _lent(self, deadline: float) -> _Lent:
        left = deadline - time.monotonic()
        return _Lent(self.pool, min(left, self._options.pool_timeout))

    def _insist(self, work: Callable[[], T], deadline: float, attempts: int | None) -> T:
        # The usual case first, and without what it costs to be able to try again.
        while time.monotonic() < deadline:
            try:
                return work()
            except _LeftOverError:
                continue
            except MessagingError as error:
                if attempts == 1 or not _not_sent(error) or _over(deadline):
                    raise
                break
        left = None if attempts is None else attempts - 1
        delay = self._options.connection_retry_delay
        return retrying(left, delay, deadline, retry_on=_not_sent)(work)


def _over(deadline: float) -> bool:
    """Whether the time is over: another attempt could only hide why the last one failed."""
    return deadline - time.monotonic() <= TOO_LITTLE


def _not_sent(error: BaseException) -> bool:
    return isinstance(error, ConnectionLostError) or may_connect_yet(error)


def _not_taken(error: BaseException) -> bool:
    return isinstance(error, NOT_TAKEN)
