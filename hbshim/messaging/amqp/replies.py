"""Direct replies that may not have reached their clients, and their second route.

An address of RabbitMQ's direct reply-to ends with the client's connection. Afterwards the broker
silently drops what is sent to it. It does answer a passive queue.declare of the address: with 404
if the connection is gone. An address never comes back. If it exists *after* a reply was sent, it
existed when the reply was sent. One thread checks each address in use twice a second. If an
address is gone, it sends the replies again, to the client's own queue. The client drops a reply
that it has received before.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from hbshim.errors import MessagingError, PoolError
from hbshim.messaging.flag import Flag
from hbshim.protocol.messages import Message
from hbshim.runtime.unpatched import start_without_signals

if TYPE_CHECKING:
    from hbshim.messaging.amqp.topology import Topology

#: Seconds between two checks of one address.
CHECK_EVERY = 0.5

#: Seconds after which a reply has left the buffers of client and broker. An earlier check does not
#: settle it.
UNDER_WAY = 0.2

#: Seconds for one check, and for sending again.
LIMIT = 5.0

#: Seconds without replies to check after which the thread ends.
IDLE = 5.0

#: The most bytes of unchecked replies to one address.
KEPT = 16 * 1024 * 1024

_log = logging.getLogger("hbshim.messaging")


class _Sent(NamedTuple):
    # Only plain values, which the garbage collector does not track.
    at: float
    deadline: float
    client: str
    body: bytes
    content_type: str
    correlation_id: str | None
    type: str | None


class _Address:
    __slots__ = ("due", "sent", "size", "topology")

    def __init__(self, due: float, topology: Topology) -> None:
        self.due = due
        self.topology = topology
        self.sent: deque[_Sent] = deque()
        self.size = 0


class ReplySender(Protocol):
    """What is needed of :class:`hbshim.messaging.amqp.sender.Sender`."""

    def with_connection(
        self, work: Callable[[Any], bool], deadline: float, attempts: int | None, /
    ) -> bool: ...
    def send(
        self, message: Message, deadline: float, attempts: int | None, /, *, resend: bool
    ) -> None: ...


class DirectReplies:
    """The direct replies of this process that are not settled yet.

    Parameters:
        sender: checks the addresses, and sends again.
    """

    def __init__(self, sender: ReplySender) -> None:
        self._sender = sender
        self._renew()

    def _renew(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._changed = Flag()
        self._thread: threading.Thread | None = None
        self._addresses: dict[str, _Address] = {}

    def sent(self, message: Message, client: str, topology: Topology, deadline: float) -> None:
        """Record a reply that was sent. Does not wait.

        Parameters:
            message: the reply.
            client: identity of the client, which names its own queue.
            topology: the names of exchanges and queues.
            deadline: of ``time.monotonic()``, after which the client waits no longer.
        """
        if self._pid != os.getpid():
            self._renew()
        now = time.monotonic()
        with self._lock:
            address = self._addresses.get(message.routing_key)
            if address is None:
                address = self._addresses[message.routing_key] = _Address(now, topology)
                self._changed.set()
            body = message.body
            address.sent.append(
                _Sent(
                    now,
                    deadline,
                    client,
                    body,
                    message.content_type,
                    message.correlation_id,
                    message.type,
                )
            )
            address.size += len(body)
            if address.size > KEPT and address.due > now:
                address.due = now
                self._changed.set()
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="hbshim-replies", daemon=True
                )
                try:
                    start_without_signals(self._thread.start)
                except RuntimeError:
                    # No thread can be started: direct replies are not checked.
                    self._thread = None
                    self._addresses.clear()

    def _run(self) -> None:
        while True:
            self._changed.clear()
            with self._lock:
                due = {name: each.due for name, each in self._addresses.items()}
            now = time.monotonic()
            for name in (name for name, at in due.items() if at <= now):
                # An address that cannot be checked now is checked again, and must not delay the
                # others.
                try:
                    self._check(name)
                except PoolError:
                    # The driver is closed.
                    with self._lock:
                        self._addresses.clear()
                    break
                except Exception as error:
                    if not isinstance(error, MessagingError):
                        _log.warning("a direct reply was not checked: %s", error)
            with self._lock:
                nearest = min((each.due for each in self._addresses.values()), default=None)
            left = IDLE if nearest is None else nearest - time.monotonic()
            if left > 0 and not self._changed.wait(left):
                with self._lock:
                    if not self._addresses:
                        self._thread = None
                        return

    def _check(self, name: str) -> None:
        began = time.monotonic()
        with self._lock:
            self._addresses[name].due = began + CHECK_EVERY
        until = began + LIMIT
        try:
            there = self._sender.with_connection(
                lambda sending: sending.connection.queue_exists(name, until), until, 1
            )
        except Exception:
            self._drop(name, lambda sent: sent.deadline <= began)
            raise
        if there:
            self._drop(name, lambda sent: sent.at <= began - UNDER_WAY)
            return
        topology = self._addresses[name].topology
        for sent in self._drop(name, lambda _sent: True):
            self._send_again(sent, topology)

    def _drop(self, name: str, which: Callable[[_Sent], bool]) -> list[_Sent]:
        """Forget the replies that are settled."""
        with self._lock:
            address = self._addresses[name]
            dropped = [sent for sent in address.sent if which(sent)]
            address.sent = deque(sent for sent in address.sent if not which(sent))
            address.size = sum(len(sent.body) for sent in address.sent)
            if not address.sent:
                del self._addresses[name]
        return dropped

    def _send_again(self, sent: _Sent, topology: Topology) -> None:
        if sent.deadline <= time.monotonic():
            return
        own = topology.replies(sent.client)
        message = Message(
            sent.body,
            own.exchange,
            own.routing_key,
            content_type=sent.content_type,
            correlation_id=sent.correlation_id,
            type=sent.type,
        )
        with contextlib.suppress(MessagingError):
            deadline = min(sent.deadline, time.monotonic() + LIMIT)
            self._sender.send(message, deadline, None, resend=True)
