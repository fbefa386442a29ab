"""CALL, from the client's side: many calls at once over one connection.

How the callers wait, and which one of them reads, is in :mod:`hbshim.messaging.waiting`.

The connection is shared, so it is never closed because the time of one caller is over: what
needs an answer of the broker's goes over a connection of the pool, and so does a message that
might make the broker close the channel.

Replies come by RabbitMQ's direct reply-to, which ends with the connection. For the others
there is a queue of the client's own, which outlives it: a server whose reply may not have
arrived the direct way sends it there, and the client consumes from it again after a
reconnection. That queue is an optimization: where the broker refuses it, calls go on without it.

"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from hbshim.errors import (
    BrokerBlockedError,
    CallTimeoutError,
    ConfirmTimeoutError,
    ConnectError,
    ConnectionLostError,
    DeliveryError,
    MessagingError,
    PoolTimeoutError,
    TopologyError,
    UnroutableError,
)
from hbshim.heartbeat import service
from hbshim.messaging.amqp.connection import FORMAT, Connection
from hbshim.messaging.amqp.connector import Connector
from hbshim.messaging.amqp.sender import Sender, Sending
from hbshim.messaging.amqp.topology import Topology
from hbshim.messaging.base import OnReply, Payload, Reply, timeout_of
from hbshim.messaging.target import Target
from hbshim.messaging.waiting import PendingCalls, ReaderRole, Waiter
from hbshim.protocol.messages import DIRECT_REPLY, Delivery, Message
from hbshim.protocol.reply_codes import NOT_FOUND, PRECONDITION_FAILED, RESOURCE_LOCKED

T = TypeVar("T")

#: Seconds that the broker may take to declare the queue for late replies. A node of a cluster
#: does not answer while it waits for another one that no longer responds.
LATE_LIMIT = 4.0

#: How often a name for that queue is tried on one connection, each time another one.
LATE_NAMES = 3

#: Refusals of a queue that do not concern one of another name.
OF_THIS_NAME = (NOT_FOUND, RESOURCE_LOCKED, PRECONDITION_FAILED)

#: Unacknowledged replies to stored requests that one consumer may hold.
PREFETCH = 100

#: Seconds for closing a connection that is of no use: a caller waits for it.
CLOSE_WITHIN = 0.2

#: Seconds before the next try, where a connection was lost as soon as it was there.
LOST_AGAIN = 0.05


_log = logging.getLogger("hbshim.messaging")


class Caller:
    """The calls of one process through one driver; a forked child needs another.

    Attributes:
        pid: the process's.
    """

    def __init__(self, connector: Connector, sender: Sender, topology: Topology) -> None:
        self._connector = connector
        self._sender = sender
        self._topology = topology
        self.pid = os.getpid()
        self._line: Sending | None = None
        self._generation = 0
        # The queue for late replies: its number, the connection that consumes from it, and
        # whether the next connection does without it, because the last one was lost over it.
        self._late_number = 0
        self._late_on: Connection | None = None
        self._late_skipped = False
        self._late_cancelled = False
        self._role = ReaderRole(self._read)
        self._calls = PendingCalls(self._role)
        # Re-entrant, because such a lock refuses to be released by a thread that has it not.
        self._connecting = threading.RLock()
        self._closed = False

    def call(
        self,
        target: Target,
        payload: Payload,
        timeout: float,
        *,
        silence: float | None,
        on_reply: OnReply | None,
        mandatory: bool,
        attempts: int | None,
    ) -> Reply:
        """See :meth:`hbshim.messaging.base.Driver.call`."""
        timeout = timeout_of(timeout)
        deadline = time.monotonic() + timeout
        waiting = self._calls.begin(on_reply)
        correlation = waiting.correlation_id
        try:
            message = Message(
                payload.body,
                self._topology.rpc_exchange(target),
                self._topology.rpc_key(target),
                content_type=payload.content_type,
                message_id=correlation,
                correlation_id=correlation,
                reply_to=DIRECT_REPLY,
                # A server must not begin what no caller waits for any more.
                deadline=deadline,
                type=FORMAT,
            )
            if mandatory:
                self._require_queue(target, deadline)
            self._send(message, deadline, attempts)
            waiting.last_heard = time.monotonic()
            return self._calls.wait(waiting, deadline, silence)
        except CallTimeoutError as error:
            raise CallTimeoutError(
                f"no reply from {_described(target)} within {timeout:g} s ({error})"
            ) from None
        finally:
            self._calls.end(waiting)

    def close(self) -> None:
        """Close the connection; calls that wait fail."""
        self._closed = True
        self._role.close()
        line, self._line = self._line, None
        if line is not None:
            line.connection.close(CLOSE_WITHIN)

    def _require_queue(self, target: Target, deadline: float) -> None:
        name = self._topology.rpc(target).queue.name
        if not self.managed(lambda found: found.connection.queue_exists(name, deadline), deadline):
            raise UnroutableError(
                f"no server has a queue for {_described(target)} yet; start it, or declare its "
                "queue beforehand"
            )

    def managed(self, work: Callable[[Sending], T], deadline: float) -> T:
        """Have the broker answer something over a connection of the pool."""
        try:
            return self._sender.manage(work, deadline, None)
        except (ConnectionLostError, PoolTimeoutError, BrokerBlockedError) as error:
            raise CallTimeoutError(f"it was not sent: {error}") from None
        except ConnectError as error:
            if error.final:
                raise
            raise CallTimeoutError(f"no connection: {error}") from None

    def _send(self, message: Message, deadline: float, attempts: int | None) -> None:
        exchange, size = message.exchange, len(message.body)
        limits = self._connector.limits
        limits.check(size)
        while True:
            line = self.connected(deadline, attempts, exchange)
            if not limits.known(size, exchange) and self._late_on is line.connection:
                self._send_confirmed(message, deadline)
                return
            if exchange not in line.declared:
                self.managed(lambda found: found.prepare(exchange, deadline), deadline)
                line.declared.add(exchange)
            try:
                line.connection.publish(message, max(0.0, deadline - time.monotonic()))
            except ConnectionLostError:
                # Not sent whole, so not sent: no server has it, and it may go once more.
                self.lost(line)
                if time.monotonic() >= deadline:
                    raise CallTimeoutError("the connection was lost") from None
            else:
                return

    def _send_confirmed(self, message: Message, deadline: float) -> None:
        """Send what might make the broker close the channel where only this call notices it."""
        message.reply_to = self._late_queue()
        try:
            self._sender.send(message, deadline, None, resend=False)
        except ConfirmTimeoutError:
            # A server may have it, and its reply comes to the queue for late replies.
            return
        except (ConnectionLostError, PoolTimeoutError, DeliveryError) as error:
            raise CallTimeoutError(f"it was not confirmed: {error}") from None

    def _late_queue(self) -> str:
        return self._topology.replies(self._calls.client, self._late_number).queue.name

    def wait_once(self, waiter: Waiter, until: float, otherwise: str) -> None:
        """See :meth:`hbshim.messaging.waiting.ReaderRole.wait_once`."""
        self._role.wait_once(waiter, until, otherwise)

    def _read(self, until: float) -> bool:
        """Read from the connection; return False if another one had to be opened."""
        line = self._line
        try:
            if line is None:
                self.connected(until, None)
                return False
            if self._late_cancelled and until - time.monotonic() > LATE_LIMIT:
                self._listen_for_late(line.connection, until)
            line.connection.drain(max(0.0, until - time.monotonic()))
        except ConnectionLostError:
            if line is not None:
                self.lost(line)
        except ConnectError as error:
            if error.final:
                raise
            raise CallTimeoutError(f"no connection: {error}") from None
        return True

    def connected(self, deadline: float, attempts: int | None, exchange: str = "") -> Sending:
        """The connection, opened where there is none.

        Parameters:
            exchange: declared along with it.
        """
        line = self._line
        if line is not None and line.connection.is_open:
            return line
        left = deadline - time.monotonic()
        if left <= 0:
            raise self._no_connection()
        try:
            # In here: an exception of a signal handler may come right behind it.
            if not self._connecting.acquire(timeout=left):
                raise self._no_connection()
            line = self._line
            if line is None or not line.connection.is_open:
                if line is not None:
                    self.lost(line)
                line = self._connect(deadline, attempts, exchange)
                self._line = line
                if self._closed:
                    # Meanwhile; its connection would stay.
                    self.lost(line)
                    raise ConnectionLostError("the driver is closed; make a new one")
            return line
        finally:
            with contextlib.suppress(RuntimeError):  # never acquired
                self._connecting.release()

    def _no_connection(self) -> CallTimeoutError:
        # Another call tries, and would be the one to report why it fails.
        return CallTimeoutError(f"no connection in time: {self._connector.refused}")

    def _connect(self, deadline: float, attempts: int | None, exchange: str) -> Sending:
        while True:
            if self._closed:
                raise ConnectionLostError("the driver is closed; make a new one")
            try:
                connection = self._connector.connect(deadline, attempts)
            except ConnectError as error:
                if error.final or attempts is not None:
                    raise
                raise CallTimeoutError(f"no connection: {error}") from None
            try:
                return self._listen(connection, deadline, exchange)
            except ConnectionLostError:
                # As a broker that restarts does: it accepts the login and is gone.
                connection.close(CLOSE_WITHIN)
                if time.monotonic() + LOST_AGAIN >= deadline:
                    raise CallTimeoutError("the connection was lost") from None
                time.sleep(LOST_AGAIN)
            except BrokerBlockedError as error:
                # The broker has not answered in time. A call that waits for its reply may be
                # the one that connects, so this does not mean that its request was not sent.
                connection.close(CLOSE_WITHIN)
                raise CallTimeoutError(f"no connection: {error}") from None
            except BaseException:
                connection.close(CLOSE_WITHIN)
                raise

    def _listen(self, connection: Connection, deadline: float, exchange: str) -> Sending:
        self._generation += 1
        line = Sending(connection, self._connector.limits)
        connection.set_prefetch(PREFETCH, deadline)
        on_reply = self._on_reply(connection, False)
        connection.consume(DIRECT_REPLY, on_reply, acknowledged=False, deadline=deadline)
        skipped, self._late_skipped = self._late_skipped, False
        if not skipped:
            self._listen_for_late(connection, deadline)
        # Here no other call can be harmed when the time is over; an exchange of another type
        # is reported to the call that wants it.
        with contextlib.suppress(TopologyError):
            line.prepare(exchange, deadline)
        return line

    def _listen_for_late(self, connection: Connection, deadline: float) -> TopologyError | None:
        """Consume from the queue for late replies, under another name if one is refused.

        Returns:
            Why the broker refuses it; None where it does not. Calls go on in both cases.

        Raises:
            ConnectionLostError: also where the broker did not answer in time. Then the next
                connection does not ask for the queue.
        """
        self._late_on, self._late_cancelled = None, False
        until = min(deadline, time.monotonic() + LATE_LIMIT)
        try:
            refused = self._consume_late(connection, until)
        except (ConnectionLostError, BrokerBlockedError) as error:
            if time.monotonic() >= until:
                self._late_number += 1
                self._late_skipped = True
            raise ConnectionLostError(str(error)) from error
        if refused is None:
            self._late_on = connection
        else:
            detail = (
                f"no queue for late replies: {refused}. Calls work, but a reply is lost if the "
                "connection is lost while the call waits for it"
            )
            service.current().metrics.record("reply-queue-refused", connection.name, detail)
            _log.warning("%s: %s", connection.name, detail)
        return refused

    def _consume_late(self, connection: Connection, deadline: float) -> TopologyError | None:
        refused: TopologyError | None = None
        for _ in range(LATE_NAMES):
            late = self._topology.replies(self._calls.client, self._late_number)
            try:
                late.declare(connection, deadline)
                # The broker may take the consumer of a lost connection for alive: the newest
                # goes first.
                connection.consume(
                    late.queue.name,
                    self._on_reply(connection, True),
                    priority=self._generation,
                    on_cancelled=lambda _reason: self._on_late_cancelled(connection),
                    deadline=deadline,
                )
            except TopologyError as error:
                refused = error
                if error.code not in OF_THIS_NAME:
                    break
                self._late_number += 1
            else:
                return None
        return refused

    def _on_late_cancelled(self, connection: Connection) -> None:
        # Deleted, or the node that holds it has died; the broker ends the consumer only.
        if self._late_on is connection:
            self._late_on, self._late_cancelled = None, True

    def _on_reply(self, connection: Connection, acknowledged: bool) -> Callable[[Delivery], None]:
        calls = self._calls

        def on_reply(delivery: Delivery) -> None:
            if acknowledged:
                # Lost with its connection, it comes again, and is dropped as a repeated one.
                with contextlib.suppress(MessagingError):
                    connection.acknowledge(delivery.tag)
            kind = delivery.type or "result"
            payload = Payload(delivery.body, delivery.content_type or "application/json")
            reply = Reply(kind, payload)  # type: ignore[arg-type]
            calls.receive(delivery.correlation_id or "", reply)

        return on_reply

    def lost(self, line: Sending) -> None:
        if self._line is line:
            self._line = None
        line.connection.close(CLOSE_WITHIN)


def _described(target: Target) -> str:
    server = f" on {target.server}" if target.server else ""
    return f"topic {target.topic!r}{server}"
