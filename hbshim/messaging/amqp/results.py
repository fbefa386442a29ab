"""The replies to a stored request, received from the request's own result queue.

The queue is declared with the request, and exists longer than the process: another process that
knows the request's id can receive from it. A consumer exists only while a caller waits for
replies, on the connection that all callers of the process share. The process keeps no state of
a request for which no caller waits. A reply is acknowledged when it is returned to the caller, so
a reply that was not returned is redelivered, here after a reconnection or to another process.
After the final reply the queue is deleted.
"""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from hbshim.errors import (
    CallTimeoutError,
    ConnectionLostError,
    MessagingError,
    ResultGoneError,
    TopologyError,
)
from hbshim.messaging.amqp.connection import Connection
from hbshim.messaging.base import FINAL, Payload, Reply, timeout_of
from hbshim.messaging.role import Waiter
from hbshim.messaging.steps import Steps, run
from hbshim.protocol.messages import Delivery
from hbshim.protocol.reply_codes import ACCESS_REFUSED
from hbshim.runtime.exclusive import OCCUPIED, ExclusiveSection

if TYPE_CHECKING:
    from hbshim.messaging.amqp.caller import Caller
    from hbshim.messaging.amqp.sender import Sending

#: Replies whose ids are remembered, because an acknowledgement can be lost with its connection.
_REMEMBERED = 100

#: Seconds for deleting the queue after its final reply; otherwise it expires.
_DELETE_WITHIN = 0.3

#: Seconds that closing waits for the broker to stop delivering.
_STOP_WITHIN = 1.0

#: The same when the caller's time is already over.
_STOP_LATE = 0.2


class _Stored(Waiter):
    """A caller that waits for the replies in a queue.

    Parameters:
        queue: its name.

    Attributes:
        connection, tag: of the consumer; None if there is no consumer.
        refused: why the user may not read the queue; None if the broker has not refused it.
    """

    __slots__ = ("__weakref__", "_queue", "closed", "connection", "deliveries", "refused", "tag")

    def __init__(self, queue: str) -> None:
        super().__init__()
        self._queue = queue
        self.refused: str | None = None
        self.deliveries: deque[Delivery] = deque()
        self.connection: Connection | None = None
        self.tag = ""
        self.closed = False

    @property
    def ready(self) -> bool:
        return bool(self.deliveries) or self.connection is None

    def arrived(self, delivery: Delivery) -> None:
        if self.closed:
            # For another process that attaches to the request, not for this consumer again, which
            # remains if the request was forgotten.
            self.end()
            with contextlib.suppress(MessagingError):
                delivery.connection.requeue(delivery.tag)
        elif delivery.connection is self.connection:
            self.deliveries.append(delivery)
            self.notify()

    def cancelled(self, reason: str | None) -> None:
        """Handle a cancel by the broker: the queue was deleted, or its node is down."""
        self.connection = None
        if reason is not None and f"({ACCESS_REFUSED})" in reason and f"'{self._queue}'" in reason:
            self.refused = reason
        self.notify()

    def take(self) -> Delivery | None:
        """Remove and return the next delivery; None if there is none."""
        # One thread may wait for replies while another one closes.
        try:
            return self.deliveries.popleft()
        except IndexError:
            return None

    def end(self) -> _Stopping | None:
        """Stop the consumer, and requeue what was not returned to a caller.

        Returns:
            The waiter to notify when deliveries have stopped; None if they have stopped already.
        """
        self.closed = True
        connection, self.connection = self.connection, None
        if connection is None or not connection.is_open:
            return None
        stopping = _Stopping(connection)
        with contextlib.suppress(MessagingError):
            connection.stop_consumer(self.tag, stopping.stopped)
            while (delivery := self.take()) is not None:
                connection.requeue(delivery.tag)
            return stopping
        return None


class _Stopping(Waiter):
    """A caller that waits until its consumer has stopped."""

    __slots__ = ("_connection", "_stopped")

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection
        self._stopped = False

    @property
    def ready(self) -> bool:
        return self._stopped or not self._connection.is_open

    def stopped(self) -> None:
        self._stopped = True
        self.notify()


