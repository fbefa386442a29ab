"""A listener over a broker: one connection that only consumes, and a consumer for each queue.

A poll that finds the connection lost opens a new one. Pauses between attempts grow until messages
arrive again or the connection has lasted. Polling itself is in :mod:`hbshim.messaging.polling`.

If the broker refuses a queue, the listener retries that queue, and the consumers of the others are
not affected.
"""

from __future__ import annotations

import contextlib
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from hbshim.errors import (
    ConnectError,
    MessagingError,
    OptionError,
    PayloadError,
    TopologyError,
    UnsupportedError,
)
from hbshim.messaging.backoff import Backoff
from hbshim.messaging.base import CLOSE_LIMIT
from hbshim.messaging.inbox import Received
from hbshim.messaging.polling import SHORTEST_CLOSE, WAIT_AT_MOST, Pollable, PollingListener
from hbshim.messaging.reporting import LOG
from hbshim.protocol.reply_codes import NOT_FOUND, RESOURCE_LOCKED

#: Seconds for one attempt to connect.
CONNECT_LIMIT = 10.0

#: The shortest bound of the first pause between two attempts to connect or to consume, and the
#: longest pause, in seconds.
SHORTEST_PAUSE, LONGEST_PAUSE = 0.05, 5.0

#: Seconds after which a connection counts as healthy, even if it has delivered nothing.
HEALTHY_AFTER = 10.0

#: Reply codes with which the broker refuses a queue that may be available later: its node is down,
#: or the connection that owns it has ended and the broker has not noticed yet.
PASSING = (NOT_FOUND, RESOURCE_LOCKED)


class Consuming(Pollable, Protocol):
    """What such a listener needs of a connection.

    Attributes:
        name: host and port, for messages.
    """

    @property
    def name(self) -> str: ...


M = TypeVar("M", bound=Received)
C = TypeVar("C", bound=Consuming)
D = TypeVar("D")


@dataclass(frozen=True, slots=True)
class Source:
    """A queue to listen to.

    Attributes:
        subscription: called for each connection; it may return a new name each time.
        kept: the queue exists longer than the listener, so requeued messages are not lost. A
            queue that is not kept is optional: a listener works without it.
        priority: of the notifications in it.
        later: a requeued message is stored for a later attempt, even if it has a time limit.
    """

    subscription: Callable[[], Any]
    kept: bool = True
    priority: str = ""
    later: bool = False


class Consumer:
    """A source, and its consumer.

    Attributes:
        tag: of the consumer; None while there is none.
        subscription: the queue that it consumes from, or tries to.
        refused: the error with which the broker refused the last attempt.
    """

    def __init__(self, source: Source, backoff: Backoff) -> None:
        self.source = source
        self.backoff = backoff
        self.tag: Any = None
        self.subscription: Any = None
        self.refused: MessagingError | None = None

    @property
    def hopeless(self) -> bool:
        """Whether it was refused for a reason that does not go away by itself."""
        error = self.refused
        return error is not None and not (
            isinstance(error, TopologyError) and error.code in PASSING
        )


