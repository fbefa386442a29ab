"""The replies to a stored request, from the queue of their own in which they are stored, too.

The queue is declared with the request, and outlives the process: another one that knows the
request's id receives from it as well. It is consumed from while a caller waits for replies, over
the connection that all callers of the process share; a process keeps nothing of a request whose
replies no caller waits for. A reply is acknowledged when it is handed out, so one that was not
is delivered again, here after a reconnection or elsewhere. After the final one the queue is
deleted.
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
)
from hbshim.messaging.amqp.connection import Connection
from hbshim.messaging.base import FINAL, Payload, Reply, timeout_of
from hbshim.messaging.waiting import Waiter
from hbshim.protocol.messages import Delivery

if TYPE_CHECKING:
    from hbshim.messaging.amqp.caller import Caller
    from hbshim.messaging.amqp.sender import Sending

#: Replies whose identities are remembered: an acknowledgement may be lost with its connection.
_REMEMBERED = 100

#: Seconds for deleting the queue once its final reply is here; else it expires.
_DELETE_WITHIN = 0.3

#: Seconds that closing waits for the broker to stop delivering.
_STOP_WITHIN = 1.0

#: Seconds for the same when the caller's time is over already.
_STOP_LATE = 0.2


class _Stored(Waiter):
    """A caller that waits for the replies in a queue.

    Attributes:
        connection, tag: the consumer's; None: there is none.
    """

    __slots__ = ("__weakref__", "closed", "connection", "deliveries", "tag")

    def __init__(self) -> None:
        super().__init__()
        self.deliveries: deque[Delivery] = deque()
        self.connection: Connection | None = None
        self.tag = ""
        self.closed = False

    @property
    def ready(self) -> bool:
        return bool(self.deliveries) or self.connection is None

    def arrived(self, delivery: Delivery) -> None:
        if self.closed:
            # For another process that may attach to the request; not for this consumer again,
            # which a request that was forgotten leaves behind.
            self.end()
            with contextlib.suppress(MessagingError):
                delivery.connection.requeue(delivery.tag)
        elif delivery.connection is self.connection:
            self.deliveries.append(delivery)
            self.notify()

    def cancelled(self, _reason: str | None) -> None:
        """The broker ended the consumer: the queue is gone, or the node that held it."""
        self.connection = None
        self.notify()

    def end(self) -> _Stopping | None:
        """Stop the consumer, and give back what was not handed out.

        Returns:
            The waiter that is notified when nothing is delivered any more; None: nothing is now.
        """
        self.closed = True
        connection, self.connection = self.connection, None
        if connection is None or not connection.is_open:
            return None
        stopping = _Stopping(connection)
        with contextlib.suppress(MessagingError):
            connection.stop_consumer(self.tag, stopping.stopped)
            while self.deliveries:
                connection.requeue(self.deliveries.popleft().tag)
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
        caller: this process's.
        request: the id of the request.
        queue: the name of its queue.
    """

    def __init__(self, caller: Callable[[], Caller], request: str, queue: str) -> None:
        self._caller = caller
        self._id = request
        self._queue = queue
        self._stored = _Stored()
        self._known: deque[str] = deque(maxlen=_REMEMBERED)
        self._final: Reply | None = None
        # One thread at a time waits.
        # Re-entrant, because such a lock refuses to be released by a thread that has it not.
        self._lock = threading.RLock()
        # A request that is forgotten before its final reply leaves no consumer behind.
        weakref.finalize(self, _forgotten, self._stored).atexit = False

    @property
    def id(self) -> str:
        return self._id

    def receive(self, timeout: float) -> Reply:
        deadline = time.monotonic() + timeout_of(timeout)
        try:
            # In here: an exception of a signal handler may come right behind it.
            if not self._lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
                raise CallTimeoutError("another thread waits for the replies to this request")
            try:
                return self._receive(deadline)
            except BaseException as error:
                # Between two waits another process may get it.
                self._stop(_STOP_LATE if isinstance(error, CallTimeoutError) else 0.0)
                raise
        finally:
            with contextlib.suppress(RuntimeError):  # never acquired
                self._lock.release()

    def _receive(self, deadline: float) -> Reply:
        caller, stored = self._caller(), self._stored
        while self._final is None:
            line = caller.connected(deadline, None)
            try:
                if stored.connection is not line.connection:
                    self._consume(caller, line, deadline)
                while stored.deliveries:
                    reply = self._hand_out(stored.deliveries.popleft(), caller, deadline)
                    if reply is not None:
                        return reply
                caller.wait_once(stored, deadline, "no reply yet; it may come later")
            except ConnectionLostError:
                if line.connection.is_open:
                    raise
                caller.lost(line)
        return self._final

    def _consume(self, caller: Caller, line: Sending, deadline: float) -> None:
        # Looked up over another connection: on this one, a queue that is gone would end the
        # consumers of all callers.
        if not caller.managed(
            lambda found: found.connection.queue_exists(self._queue, deadline), deadline
        ):
            raise ResultGoneError(
                f"the result of request {self._id} is not kept: it was received before, its "
                "lifetime is over, or no such request was submitted"
            )
        stored, connection = self._stored, line.connection
        # Those of an earlier connection are delivered again.
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
            caller.managed(
                lambda found: found.connection.delete_queue(self._queue, deadline=until), until
            )

    def close(self) -> None:
        self._stop(_STOP_WITHIN)

    def _stop(self, timeout: float) -> None:
        stopping = self._stored.end()
        if stopping is None:
            return
        # What is still delivered is given back when it is read: another process may wait for it.
        caller, until = self._caller(), time.monotonic() + timeout
        with contextlib.suppress(MessagingError):
            while not stopping.ready:
                caller.wait_once(stopping, until, "the consumer has not stopped yet")


def _forgotten(stored: _Stored) -> None:
    # From the garbage collector: nothing is written here. With the next delivery the consumer
    # is stopped, and what was delivered goes back.
    stored.closed = True
