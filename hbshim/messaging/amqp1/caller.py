"""The client side of CALL: many concurrent calls over one connection.

Each attempt to send a request has a correlation id of its own, so that an outcome or a reply of an
earlier one does not end it. A request whose outcome is unknown is never sent again: the call waits
for its reply.

Replies arrive in a queue of the client, which exists longer than its connection: the client
consumes from it again after a reconnection. A caller that gives up settles its request.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from dataclasses import dataclass
from typing import NoReturn

from hbshim.errors import (
    BrokerBlockedError,
    CallTimeoutError,
    ConnectError,
    ConnectionLostError,
    LostServerError,
    MessagingError,
    RejectedError,
    TopologyError,
    UnroutableError,
)
from hbshim.heartbeat import service
from hbshim.messaging.amqp.connection import FORMAT
from hbshim.messaging.amqp.patterns import Names
from hbshim.messaging.amqp1.connection import Connection, Publication
from hbshim.messaging.amqp1.outcomes import TABLE, Action, OnOutcome, Outcome, Pattern
from hbshim.messaging.amqp1.prepared import Prepared
from hbshim.messaging.amqp1.sender import FIRST_PAUSE, LONGEST_PAUSE
from hbshim.messaging.amqp1.shared import CLOSE_WITHIN, SharedConnection
from hbshim.messaging.backoff import TOO_LITTLE, Backoff
from hbshim.messaging.base import LONGEST_TIMEOUT, Payload, Reply
from hbshim.messaging.calling import CallRequest
from hbshim.messaging.connecting import HostConnector
from hbshim.messaging.steps import Steps, pause
from hbshim.messaging.target import described
from hbshim.messaging.waiting import NoReply, PendingCall, PendingCalls
from hbshim.protocol.messages import Delivery, Message
from hbshim.protocol.reply_codes import NOT_FOUND, PRECONDITION_FAILED, RESOURCE_LOCKED
from hbshim.runtime.exclusive import OCCUPIED, ExclusiveSection, Occupied

#: Seconds for declaring the queue for replies. A node of a cluster does not answer while it waits
#: for another node that is down.
REPLIES_LIMIT = 4.0

#: How many names for that queue are tried on one connection.
MOST_NAMES = 3

#: Error codes for which a queue of another name may succeed.
OF_THIS_NAME = (NOT_FOUND, RESOURCE_LOCKED, PRECONDITION_FAILED)

#: Seconds before the queue for replies is tried again after the broker refused it.
TRY_AGAIN = 1.0

#: The first and the longest pause, in seconds, before it is consumed from again after the peer has
#: ended that; and after how many seconds the pauses begin anew.
FIRST_END, LONGEST_END, LASTED = 0.05, 1.0, 10.0

_log = logging.getLogger("hbshim.messaging")


@dataclass(frozen=True, slots=True)
class Undone(NoReply):
    """What became of a request that has no reply.

    Attributes:
        outcome: of its request.
        reason: of the peer, if it gave one.
    """

    outcome: Outcome
    reason: str


_NOTHING = Payload(b"")


class Caller:
    """The calls of one process through one driver. A forked child needs its own.

    Parameters:
        prefetch: the most replies that are not settled.

    Attributes:
        shared: the connection, which also sends what is no call.
        calls: those that wait.
    """

    def __init__(self, connector: HostConnector[Connection], prefetch: int) -> None:
        self._prefetch = prefetch
        self.shared = SharedConnection(connector, self._refresh)
        self.calls = PendingCalls(self.shared.role)
        self._attaching = ExclusiveSection(threading.RLock())
        # Nothing is declared for a process that never calls.
        self._calls_made = False
        self._generation = 0
        self._queue_number = 0
        self._next_try = 0.0
        # After the peer has ended the link for replies: another client may use its name.
        self._ends = Backoff(FIRST_END, LONGEST_END)
        self._attached_at = 0.0

    def call_steps(self, request: CallRequest) -> Steps[Reply]:
        """See :meth:`hbshim.messaging.base.Driver.call`."""
        return request.naming_its_timeout(_Call(self, request).steps())

    def close(self) -> None:
        """Close the connection; calls that wait raise an error."""
        self.shared.close(self._delete_replies)

    def _delete_replies(self, prepared: Prepared) -> None:
        """Delete the queue for replies, which would only expire later."""
        if prepared.replies is not None:
            name = self.replies_to(prepared.connection.profile.names)
            prepared.management.delete_queue(name, time.monotonic() + CLOSE_WITHIN)

    def replies_to(self, names: Names) -> str:
        """Return the name of the queue for replies."""
        return names.replies(self.calls.client, self._queue_number).queue.name

    # -- the queue for replies ----------------------------------------------------

    def _refresh(self, prepared: Prepared, deadline: float) -> float:
        """Consume replies again, over a new connection or after the broker has ended the link.

        Returns:
            The seconds until it is to be called again at the latest.
        """
        if not self._calls_made or prepared.replies is not None:
            return LONGEST_TIMEOUT
        left = max(self._next_try - time.monotonic(), self._ends.left())
        if left > 0:
            return left
        try:
            self._attach_once(prepared, deadline)
        except TopologyError as error:
            self._next_try = time.monotonic() + TRY_AGAIN
            name = prepared.connection.name
            detail = f"no queue for replies: {error}"
            service.current().metrics.record("reply-queue-refused", name, detail)
            _log.warning("%s: %s", name, detail)
        return LONGEST_TIMEOUT if prepared.replies is not None else TRY_AGAIN

    def connected(self, deadline: float, attempts: int | None) -> Prepared:
        """Return the connection, over which replies arrive.

        Raises:
            TopologyError: the broker refuses the queue for replies.
            ConnectError, ConnectionLostError, BrokerBlockedError: there is no connection.
        """
        self._calls_made = True
        prepared = self.shared.connected(deadline, attempts)
        if prepared.replies is None and (left := self._ends.left()):
            time.sleep(max(0.0, min(left, deadline - time.monotonic())))
        if prepared.replies is None and self._attach_once(prepared, deadline) is OCCUPIED:
            raise CallTimeoutError("the queue for replies was not declared")
        return prepared

    def _attach_once(self, prepared: Prepared, deadline: float) -> Occupied | None:
        left = max(0.0, deadline - time.monotonic())
        return self._attaching.run(lambda: self._attach(prepared, deadline), left)

    def _attach(self, prepared: Prepared, deadline: float) -> None:
        """Consume from the queue for replies, under another name if one is refused.

        Raises:
            TopologyError: the broker refuses it.
        """
        if prepared.replies is not None:
            return
        until = min(deadline, time.monotonic() + REPLIES_LIMIT)
        profile = prepared.connection.profile
        for left in reversed(range(MOST_NAMES)):
            queue = profile.names.replies(self.calls.client, self._queue_number).queue
            self._generation += 1
            try:
                prepared.management.declare_queue(queue, until)
                # The broker may not have noticed that an older consumer is gone: the newest one
                # gets the highest priority.
                prepared.replies = prepared.connection.receive_from(
                    profile.source(queue.name),
                    self._prefetch,
                    self._on_reply,
                    lambda _reason: self._on_replies_ended(prepared),
                    until,
                    priority=self._generation,
                )
            except TopologyError as error:
                if error.code not in OF_THIS_NAME or not left:
                    raise
                self._queue_number += 1
            else:
                self._attached_at = time.monotonic()
                return

    def _on_replies_ended(self, prepared: Prepared) -> None:
        prepared.replies = None
        if time.monotonic() - self._attached_at >= LASTED:
            self._ends.reset()
        self._ends.fail()

    def _on_reply(self, delivery: Delivery) -> None:
        # If the settlement is lost, the reply is redelivered and dropped as a duplicate.
        delivery.connection.acknowledge_soon(delivery.tag)
        payload = Payload(delivery.body, delivery.content_type or "application/json")
        reply = Reply(delivery.type or "result", payload)  # type: ignore[arg-type]
        self.calls.receive(delivery.correlation_id or "", reply)


class _Call:
    """One call, until it has its reply."""

    def __init__(self, caller: Caller, request: CallRequest) -> None:
        self._caller = caller
        self._request = request
        self._target = request.target
        self._deadline = request.deadline
        self._pause = FIRST_PAUSE
        self._resent = 0
        self._message_id: str | None = None
        # Of an attempt that may have been received: its reply may still come.
        self._waiting: PendingCall | None = None

    def steps(self) -> Steps[Reply]:
        """Send the request until it need not be sent again, and return the reply."""
        while True:
            reply = yield from self._attempt()
            if not isinstance(reply, Undone):
                return reply
            action = TABLE[reply.outcome][Pattern.CALL]
            if action is Action.LOSE_SERVER:
                raise LostServerError(
                    f"the server of {described(self._target)} that had the call is gone; it may "
                    "have run it"
                )
            if action is Action.REFUSE:
                raise RejectedError(
                    f"the peer rejected the call of {described(self._target)}: {reply.reason}"
                )
            if self._request.mandatory and action is Action.RESEND:
                self._unroutable()
            self._resent += action is Action.RESEND_MARKED
            yield from self._wait()

    def _unroutable(self) -> NoReturn:
        raise UnroutableError(
            f"no server receives for {described(self._target)} yet; start it, or declare its "
            "queue beforehand where a broker has queues"
        )

    def _wait(self) -> Steps[None]:
        """Pause before the next attempt."""
        reason, end = "no server receives it", self._request.monitored_until
        if end < self._deadline:
            reason = f"no keepalive: {reason}"
        left = end - time.monotonic()
        if left <= TOO_LITTLE:
            raise CallTimeoutError(reason)
        yield from pause(min(self._pause, left))
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def _attempt(self) -> Steps[Reply]:
        """Send the request; return the reply, or why there is none."""
        calls = self._caller.calls
        waiting, self._waiting = self._waiting or calls.begin(self._request.on_reply), None
        correlation = waiting.correlation_id
        self._message_id = self._message_id or correlation

        def on_outcome(outcome: Outcome, reason: str) -> None:
            if TABLE[outcome][Pattern.CALL] is not Action.WAIT:
                calls.receive(correlation, Undone("error", _NOTHING, outcome, reason))

        sent: Publication | None = None
        try:
            if waiting.result is not None:
                return waiting.result
            sent = self._send(correlation, on_outcome)
            waiting.last_heard = time.monotonic()
            reply = yield from calls.wait_steps(
                waiting, self._deadline, self._request.call_monitor_timeout
            )
            sent.got_reply()
            sent = None
            if isinstance(reply, Undone) and self._may_be_answered(reply.outcome):
                waiting.result, self._waiting = None, waiting
            return reply
        finally:
            if self._waiting is None:
                calls.end(waiting)
            if sent is not None:
                with contextlib.suppress(MessagingError):
                    sent.withdraw()

    def _may_be_answered(self, outcome: Outcome) -> bool:
        """Return whether the reply to this attempt, or to one before, may still come."""
        action = TABLE[outcome][Pattern.CALL]
        return action is Action.RESEND_MARKED or (action is Action.RESEND and self._resent > 0)

    def _send(self, correlation: str, on_outcome: OnOutcome) -> Publication:
        """Send the request, over another connection if one is lost.

        Raises:
            CallTimeoutError: it was not sent in time.
        """
        caller, deadline = self._caller, self._deadline
        payload, attempts = self._request.payload, self._request.attempts
        while True:
            try:
                prepared = caller.connected(deadline, attempts)
                names = prepared.connection.profile.names
                exchange = names.rpc_exchange(self._target)
                prepared.prepare(exchange, deadline)
                message = Message(
                    payload.body,
                    exchange,
                    names.rpc_key(self._target),
                    content_type=payload.content_type,
                    message_id=self._message_id,
                    correlation_id=correlation,
                    reply_to=caller.replies_to(names),
                    # A server must not start a request whose caller has timed out.
                    deadline=deadline,
                    type=FORMAT,
                )
                sent = prepared.connection.publish(
                    message, deadline, on_outcome, resent=self._resent, awaited=True, follow=True
                )
            except ConnectionLostError:
                # Not sent whole: no server has it, and it may be sent again.
                if caller.shared.closed:
                    raise
                if time.monotonic() >= deadline:
                    raise CallTimeoutError("the connection was lost") from None
            except ConnectError as error:
                if error.final or attempts is not None:
                    raise
                raise CallTimeoutError(f"no connection: {error}") from None
            except BrokerBlockedError as error:
                raise CallTimeoutError(f"it was not sent: {error}") from None
            else:
                prepared.used = True
                return sent
