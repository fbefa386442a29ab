"""Receives messages over a connection that does nothing else.

One thread polls. The poll that finds the connection lost opens a new one. One loop per listener
does so, with pauses that grow until messages arrive again or the connection has lasted.

Each queue has its consumer. A queue that the broker refuses is tried again apart, and the
consumers of the others go on meanwhile.

A message is run once, or not at all, if it is acknowledged before the work begins. What the
broker redelivers is run unless this process has begun it: see
:mod:`hbshim.messaging.amqp.ledger`, and docs/messaging.md for the limits of this promise.

Longer than others: connecting, consuming, handing out and giving back change the same
state under one lock.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from hbshim.errors import (
    ConnectError,
    ConnectionLostError,
    MessagingError,
    OptionError,
    PayloadError,
    TopologyError,
)
from hbshim.messaging.amqp.connection import Connection
from hbshim.messaging.amqp.connector import Connector
from hbshim.messaging.amqp.incoming import AmqpIncoming
from hbshim.messaging.amqp.ledger import Begun, Key, ledger
from hbshim.messaging.amqp.retries import Retries
from hbshim.messaging.amqp.sender import Sender
from hbshim.messaging.amqp.topology import Subscription, Topology
from hbshim.messaging.backoff import Backoff
from hbshim.messaging.reporting import LOG, OnError, log_error
from hbshim.protocol.messages import Delivery
from hbshim.protocol.reply_codes import NOT_FOUND, RESOURCE_LOCKED
from hbshim.runtime.unpatched import start_without_signals

#: Seconds that one wait lasts at most. Nothing depends on it: what ends a wait wakes it.
WAIT_AT_MOST = 60.0

#: Seconds for one attempt to connect.
CONNECT_LIMIT = 10.0

#: Seconds between two looks at what has arrived while no thread polls.
LOOK_EVERY = 0.2

#: Seconds that stopping and closing may take, unless the caller says how many.
CLOSE_LIMIT = 5.0

#: Seconds for the broker to confirm the end of a connection when no more time is left.
SHORTEST_CLOSE = 0.1

#: Seconds of the first pause between two attempts to connect or to consume, at least, and of
#: the longest: a broker that is back is found within these.
SHORTEST_PAUSE, LONGEST_PAUSE = 0.05, 5.0

#: Seconds after which a connection counts as healthy, though nothing was delivered over it.
HEALTHY_AFTER = 10.0

#: Messages of one connection that are remembered when it is lost: those begun last.
SUSPECTS = 1000

#: Codes with which the broker refuses a queue that may be there for us later: its node is down,
#: or the connection that owns it has ended and the broker does not know yet.
PASSING = (NOT_FOUND, RESOURCE_LOCKED)

#: How the broker refuses a queue whose lifetime is another one.
_LIFETIME = re.compile(
    r"inequivalent arg 'x-expires' .* current is (none|(the value )?'(?P<milliseconds>\d+)')"
)


@dataclass(frozen=True, slots=True)
class Source:
    """A queue to listen to.

    Attributes:
        subscription: called for each connection; what it returns may have a new name each time.
        kept: the queue outlives the listener, so what is given back to it is not lost. One
            that is not kept does not prevent service: a listener works without it.
        priority: of the notifications in it.
        later: what is requeued from it is stored for a later attempt, time limit or not.
    """

    subscription: Callable[[], Subscription]
    kept: bool = True
    priority: str = ""
    later: bool = False


class _Consumer:
    """A source, and what the listener knows of it.

    Attributes:
        tag: of the consumer at the broker; None while there is none.
        subscription: that it consumes from, or tries to.
        refused: why the broker did not let it consume the last time.
    """

    def __init__(self, source: Source, backoff: Backoff) -> None:
        self.source = source
        self.backoff = backoff
        self.tag: str | None = None
        self.subscription: Subscription | None = None
        self.refused: MessagingError | None = None

    @property
    def hopeless(self) -> bool:
        """Whether it was refused for a reason that does not pass by itself."""
        error = self.refused
        return error is not None and not (
            isinstance(error, TopologyError) and error.code in PASSING
        )


class AmqpListener:
    """See :class:`hbshim.messaging.base.Listener`.

    Parameters:
        sources: what to listen to.
        prefetch: unacknowledged messages that each consumer may hold.
        acknowledge_first: acknowledge each message as it is handed out, and so before the work
            on it begins: it is run once, or not at all. Else it is acknowledged at its end.
        retry_delay: seconds, the bound of the first pause before a new attempt to connect.

    Attributes:
        reconnects: connections opened after the first one.

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
        if not sources:
            raise OptionError("there is no queue to listen to; name at least one topic")
        self._connector = connector
        self._sender = sender
        self._topology = topology
        self._prefetch = prefetch
        self._acknowledge_first = acknowledge_first
        self._retries = retries
        self._pid = os.getpid()
        self._ledger = ledger()
        self._latest: deque[Key] = deque(maxlen=SUSPECTS)
        self.on_error: OnError = log_error
        self.reconnects = -1
        delay = max(retry_delay, SHORTEST_PAUSE)
        self._backoff = Backoff(delay, LONGEST_PAUSE)
        self._consumers = [_Consumer(each, Backoff(delay, LONGEST_PAUSE)) for each in sources]
        self._connection: Connection | None = None
        self._connected_at = 0.0
        self._inbox: deque[tuple[AmqpIncoming, Source]] = deque()
        self._errors: deque[Exception] = deque()
        self._channel_closed = False
        # Some of the queues have their consumers; all of them have.
        self._consuming = self._complete = False
        self._paused = False
        self._stopped = False
        self._stop_by = float("inf")
        self._changed = threading.Event()
        self._ended = threading.Event()
        self._polling = threading.Lock()
        self._keeper: threading.Thread | None = None

    # -- what the owner calls ------------------------------------------------

    @property
    def _inherited(self) -> bool:
        """Whether this is a forked child: its parent listens, and its locks are of no use here."""
        return os.getpid() != self._pid

    def open(self, timeout: float) -> bool:
        if self._inherited:
            return False
        deadline = time.monotonic() + timeout
        try:
            with self._polling:
                return self._open(deadline)
        finally:
            self._after_polling()

    def _open(self, deadline: float) -> bool:
        while not (self._paused or self._stopped):
            for consumer in self._consumers:
                if consumer.hopeless and consumer.refused is not None:
                    error, consumer.refused = consumer.refused, None
                    consumer.backoff.reset()
                    if error in self._errors:
                        self._errors.remove(error)
                    # The owner may never use this listener again.
                    self._drop()
                    raise error
            if self._serves():
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._receive(left, drain=False)
            if self._connection is not None and not self._serves():
                # Without a connection the pause is waited for where it is opened.
                self._changed.wait(min(left, self._next_attempt()))
        return True

    def _serves(self) -> bool:
        """Whether every queue has its consumer; one that is not kept was tried at least."""
        return self._connection is not None and all(
            each.tag is not None or (each.refused is not None and not each.source.kept)
            for each in self._consumers
        )

    def poll(
        self, timeout: float | None = None, batch_size: int = 1, batch_timeout: float | None = None
    ) -> list[AmqpIncoming]:
        if self._inherited:
            return []
        deadline = None if timeout is None else time.monotonic() + timeout
        batch: list[AmqpIncoming] = []
        over = False
        while not over:
            try:
                with self._polling:
                    over = self._poll(batch, deadline, batch_size, batch_timeout)
            finally:
                self._after_polling()
            if not over:
                self._retries.held.retry()
        return batch

    def _poll(
        self,
        batch: list[AmqpIncoming],
        deadline: float | None,
        batch_size: int,
        batch_timeout: float | None,
    ) -> bool:
        """Fill `batch`; return False if something is to be done without the lock first."""
        while len(batch) < batch_size:
            if self._consuming and (self._stopped or self._paused):
                self._withdraw()
            if self._inbox:
                # One that failed before is alone, lest it harms the others of its batch again.
                if batch and (self._inbox[0][0].attempts or batch[0].attempts):
                    break
                self._hand_out(batch)
                if len(batch) == 1 and batch_timeout is not None:
                    until = time.monotonic() + batch_timeout
                    deadline = until if deadline is None else min(deadline, until)
                continue
            if batch and (batch_timeout is None or batch[0].attempts):
                break
            if self._stopped:
                break
            hold = self._retries.held.left()
            if self._errors or hold <= 0:
                return bool(batch)
            left = WAIT_AT_MOST if deadline is None else deadline - time.monotonic()
            if left <= 0 and deadline is not None:
                break
            self._receive(min(left, hold, WAIT_AT_MOST))
            if self._inherited:
                break  # a green thread that was forked with the rest: its parent listens
        return True

    def pause(self) -> None:
        self._paused = True
        self._wake()
        self._after_polling()

    def resume(self) -> None:
        self._paused = False
        self._wake()

    def stop(self, timeout: float | None = None) -> None:
        limit = CLOSE_LIMIT if timeout is None else timeout
        self._stop_by = min(self._stop_by, time.monotonic() + limit)
        self._stopped = True
        self._wake()
        self._after_polling()

    def close(self, timeout: float = CLOSE_LIMIT) -> None:
        if self._inherited:
            return
        deadline = time.monotonic() + timeout
        self._ended.set()
        self.stop(timeout)
        # A poll that is under way ends first: it is the one that uses the connection.
        if self._polling.acquire(True, max(SHORTEST_CLOSE, timeout)):
            try:
                self._end(deadline)
            finally:
                self._polling.release()
            return
        # The poll waits for something that cannot be interrupted, such as name resolution. It
        # closes what it opened when it returns. The broker requeues what is unacknowledged.
        connection = self._connection
        if connection is not None:
            connection.close(SHORTEST_CLOSE)

    def _end(self, deadline: float) -> None:
        self._withdraw()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close(max(SHORTEST_CLOSE, deadline - time.monotonic()))

    def _wake(self) -> None:
        if self._inherited:
            return
        self._changed.set()
        connection = self._connection
        if connection is not None:
            connection.wake()

    def _after_polling(self) -> None:
        """Do what became due while the lock was held; to be called without it."""
        while self._due() and not self._inherited and self._polling.acquire(False):
            try:
                self._withdraw()
                if self._ended.is_set():
                    self._end(0.0)
            finally:
                self._polling.release()
        while self._errors:
            self.on_error(self._errors.popleft())

    def _due(self) -> bool:
        """Whether consumers are to be withdrawn, or a connection is to be closed."""
        if self._ended.is_set() and self._connection is not None:
            return True
        return self._consuming and (self._stopped or self._paused)

    # -- handing out ---------------------------------------------------------

    def _hand_out(self, batch: list[AmqpIncoming]) -> None:
        if self._keeper is None and self._inbox[0][0].expires:
            self._start_keeper()
        incoming, source = self._inbox.popleft()
        if incoming.expired():
            incoming.acknowledge()
            return
        if incoming.redelivered and source.kept and incoming.renew():
            return
        if self._acknowledge_first:
            if self._begin_once(incoming, source):
                batch.append(incoming)
            return
        key = incoming.key
        if key is not None:
            state = self._ledger.begin(key, incoming, check=incoming.may_be_copy)
            if state is Begun.RUNNING:
                return
            if state is Begun.DONE:
                incoming.acknowledge()
                return
            self._latest.append(key)
            incoming.enter(self._ledger, key)
        batch.append(incoming)

    def _begin_once(self, incoming: AmqpIncoming, source: Source) -> bool:
        """Acknowledge a message; return whether work on it is to begin."""
        key = incoming.key
        if key is not None and not self._ledger.begin_once(key, check=incoming.may_be_copy):
            incoming.acknowledge()
            return False
        if not incoming.acknowledge() and source.kept:
            # It is the broker's, and is redelivered, here or to another server.
            if key is not None:
                self._ledger.forget(key)
            return False
        if key is not None:
            self._latest.append(key)
        return True

    def _start_keeper(self) -> None:
        keeper = threading.Thread(target=self._keep, name="hbshim-keeper", daemon=True)
        try:
            start_without_signals(keeper.start)
        except RuntimeError as error:
            # No thread can be started for now; the next message tries again.
            self._errors.append(error)
            return
        self._keeper = keeper

    def _keep(self) -> None:
        """Receive what arrives while all that poll are at work, so that its age is known."""
        while not self._ended.wait(LOOK_EVERY):
            if self._polling.acquire(False):
                try:
                    if self._connection is not None and self._consuming:
                        self._connection.drain(0)
                except MessagingError:
                    pass  # what is lost is found, and opened anew, by a thread that polls
                except Exception:
                    LOG.exception("the prefetch drain thread continues after an error")
                finally:
                    self._polling.release()
                self._after_polling()

    # -- connecting and consuming --------------------------------------------

    def _receive(self, left: float, *, drain: bool = True) -> None:
        self._changed.clear()
        deadline = time.monotonic() + left
        try:
            connection = self._connection or self._connect(left)
            if connection is None:
                return
            if not (self._complete or self._paused or self._stopped):
                self._consume(connection)
            if drain and not (self._stopped or self._changed.is_set()):
                left = deadline - time.monotonic()
                if not self._complete:
                    left = min(left, self._next_attempt())
                connection.drain(max(0.0, left))
        except MessagingError as error:
            if isinstance(error, ConnectError):
                raise
            self._lose(error)

    def _connect(self, left: float) -> Connection | None:
        backoff = self._backoff
        pause = backoff.left()
        if pause > 0:
            # What ends the listener ends the pause, too.
            self._changed.wait(min(pause, left))
            return None
        if self._stopped:
            return None
        try:
            limit = time.monotonic() + min(left, CONNECT_LIMIT)
            connection = self._connector.connect(limit, attempts=1)
        except ConnectError as error:
            if error.final:
                backoff.fail()
                raise
            # Each of the first failures is reported, then none until it works again.
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
        connection.set_prefetch(self._prefetch)
        return connection

    def _consume(self, connection: Connection) -> None:
        for consumer in self._consumers:
            if consumer.tag is None and not consumer.backoff.left():
                try:
                    self._start(connection, consumer)
                except (TopologyError, PayloadError) as error:
                    consumer.subscription = None
                    if consumer.backoff.grows:
                        self._errors.append(error)
                    consumer.refused = error
                    consumer.backoff.fail()
                else:
                    consumer.refused = None
        self._complete = all(each.tag is not None for each in self._consumers)

    def _start(self, connection: Connection, consumer: _Consumer) -> None:
        source = consumer.source
        if consumer.subscription is None:
            consumer.subscription = source.subscription()
        subscription = consumer.subscription
        self._declare(connection, subscription)
        consumer.tag = connection.consume(
            subscription.queue.name,
            self._on_delivery(consumer, subscription.queue.name),
            on_cancelled=self._on_cancelled(consumer),
        )
        self._consuming = True
        self._channel_closed = False

    def _declare(self, connection: Connection, subscription: Subscription) -> None:
        queue = subscription.queue
        try:
            subscription.declare(connection)
        except TopologyError as error:
            found = _LIFETIME.search(str(error))
            if found is None:
                raise
            # The queue was declared with another lifetime: it keeps that.
            arguments = dict(queue.arguments)
            if found["milliseconds"]:
                arguments["x-expires"] = int(found["milliseconds"])
            there = replace(queue, expires=None, arguments=arguments)
            replace(subscription, queue=there).declare(connection)

    def _next_attempt(self) -> float:
        """Seconds until a queue that was refused is to be tried again."""
        waits = [each.backoff.left() for each in self._consumers if each.tag is None]
        return min(waits) if waits and not self._paused else WAIT_AT_MOST

    def _on_delivery(self, consumer: _Consumer, queue: str) -> Callable[[Delivery], None]:
        sender, topology, retries, source = (
            self._sender,
            self._topology,
            self._retries,
            consumer.source,
        )
        inbox, priority, later = self._inbox, source.priority, source.later
        connecting, consuming = self._backoff, consumer.backoff

        def on_delivery(delivery: Delivery) -> None:
            incoming = AmqpIncoming(
                delivery, sender, topology, priority, queue=queue, retries=retries, later=later
            )
            inbox.append((incoming, source))
            if connecting.failures or consuming.failures:
                connecting.reset()
                consuming.reset()

        return on_delivery

    def _on_cancelled(self, consumer: _Consumer) -> Callable[[str | None], None]:
        def on_cancelled(reason: str | None) -> None:
            consumer.tag = None
            consumer.subscription = None
            self._complete = False
            consumer.backoff.fail()
            if reason is not None:
                # With the channel, all that was delivered over it has returned to its queues.
                self._forget_deliveries()
                if not self._channel_closed:
                    # Once for all of its consumers.
                    self._channel_closed = True
                    self._errors.append(_channel_closed(reason))

        return on_cancelled

    # -- the end -------------------------------------------------------------

    def _withdraw(self) -> None:
        """Stop the consumers, and give back what was not begun."""
        connection = self._connection
        tags = [each.tag for each in self._consumers if each.tag is not None]
        self._consuming = self._complete = False
        for consumer in self._consumers:
            consumer.tag = None
        try:
            if connection is not None and tags:
                deadline = min(time.monotonic() + CLOSE_LIMIT, self._stop_by)
                for tag in tags:
                    connection.cancel(tag, deadline)
                # What had arrived before the broker agreed to it.
                connection.drain(0)
        except MessagingError as error:
            self._lose(error)
        entries = list(self._inbox)
        self._inbox.clear()
        for incoming, source in entries:
            # The queue of a listener that stops is deleted with the connection.
            if source.kept or not self._stopped:
                incoming.give_back()
            else:
                self._inbox.append((incoming, source))

    def _forget_deliveries(self) -> None:
        """Drop what the broker redelivers; what was in a deleted queue is handed out."""
        entries = [each for each in self._inbox if not each[1].kept]
        self._inbox.clear()
        self._inbox.extend(entries)

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
        self._forget_deliveries()
        self._ledger.suspect(self._latest)
        self._latest.clear()
        if connection is not None:
            connection.close(SHORTEST_CLOSE)


def _channel_closed(reason: str) -> ConnectionLostError:
    remedy = ""
    if "timed out" in reason or "timeout" in reason:
        remedy = (
            "; the work takes longer than RabbitMQ's consumer_timeout: raise that, or acknowledge "
            "before the work. What is running is not begun again by this process"
        )
    return ConnectionLostError(f"the channel of the consumers was {reason}{remedy}")
