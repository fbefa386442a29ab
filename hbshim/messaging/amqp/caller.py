"""The client side of CALL: many concurrent calls over one connection.

:mod:`hbshim.messaging.role` describes how callers wait, and which of them reads.

The callers share the connection, so it must not be closed because one of them times out.
Synchronous methods, and messages over which the broker might close the channel, therefore use a
connection of the pool.

Replies arrive by RabbitMQ's direct reply-to, which ends with the connection. The client also has
a queue of its own, which exists longer: a server sends a reply there if it may not have arrived by
direct reply-to, and the client consumes from the queue again after a reconnection. That queue is
optional: if the broker refuses it, calls work without it.

Longer than others: how a call waits, and how its connection is replaced meanwhile, is one state.
"""

from __future__ import annotations

import contextlib
import functools
import logging
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
from hbshim.messaging.amqp.sender import Reached, Sender, Sending
from hbshim.messaging.amqp.topology import Topology
from hbshim.messaging.base import Payload, Reply, driver_closed
from hbshim.messaging.calling import CallRequest
from hbshim.messaging.role import ReaderRole, Waiter
from hbshim.messaging.steps import Steps, Wait
from hbshim.messaging.target import Target, described
from hbshim.messaging.waiting import NoReply, PendingCalls
from hbshim.protocol.messages import DIRECT_REPLY, Delivery, Message
from hbshim.protocol.reply_codes import NOT_FOUND, PRECONDITION_FAILED, RESOURCE_LOCKED
from hbshim.runtime.exclusive import OCCUPIED, ExclusiveSection

T = TypeVar("T")

#: Seconds for declaring the queue for late replies. A node of a cluster does not answer while it
#: waits for another node that is down.
LATE_LIMIT = 4.0

#: How many names for that queue are tried on one connection.
LATE_NAMES = 3

#: Error codes for which a queue of another name may succeed.
OF_THIS_NAME = (NOT_FOUND, RESOURCE_LOCKED, PRECONDITION_FAILED)

#: Errors of what comes before a request is sent.
NOT_SENT = (ConnectionLostError, PoolTimeoutError, BrokerBlockedError, ConfirmTimeoutError)

#: Prefetch of a consumer of stored replies.
PREFETCH = 100

#: Seconds for closing a connection that is not needed. A caller waits for it.
CLOSE_WITHIN = 0.2

#: Seconds before the next attempt after a connection was lost directly after its login.
LOST_AGAIN = 0.05

#: Ends an attempt of a call whose request the broker has dropped.
DROPPED = NoReply("error", Payload(b"", ""))


_log = logging.getLogger("hbshim.messaging")


