"""CALL, from the client's side: many calls at once over one connection.

The callers themselves read from it, one at a time: a caller that waits and finds no reader
reads, for itself and for the others, until its own reply is there; then it hands over the
reader role. So a single caller costs no change of threads, and a process may have any number
of calls outstanding. The role is held while the socket is read, and never while code of the
application runs.

The connection is shared, so it is never closed because the time of one caller is over: what
needs an answer of the broker's goes over a connection of the pool, and so does a message that
might make the broker close the channel.

Replies come by RabbitMQ's direct reply-to, which ends with the connection. For the others
there is a queue of the client's own, which outlives it: a server whose reply may not have
arrived the direct way sends it there, and the client consumes from it again after a
reconnection. That queue is an optimization: where the broker refuses it, calls go on without it.

Longer than others: sending, waiting and reading share the reader role.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import threading
import time
import uuid
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
from hbshim.messaging.amqp.waiting import Waiting
from hbshim.messaging.base import FINAL, OnReply, Payload, Reply, timeout_of
from hbshim.messaging.target import Target
from hbshim.protocol.messages import DIRECT_REPLY, Delivery, Message
from hbshim.protocol.reply_codes import NOT_FOUND, PRECONDITION_FAILED, RESOURCE_LOCKED

T = TypeVar("T")

#: Joins a client's identity and a call's number; what stands before it names the queue for
#: late replies.
NUMBER_SIGN = "#"

#: Seconds that the broker may take to declare the queue for late replies. A node of a cluster
#: does not answer while it waits for another one that no longer responds.
LATE_LIMIT = 4.0

#: How often a name for that queue is tried on one connection, each time another one.
LATE_NAMES = 3

#: Refusals of a queue that do not concern one of another name.
OF_THIS_NAME = (NOT_FOUND, RESOURCE_LOCKED, PRECONDITION_FAILED)

#: Seconds that an acknowledgement may wait for other writers: the thread that reads writes it.
ACKNOWLEDGE_WITHIN = 0.1

#: Unacknowledged replies to stored requests that one consumer may hold.
PREFETCH = 100

#: Seconds for closing a connection that is of no use: a caller waits for it.
CLOSE_WITHIN = 0.2

#: Seconds before the next try, where a connection was lost as soon as it was there.
LOST_AGAIN = 0.05


_log = logging.getLogger("hbshim.messaging")


class _Call(Waiting):
    """A call that waits for its reply, and what came for it."""

    __slots__ = ("heard", "on_reply", "replies", "result")

    def __init__(self, on_reply: OnReply | None) -> None:
        super().__init__()
        self.on_reply = on_reply
        self.result: Reply | None = None
        self.replies: list[Reply] = []
        self.heard = time.monotonic()

    @property
    def called(self) -> bool:
        return self.result is not None or bool(self.replies)


class Caller:
    """The calls of one process through one driver; a forked child needs another.

    Attributes:
        pid: the process's.
        late: replies that nobody waited for any more.
    """

    def __init__(self, connector: Connector, sender: Sender, topology: Topology) -> None:
        self._connector = connector
        self._sender = sender
        self._topology = topology
        self.late = 0
        self.pid = os.getpid()
        self._client = uuid.uuid4().hex
        self._numbers = itertools.count(1)
        self._calls: dict[str, _Call] = {}
        # Those that wait for another thread to read, in the order in which they came.
        self._waiting: dict[Waiting, None] = {}
        self._line: Sending | None = None
        self._generation = 0
        # The queue for late replies: its number, the connection that consumes from it, and
        # whether the next connection does without it, because the last one was lost over it.
        self._late_number = 0
        self._late_on: Connection | None = None
        self._late_skipped = False
        self._late_cancelled = False
        self._reading = threading.Lock()
        self._connecting = threading.Lock()
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
        correlation = f"{self._client}{NUMBER_SIGN}{next(self._numbers)}"
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
        waiting = self._calls[correlation] = _Call(on_reply)
        try:
            if mandatory:
                self._require_queue(target, deadline)
            self._send(message, deadline, attempts)
            waiting.heard = time.monotonic()
            return self._wait(waiting, deadline, silence)
        except CallTimeoutError as error:
            raise CallTimeoutError(
                f"no reply from {_described(target)} within {timeout:g} s ({error})"
            ) from None
        finally:
            del self._calls[correlation]

    def close(self) -> None:
        """Let go of the connection; calls that wait are told."""
        self._closed = True
        line, self._line = self._line, None
        if line is not None:
            line.connection.close(CLOSE_WITHIN)
        for waiting in list(self._waiting):
            waiting.ring()

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
        return self._topology.replies(self._client, self._late_number).queue.name

    def _wait(self, waiting: _Call, deadline: float, silence: float | None) -> Reply:
        while True:
            # Also those that nobody asked for: with one left there, nobody would read on.
            replies, waiting.replies = waiting.replies, []
            if waiting.on_reply is not None:
                for reply in replies:
                    waiting.on_reply(reply)
                    if time.monotonic() >= deadline:
                        break
            if waiting.result is not None:
                return waiting.result
            until = deadline if silence is None else min(deadline, waiting.heard + silence)
            silent = "the server is silent" if until < deadline else "it was sent, and not answered"
            self.wait_once(waiting, until, silent)

    def wait_once(self, waiting: Waiting, until: float, otherwise: str) -> None:
        """Read, or have somebody else read, until something may have changed."""
        if self._closed:
            raise ConnectionLostError("the driver was closed while a call waited for its reply")
        left = until - time.monotonic()
        if left <= 0:
            # It may have been woken to read.
            self._hand_over()
            raise CallTimeoutError(otherwise)
        # Before it is seen that another thread reads: that one may end its reading just now.
        self._waiting[waiting] = None
        try:
            if self._reading.acquire(False):
                del self._waiting[waiting]
                try:
                    self._read_for(waiting, until)
                finally:
                    self._reading.release()
                    # Before any code of the application runs, which may take its time.
                    self._hand_over()
            else:
                waiting.bell.acquire(timeout=left)
        except BaseException:
            # An interrupted one may have been woken to read, too.
            self._waiting.pop(waiting, None)
            self._hand_over()
            raise
        self._waiting.pop(waiting, None)
        if waiting.called:
            # It may have been woken to read, too.
            self._hand_over()

    def _read_for(self, waiting: Waiting, until: float) -> None:
        while not (waiting.called or self._closed):
            if time.monotonic() >= until:
                return
            line = self._line
            try:
                if line is None:
                    self.connected(until, None)
                    # Those that consume from a queue of their own must do so anew.
                    for other in list(self._waiting):
                        other.ring()
                    return
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

    def _hand_over(self) -> None:
        """Have another thread read, if one waits and none reads."""
        while self._waiting and not self._reading.locked():
            try:
                for other in self._waiting:
                    if not other.called:
                        other.ring()
                        return
            except RuntimeError:
                continue  # one came or went; a copy each time would cost more
            return

    def connected(self, deadline: float, attempts: int | None, exchange: str = "") -> Sending:
        """The connection, opened where there is none.

        Parameters:
            exchange: declared along with it.
        """
        line = self._line
        if line is not None and line.connection.is_open:
            return line
        left = deadline - time.monotonic()
        if left <= 0 or not self._connecting.acquire(timeout=left):
            # Another call tries, and would be the one to report why it fails.
            raise CallTimeoutError(f"no connection in time: {self._connector.refused}")
        try:
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
            self._connecting.release()

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
        except ConnectionLostError:
            if time.monotonic() >= until:
                self._late_number += 1
                self._late_skipped = True
            raise
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
            late = self._topology.replies(self._client, self._late_number)
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
        def on_reply(delivery: Delivery) -> None:
            if acknowledged:
                # Lost with its connection, it comes again, and is dropped as a repeated one.
                with contextlib.suppress(MessagingError):
                    connection.acknowledge(delivery.tag, time.monotonic() + ACKNOWLEDGE_WITHIN)
            waiting = self._calls.get(delivery.correlation_id or "")
            if waiting is None or waiting.result is not None:
                self.late += 1
                return
            waiting.heard = time.monotonic()
            kind = delivery.type or "result"
            payload = Payload(delivery.body, delivery.content_type or "application/json")
            reply = Reply(kind, payload)  # type: ignore[arg-type]
            if kind in FINAL:
                waiting.result = reply
            elif kind == "progress":
                waiting.replies.append(reply)
            waiting.ring()

        return on_reply

    def lost(self, line: Sending) -> None:
        if self._line is line:
            self._line = None
        line.connection.close(CLOSE_WITHIN)


def _described(target: Target) -> str:
    server = f" on {target.server}" if target.server else ""
    return f"topic {target.topic!r}{server}"
