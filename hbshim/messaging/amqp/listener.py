"""Takes messages in over a connection that does nothing else.

One thread polls. A lost connection is made anew by the poll that finds it lost, for as long
as it takes; what the old one had delivered comes again, and what was acknowledged does not.

Whether an acknowledgement got there before its connection was lost, nobody can tell. So of
requests that are to be worked on once or not at all, the broker's own mark decides: it hands
each out once without "redelivered", and who gets it so is its only owner, for good. A copy
that is marked belongs to somebody else. Requests without a time limit, which were stored for
a server, are worked on even so.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hbshim.errors import ConnectError, ConnectionLostError, MessagingError, TopologyError
from hbshim.messaging.amqp.connection import Connection, Delivery
from hbshim.messaging.amqp.connector import Connector, may_connect_yet
from hbshim.messaging.amqp.incoming import AmqpIncoming
from hbshim.messaging.amqp.sender import Sender
from hbshim.messaging.amqp.topology import Subscription, Topology
from hbshim.messaging.backoff import retrying
from hbshim.runtime.unpatched import signals_blocked

#: Seconds that one wait lasts at most. Nothing depends on it: what ends a wait wakes it.
WAIT_AT_MOST = 60.0

#: Seconds for one attempt to connect; :meth:`AmqpListener.stop` waits for no longer.
CONNECT_LIMIT = 10.0

#: Seconds between two looks at what has arrived while nobody polls.
LOOK_EVERY = 0.2

#: Seconds that it may take to give a request back to its queue.
GIVE_BACK_LIMIT = 5.0

#: Identities of messages that are remembered, to tell a message that comes twice.
REMEMBERED = 1000


@dataclass(frozen=True, slots=True)
class Source:
    """A queue to listen to.

    Attributes:
        kept: the queue outlives the listener, so what is given back to it is not lost.
        priority: of the notifications in it.
    """

    subscription: Subscription
    kept: bool = True
    priority: str = ""

    @property
    def name(self) -> str:
        return self.subscription.queue.name


class _NotNow(Exception):  # noqa: N818
    """No connection before this wait ends; the next goes on trying."""


class Seen:
    """The latest identities; a message that comes again is known by its own."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._order: deque[str] = deque()

    def before(self, identity: str) -> bool:
        """Whether `identity` was here already; from now on it was."""
        if not identity:
            return False
        if identity in self._known:
            return True
        self._known.add(identity)
        self._order.append(identity)
        if len(self._order) > REMEMBERED:
            self._known.discard(self._order.popleft())
        return False