class Caller:
    """The calls of one process through one driver. A forked child needs its own."""

    def __init__(self, connector: Connector, sender: Sender, topology: Topology) -> None:
        self._connector = connector
        self._sender = sender
        self._topology = topology
        self._sending: Sending | None = None
        self._generation = 0
        # The queue for late replies: its number, the connection that consumes from it, and whether
        # to skip it on the next connection because it caused the loss of the last one.
        self._late_number = 0
        self._late_on: Connection | None = None
        self._late_skipped = False
        self._late_cancelled = False
        self._role = ReaderRole(self._read)
        self._calls = PendingCalls(self._role)
        self._connecting = ExclusiveSection(threading.RLock())
        self._closed = False

    def call_steps(self, request: CallRequest) -> Steps[Reply]:
        """See :meth:`hbshim.messaging.base.Driver.call`."""
        return request.naming_its_timeout(self._call(request))

    def _call(self, request: CallRequest) -> Steps[Reply]:
        target, deadline = request.target, request.deadline
        waiting = self._calls.begin(request.on_reply)
        correlation = waiting.correlation_id
        try:
            message = Message(
                request.payload.body,
                self._topology.rpc_exchange(target),
                self._topology.rpc_key(target),
                content_type=request.payload.content_type,
                message_id=correlation,
                correlation_id=correlation,
                reply_to=DIRECT_REPLY,
                # A server must not start a request whose caller has timed out.
                deadline=deadline,
                type=FORMAT,
            )
            if request.mandatory:
                self._require_queue(target, deadline)
            while True:
                self._send(message, deadline, request.attempts, target)
                waiting.last_heard = time.monotonic()
                reply = yield from self._calls.wait_steps(
                    waiting, deadline, request.call_monitor_timeout
                )
                if not isinstance(reply, NoReply):
                    return reply
                # The broker has dropped the request.
                waiting.result, message.reply_to = None, DIRECT_REPLY
        finally:
            self._calls.end(waiting)

    def close(self) -> None:
        """Close the connection; calls that wait raise an error."""
        self._closed = True
        self._role.close()
        sending, self._sending = self._sending, None
        if sending is not None:
            sending.connection.close(CLOSE_WITHIN)

    def _require_queue(self, target: Target, deadline: float) -> None:
        name = self._topology.rpc(target).queue.name
        if not self.with_connection(
            lambda found: found.connection.queue_exists(name, deadline), deadline
        ):
            raise UnroutableError(
                f"no server has a queue for {described(target)} yet; start it, or declare its "
                "queue beforehand"
            )

    def with_connection(self, work: Callable[[Sending], T], deadline: float) -> T:
        """Call `work` with a connection of the pool, for synchronous methods.

        Raises:
            CallTimeoutError: there was no connection in time.
            ConnectError: no host will accept the connection: it is final.
        """
        try:
            return self._sender.with_connection(work, deadline, None)
        except NOT_SENT as error:
            raise CallTimeoutError(f"it was not sent: {error}") from None
        except ConnectError as error:
            if error.final:
                raise
            raise CallTimeoutError(f"no connection: {error}") from None

    def _send(
        self, message: Message, deadline: float, attempts: int | None, target: Target
    ) -> None:
        exchange, size = message.exchange, len(message.body)
        queue = functools.partial(self._topology.rpc, target)
        limits = self._connector.limits
        limits.check(size)
        while True:
            sending = self.connected(deadline, attempts, exchange)
            bound = limits.is_bound(exchange, message.routing_key)
            if not bound or exchange not in sending.declared:
                self.with_connection(
                    lambda found: found.prepare(exchange, deadline, queue), deadline
                )
                sending.declared.add(exchange)
            if not limits.writable(exchange):
                self.with_connection(
                    lambda found: found.check_write_access(exchange, deadline), deadline
                )
            if not limits.known(size, exchange) and self._late_on is sending.connection:
                self._send_confirmed(message, deadline, queue)
                return
            try:
                if sending.publish(message, max(0.0, deadline - time.monotonic())):
                    return
            except ConnectionLostError:
                # The message was not sent completely, so no server has it, and it may be sent
                # again.
                self.lost(sending)
                if time.monotonic() >= deadline:
                    raise CallTimeoutError("the connection was lost") from None

    def _send_confirmed(self, message: Message, deadline: float, queue: Reached) -> None:
        """Send a message over which the broker might close the channel, on a pooled connection."""
        message.reply_to = self._late_queue()
        try:
            self._sender.send(message, deadline, None, resend=False, queue=queue)
        except ConfirmTimeoutError:
            # A server may have it, and then sends its reply to the queue for late replies.
            return
        except (ConnectionLostError, PoolTimeoutError, DeliveryError) as error:
            raise CallTimeoutError(f"it was not confirmed: {error}") from None

    def _late_queue(self) -> str:
        return self._topology.replies(self._calls.client, self._late_number).queue.name

    def wait_once(self, waiter: Waiter, until: float, otherwise: str) -> None:
        """See :meth:`hbshim.messaging.role.ReaderRole.wait_once`."""
        self._role.wait_once(waiter, until, otherwise)

    def hand_over(self) -> None:
        """See :meth:`hbshim.messaging.role.ReaderRole.hand_over`."""
        self._role.hand_over()

    def wait(self, waiter: Waiter, until: float, otherwise: str) -> Wait:
        """Return what an operation yields to wait for a reader."""
        return Wait(self._role, waiter, until, otherwise)

    def _read(self, until: float) -> bool:
        """Read from the connection; return False if another one had to be opened."""
        sending = self._sending
        try:
            if sending is None:
                self.connected(until, None)
                return False
            if self._late_cancelled and until - time.monotonic() > LATE_LIMIT:
                self._listen_for_late(sending.connection, until)
            sending.connection.drain(max(0.0, until - time.monotonic()))
        except ConnectionLostError:
            if sending is not None:
                self.lost(sending)
        except ConnectError as error:
            if error.final:
                raise
            raise CallTimeoutError(f"no connection: {error}") from None
        return True

    def connected(self, deadline: float, attempts: int | None, exchange: str = "") -> Sending:
        """Return the connection; open one if there is none.

        Parameters:
            deadline: of ``time.monotonic()``.
            attempts: the most attempts to connect; None: as many as the deadline allows.
            exchange: an exchange to declare on a new connection.

        Raises:
            CallTimeoutError: there was no connection in time.
            ConnectionLostError: the driver is closed.
        """
        sending = self._sending
        if sending is not None and sending.connection.is_open:
            return sending
        left = deadline - time.monotonic()
        if left <= 0:
            raise self._no_connection()

        def reconnect() -> Sending:
            return self._reconnect(deadline, attempts, exchange)

        connected = self._connecting.run(reconnect, left)
        if connected is OCCUPIED:
            raise self._no_connection()
        return connected

    def _reconnect(self, deadline: float, attempts: int | None, exchange: str) -> Sending:
        sending = self._sending
        if sending is None or not sending.connection.is_open:
            if sending is not None:
                self.lost(sending)
            sending = self._connect(deadline, attempts, exchange)
            self._sending = sending
            if self._closed:
                # Closed meanwhile, in which case the new connection would stay open.
                self.lost(sending)
                raise driver_closed()
        return sending

    def _no_connection(self) -> CallTimeoutError:
        # Another call connects next, and reports the error if that fails.
        return CallTimeoutError(f"no connection in time: {self._connector.refused}")

    def _connect(self, deadline: float, attempts: int | None, exchange: str) -> Sending:
        while True:
            if self._closed:
                raise driver_closed()
            try:
                connection = self._connector.connect(deadline, attempts)
            except ConnectError as error:
                if error.final or attempts is not None:
                    raise
                raise CallTimeoutError(f"no connection: {error}") from None
            try:
                return self._listen(connection, deadline, exchange)
            except ConnectionLostError:
                # A broker that restarts does this: it accepts the login and closes the connection.
                connection.close(CLOSE_WITHIN)
                if time.monotonic() + LOST_AGAIN >= deadline:
                    raise CallTimeoutError("the connection was lost") from None
                time.sleep(LOST_AGAIN)
            except BrokerBlockedError as error:
                # The broker has not answered in time. The thread that connects may be a call that
                # waits for its reply, so this does not mean that its request was not sent.
                connection.close(CLOSE_WITHIN)
                raise CallTimeoutError(f"no connection: {error}") from None
            except BaseException:
                connection.close(CLOSE_WITHIN)
                raise

    def _listen(self, connection: Connection, deadline: float, exchange: str) -> Sending:
        self._generation += 1
        sending = Sending(connection, self._connector.limits)
        connection.set_prefetch(PREFETCH, deadline)
        on_reply = self._on_reply(connection, False)
        connection.consume(DIRECT_REPLY, on_reply, acknowledged=False, deadline=deadline)
        skipped, self._late_skipped = self._late_skipped, False
        if not skipped:
            self._listen_for_late(connection, deadline)
        # On this new connection a timeout harms no other call. An exchange of another type is
        # reported to the call that uses it.
        with contextlib.suppress(TopologyError):
            sending.prepare(exchange, deadline)
        return sending

    def _listen_for_late(self, connection: Connection, deadline: float) -> TopologyError | None:
        """Consume from the queue for late replies, under another name if one is refused.

        Returns:
            The error with which the broker refuses it; None if it is consumed from. Calls work in
            both cases.

        Raises:
            ConnectionLostError: the connection was lost, or the broker did not answer in time. The
                next connection then skips the queue.
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
                # The broker may not have noticed that an older consumer is gone: the newest one
                # gets the highest priority.
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
        # The queue was deleted or its node is down: the broker cancels only this consumer.
        if self._late_on is connection:
            self._late_on, self._late_cancelled = None, True

    def _on_reply(self, connection: Connection, acknowledged: bool) -> Callable[[Delivery], None]:
        calls = self._calls

        def on_reply(delivery: Delivery) -> None:
            if acknowledged:
                # If the acknowledgement is lost, the reply is redelivered and dropped as a
                # duplicate.
                with contextlib.suppress(MessagingError):
                    connection.acknowledge(delivery.tag)
            kind = delivery.type or "result"
            payload = Payload(delivery.body, delivery.content_type or "application/json")
            reply = Reply(kind, payload)  # type: ignore[arg-type]
            calls.receive(delivery.correlation_id or "", reply)

        return on_reply

    def lost(self, sending: Sending) -> None:
        if self._sending is sending:
            self._sending = None
        # Of two threads, one gets it: the call must not be sent a third time.
        with contextlib.suppress(IndexError):
            self._calls.receive(sending.connection.dropped.pop(), DROPPED)
        sending.connection.close(CLOSE_WITHIN)