class ConsumingListener(PollingListener[M, C]):
    """See :class:`hbshim.messaging.base.Listener`.

    Parameters:
        sources: the queues to listen to.
        acknowledge_first: acknowledge each message when it is handed out, before it is processed:
            it is processed at most once. Otherwise it is acknowledged after its processing.
        retry_delay: bound of the first pause before another attempt to connect, in seconds.

    Attributes:
        reconnects: the number of connections opened after the first one.

    Raises:
        OptionError: there is no source.
    """

    def __init__(
        self, sources: Sequence[Source], *, acknowledge_first: bool, retry_delay: float
    ) -> None:
        if not sources:
            raise OptionError("there is no queue to listen to; name at least one topic")
        super().__init__(acknowledge_first=acknowledge_first)
        self.reconnects = -1
        delay = max(retry_delay, SHORTEST_PAUSE)
        self._backoff = Backoff(delay, LONGEST_PAUSE)
        self._consumers = [Consumer(each, Backoff(delay, LONGEST_PAUSE)) for each in sources]
        self._connected_at = 0.0
        # Every queue has its consumer.
        self._complete = False

    # -- what a driver's listener implements -----------------------------------

    @abstractmethod
    def _open_connection(self, deadline: float) -> C:
        """Open a connection, with one attempt; the deadline is of ``time.monotonic()``."""

    @abstractmethod
    def _start(self, connection: C, consumer: Consumer, deadline: float | None) -> None:
        """Declare the queue of a consumer, and consume from it: set its `tag`.

        Parameters:
            deadline: of ``time.monotonic()``; None: the broker has the time that a healthy one
                needs at most.

        Raises:
            TopologyError, PayloadError: it is refused.
        """

    @abstractmethod
    def _stop(self, connection: C, tags: Sequence[Any], deadline: float) -> None:
        """Stop consumers, and receive what was on its way."""

    # -- what polling calls ------------------------------------------------------

    def _check_refusals(self) -> None:
        for consumer in self._consumers:
            if consumer.hopeless and consumer.refused is not None:
                error, consumer.refused = consumer.refused, None
                consumer.backoff.reset()
                # Another thread may be reporting it.
                with contextlib.suppress(ValueError):
                    self._errors.remove(error)
                # The owner may never use this listener again.
                self._drop()
                raise error

    def _serves(self) -> bool:
        """Whether every queue has its consumer; an optional queue was at least tried."""
        return self._connection is not None and all(
            each.tag is not None or (each.refused is not None and not each.source.kept)
            for each in self._consumers
        )

    def _receive(self, left: float, *, drain: bool = True) -> None:
        self._changed.clear()
        deadline = time.monotonic() + left
        # A poll takes longer rather than begin anew each time at a slow broker.
        answer_by = None if drain else deadline
        try:
            connection = self._connection or self._connect(left, answer_by)
            if connection is None:
                return
            if not (self._complete or self._paused or self._stopped):
                self._consume(connection, answer_by)
            if drain and not (self._stopped or self._changed.is_set()):
                left = deadline - time.monotonic()
                if not self._complete:
                    left = min(left, self._next_attempt())
                connection.drain(max(0.0, left))
        except MessagingError as error:
            if isinstance(error, ConnectError):
                raise
            self._lose(error)

    def _connect(self, left: float, answer_by: float | None) -> C | None:
        backoff = self._backoff
        pause = backoff.left()
        if pause > 0:
            # Stopping the listener ends the pause, too.
            self._changed.wait(min(pause, left))
            return None
        if self._stopped:
            return None
        try:
            connection = self._open_connection(time.monotonic() + min(left, CONNECT_LIMIT))
        except ConnectError as error:
            if error.final:
                backoff.fail()
                raise
            # The first failures are reported, then none until it works again.
            if backoff.grows:
                self._errors.append(error)
            backoff.fail()
            return None
        except BaseException:
            backoff.fail()
            raise
        self._connected_at = time.monotonic()
        self.reconnects += 1
        if self.reconnects:
            LOG.info("listening again, over a new connection to %s", connection.name)
        self._connection = connection
        self._connected(connection, answer_by)
        return connection

    def _connected(self, connection: C, deadline: float | None) -> None:
        """Prepare a new connection; `deadline` as for :meth:`_start`."""

    def _consume(self, connection: C, deadline: float | None) -> None:
        for consumer in self._consumers:
            if consumer.tag is None and not consumer.backoff.left():
                try:
                    if consumer.subscription is None:
                        consumer.subscription = consumer.source.subscription()
                    self._start(connection, consumer, deadline)
                    self._consuming = True
                except (TopologyError, PayloadError, UnsupportedError) as error:
                    consumer.subscription = None
                    if consumer.backoff.grows:
                        self._errors.append(error)
                    consumer.refused = error
                    consumer.backoff.fail()
                else:
                    consumer.refused = None
        self._complete = all(each.tag is not None for each in self._consumers)

    def _next_attempt(self) -> float:
        waits = [each.backoff.left() for each in self._consumers if each.tag is None]
        return min(waits) if waits and not self._paused else WAIT_AT_MOST

    def _wait_limit(self) -> float:
        left = super()._wait_limit()
        return left if self._complete else min(left, self._next_attempt())

    def _receiving(self, consumer: Consumer, make: Callable[[D], M]) -> Callable[[D], None]:
        """Return what puts the deliveries to a consumer into the inbox, made into messages."""
        put, kept = self._inbox.put, consumer.source.kept

        def on_delivery(delivery: D) -> None:
            put((make(delivery), kept))
            self._delivered(consumer)

        return on_delivery

    def _delivered(self, consumer: Consumer) -> None:
        """Note that messages arrive."""
        if self._backoff.failures or consumer.backoff.failures:
            self._backoff.reset()
            consumer.backoff.reset()

    def _cancelled(self, consumer: Consumer) -> None:
        """Note that the broker has ended a consumer."""
        consumer.tag = None
        consumer.subscription = None
        self._complete = False
        consumer.backoff.fail()

    # -- the end -------------------------------------------------------------

    def _stop_consuming(self) -> None:
        connection = self._connection
        tags = [each.tag for each in self._consumers if each.tag is not None]
        self._consuming = self._complete = False
        for consumer in self._consumers:
            consumer.tag = None
        try:
            if connection is not None and tags:
                self._stop(connection, tags, min(time.monotonic() + CLOSE_LIMIT, self._stop_by))
        except MessagingError as error:
            self._lose(error)
        self._inbox.return_to_queue(stopped=self._stopped)

    def _lose(self, error: Exception) -> None:
        """Report a lost connection; the next poll opens a new one, after a pause."""
        if self._connection is not None and not self._stopped:
            if time.monotonic() - self._connected_at >= HEALTHY_AFTER:
                self._backoff.reset()
            if self._backoff.grows:
                self._errors.append(error)
            self._backoff.fail()
        self._drop()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        self._consuming = self._complete = False
        for consumer in self._consumers:
            consumer.tag = consumer.subscription = None
        self._inbox.lose()
        if connection is not None:
            connection.close(SHORTEST_CLOSE)