class StoredReplies:
    """See :class:`hbshim.messaging.storing.PendingReply`.

    Parameters:
        caller: the caller of this process.
        request: the id of the request.
        queue: the name of its queue.
    """

    def __init__(self, caller: Callable[[], Caller], request: str, queue: str) -> None:
        self._caller = caller
        self._id = request
        self._queue = queue
        self._stored = _Stored(queue)
        self._known: deque[str] = deque(maxlen=_REMEMBERED)
        self._final: Reply | None = None
        # One thread at a time waits.
        self._waiting = ExclusiveSection(threading.RLock())
        # A request that is dropped before its final reply must leave no consumer behind.
        weakref.finalize(self, _forgotten, self._stored).atexit = False

    @property
    def id(self) -> str:
        return self._id

    def receive(self, timeout: float) -> Reply:
        deadline = time.monotonic() + timeout_of(timeout)
        left = max(0.0, deadline - time.monotonic())
        reply = self._waiting.run(lambda: run(self._receive_or_stop(deadline)), left)
        if reply is OCCUPIED:
            raise CallTimeoutError("another thread waits for the replies to this request")
        return reply

    def receive_steps(self, timeout: float) -> Steps[Reply]:
        return self._receive_or_stop(time.monotonic() + timeout_of(timeout))

    def _receive_or_stop(self, deadline: float) -> Steps[Reply]:
        try:
            return (yield from self._receive(deadline))
        except BaseException as error:
            # Between two waits another process may receive the reply.
            self._stop(_STOP_LATE if isinstance(error, CallTimeoutError) else 0.0)
            raise

    def _receive(self, deadline: float) -> Steps[Reply]:
        caller, stored = self._caller(), self._stored
        while self._final is None:
            if stored.refused is not None:
                # Another attempt would close the channel of all callers once more.
                refused, stored.refused = stored.refused, None
                raise TopologyError(
                    f"the channel of the consumer was {refused}; grant the user read permission "
                    "for the queue",
                    ACCESS_REFUSED,
                )
            sending = caller.connected(deadline, None)
            try:
                if stored.connection is not sending.connection:
                    self._consume(caller, sending, deadline)
                while (delivery := stored.take()) is not None:
                    reply = self._hand_out(delivery, caller, deadline)
                    if reply is not None:
                        return reply
                yield caller.wait(stored, deadline, "no reply yet; it may come later")
            except ConnectionLostError:
                if sending.connection.is_open:
                    raise
                caller.lost(sending)
        return self._final

    def _consume(self, caller: Caller, sending: Sending, deadline: float) -> None:
        # Over another connection: a missing queue would close the channel, and so end the
        # consumers of all callers.
        if not caller.with_connection(
            lambda found: found.connection.queue_exists(self._queue, deadline), deadline
        ):
            raise ResultGoneError(
                f"the result of request {self._id} is not kept: it was received before, its "
                "lifetime is over, or no such request was submitted"
            )
        stored, connection = self._stored, sending.connection
        # Replies received over an earlier connection are redelivered.
        stored.deliveries.clear()
        stored.closed = False
        stored.connection = connection
        try:
            stored.tag = connection.start_consumer(
                self._queue, stored.arrived, on_cancelled=stored.cancelled
            )
        except BaseException:
            stored.connection = None
            raise

    def _hand_out(self, delivery: Delivery, caller: Caller, deadline: float) -> Reply | None:
        with contextlib.suppress(MessagingError):
            delivery.connection.acknowledge(delivery.tag)
        identity = delivery.message_id
        if identity and identity in self._known:
            return None
        self._known.append(identity or "")
        kind = delivery.type or "result"
        payload = Payload(delivery.body, delivery.content_type or "application/json")
        reply = Reply(kind, payload)  # type: ignore[arg-type]
        if kind in FINAL:
            self._final = reply
            self._stored.end()
            self._delete(caller, deadline)
        elif kind != "progress":
            return None
        return reply

    def _delete(self, caller: Caller, deadline: float) -> None:
        until = min(deadline, time.monotonic() + _DELETE_WITHIN)
        with contextlib.suppress(MessagingError):
            caller.with_connection(
                lambda found: found.connection.delete_queue(self._queue, deadline=until), until
            )

    def close(self) -> None:
        self._stop(_STOP_WITHIN)

    def _stop(self, timeout: float) -> None:
        stopping = self._stored.end()
        if stopping is None:
            return
        # Later deliveries are requeued when they are read: another process may wait for them.
        caller, until = self._caller(), time.monotonic() + timeout
        try:
            _wait_until_stopped(caller, stopping, until)
        except MessagingError:
            pass  # later deliveries are requeued all the same
        finally:
            caller.hand_over()


def _wait_until_stopped(caller: Caller, stopping: _Stopping, until: float) -> None:
    # For the reason of :meth:`hbshim.messaging.pool.pool.Pool._drop_unusable`.
    while not stopping.ready:
        caller.wait_once(stopping, until, "the consumer has not stopped yet")


def _forgotten(stored: _Stored) -> None:
    # Called by the garbage collector: nothing is written here. The next delivery stops the
    # consumer and is requeued.
    stored.closed = True