class AmqpListener:
    """See :class:`hbshim.messaging.base.Listener`.

    Parameters:
        sources: what to listen to.
        prefetch: unacknowledged messages that each consumer may hold.
        acknowledge_first: acknowledge each message as it is handed out, and so before
            anybody works on it: it is worked on once, or not at all. Else whoever works on
            it acknowledges it.
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
    ) -> None:
        self._connector = connector
        self._sender = sender
        self._topology = topology
        self._sources = sources
        self._prefetch = prefetch
        self._acknowledge_first = acknowledge_first
        self._retry_delay = retry_delay
        self._pid = os.getpid()
        self._connection: Connection | None = None
        self._consumers: list[str] = []
        self._inbox: deque[tuple[AmqpIncoming, Source]] = deque()
        self._seen = Seen()
        self._broken = False
        self._paused = False
        self._stopped = False
        self._changed = threading.Event()
        self._ended = threading.Event()
        self._polling = threading.Lock()
        self._keeper: threading.Thread | None = None

    def open(self, timeout: float) -> bool:
        with self._polling:
            deadline = time.monotonic() + timeout
            while not (self._consumers or self._paused or self._stopped):
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._take_in(left, drain=False)
            return True

    def poll(
        self, timeout: float | None = None, batch_size: int = 1, batch_timeout: float | None = None
    ) -> list[AmqpIncoming]:
        with self._polling:
            deadline = None if timeout is None else time.monotonic() + timeout
            batch: list[AmqpIncoming] = []
            while len(batch) < batch_size:
                if os.getpid() != self._pid:
                    break  # a green thread that was forked with the rest: its parent listens
                if self._consumers and (self._stopped or self._paused):
                    self._withdraw()
                if self._inbox:
                    self._hand_out(batch)
                    if len(batch) == 1 and batch_timeout is not None:
                        until = time.monotonic() + batch_timeout
                        deadline = until if deadline is None else min(deadline, until)
                    continue
                if batch and batch_timeout is None:
                    break
                if self._stopped:
                    break
                left = WAIT_AT_MOST if deadline is None else deadline - time.monotonic()
                if left <= 0 and deadline is not None:
                    break
                self._take_in(min(left, WAIT_AT_MOST))
            return batch

    def _hand_out(self, batch: list[AmqpIncoming]) -> None:
        incoming, _ = self._inbox.popleft()
        if incoming.expires and self._keeper is None:
            self._keeper = threading.Thread(target=self._keep, name="hbshim-keeper", daemon=True)
            with signals_blocked():
                self._keeper.start()
        if incoming.expired():
            incoming.acknowledge()
            return
        if self._acknowledge_first:
            acknowledged = incoming.acknowledge()
            if incoming.expires:
                # Ours even if the acknowledgement is lost: see this module's description.
                if incoming.redelivered:
                    return
            elif not acknowledged or self._seen.before(incoming.message_id):
                return  # not acknowledged: it comes again, here or to another server
        batch.append(incoming)

    def _keep(self) -> None:
        """Take in what arrives while all who poll are at work, so that its age is known."""
        while not self._ended.wait(LOOK_EVERY):
            if self._polling.acquire(False):
                try:
                    # What is lost is found, and made anew, by who polls.
                    with contextlib.suppress(MessagingError):
                        if self._connection is not None and self._consumers:
                            self._connection.drain(0)
                finally:
                    self._polling.release()

    def pause(self) -> None:
        self._paused = True
        self._wake()
        self._withdraw_if_nobody_polls()

    def resume(self) -> None:
        self._paused = False
        self._wake()

    def stop(self) -> None:
        self._stopped = True
        self._wake()
        self._withdraw_if_nobody_polls()

    def close(self) -> None:
        if os.getpid() != self._pid:
            return  # the parent listens; its locks tell nothing here
        self.stop()
        self._ended.set()
        # A poll that is under way ends first: it is the one that uses the connection.
        with self._polling:
            self._withdraw()
            self._drop()

    def _withdraw_if_nobody_polls(self) -> None:
        """Who waits for a request must not wait for what all the others here are busy with."""
        if self._polling.acquire(False):
            try:
                self._withdraw()
            finally:
                self._polling.release()

    def _wake(self) -> None:
        self._changed.set()
        connection = self._connection
        if connection is not None:
            connection.wake()

    def _take_in(self, left: float, *, drain: bool = True) -> None:
        self._changed.clear()
        try:
            if self._broken:
                self._drop()
            connection = self._connection or self._connect(time.monotonic() + left)
            if connection is None:
                return
            if not (self._consumers or self._paused or self._stopped):
                self._consume(connection)
            if drain and not (self._stopped or self._changed.is_set()):
                connection.drain(left)
        except ConnectionLostError:
            self._drop()
        except TopologyError:
            # Some of the queues may have their consumers: the next turn begins afresh.
            self._drop()
            raise

    def _connect(self, deadline: float) -> Connection | None:
        # What ends the listener ends the pause between two attempts, too.
        attempts = retrying(
            None,
            self._retry_delay,
            deadline,
            retry_on=may_connect_yet,
            sleep=self._changed.wait,  # type: ignore[arg-type]
        )
        try:
            self._connection = attempts(self._connect_once, deadline)
        except _NotNow:
            pass
        except ConnectError as error:
            if error.final:
                raise
        return self._connection

    def _connect_once(self, deadline: float) -> Connection:
        left = deadline - time.monotonic()
        if self._stopped or left <= 0:
            raise _NotNow
        return self._connector.connect(time.monotonic() + min(left, CONNECT_LIMIT), attempts=1)

    def _consume(self, connection: Connection) -> None:
        connection.set_prefetch(self._prefetch)
        for source in self._sources:
            self._declare(connection, source)
            tag = connection.consume(
                source.name,
                self._on_delivery(source),
                on_cancelled=self._on_cancelled,
            )
            self._consumers.append(tag)

    def _declare(self, connection: Connection, source: Source) -> None:
        subscription = source.subscription
        try:
            subscription.declare(connection)
        except TopologyError:
            # Somebody declared the queue with a lifetime of his choice: it stays as it is.
            if subscription.queue.exclusive or not connection.queue_exists(subscription.queue.name):
                raise
            connection.bind(
                subscription.queue.name, subscription.exchange, subscription.routing_key
            )

    def _on_delivery(self, source: Source) -> Callable[[Delivery], None]:
        def on_delivery(delivery: Delivery) -> None:
            incoming = AmqpIncoming(delivery, self._sender, self._topology, source.priority)
            self._inbox.append((incoming, source))

        return on_delivery

    def _on_cancelled(self) -> None:
        # The queue was deleted. With a new connection everything is declared afresh.
        self._broken = True

    def _withdraw(self) -> None:
        """Stop the consumers, and give back what nobody has begun."""
        consumers, self._consumers = self._consumers, []
        connection = self._connection
        try:
            if connection is not None and consumers:
                for tag in consumers:
                    connection.cancel(tag)
                # What had arrived before the broker agreed to it.
                connection.drain(0)
        except MessagingError:
            self._drop()
        entries, self._inbox = self._inbox, deque()
        for incoming, source in entries:
            if not (source.kept and self._give_back(incoming, source)):
                self._inbox.append((incoming, source))

    def _give_back(self, incoming: AmqpIncoming, source: Source) -> bool:
        """Whether another listener gets it now; else it is ours to work on."""
        if not (self._acknowledge_first and incoming.expires):
            incoming.requeue()
            return True
        # Requeued, it would be marked as redelivered.
        message = None if incoming.redelivered else incoming.again(source.name)
        if message is not None:
            try:
                self._sender.send_confirmed(message, None, time.monotonic() + GIVE_BACK_LIMIT, 1)
            except MessagingError:
                return False
        incoming.acknowledge()
        return True

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        self._broken = False
        self._consumers.clear()
        # What is not acknowledged comes again; what is ours whatever comes, stays.
        self._inbox = deque(
            entry
            for entry in self._inbox
            if self._acknowledge_first and entry[0].expires and not entry[0].redelivered
        )
        if connection is not None:
            with contextlib.suppress(MessagingError):
                connection.close()
