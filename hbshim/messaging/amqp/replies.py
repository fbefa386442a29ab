"""Direct replies, until it is known that their clients were still connected.

RabbitMQ's direct reply-to address ends with the client's connection, and the broker drops what
is sent to it after that without a word. But it answers a passive queue.declare of the address:
404 when the connection is gone. An address never comes back, so one that is there *after* a
reply was sent was there before, too. Each address in use is checked twice a second by one
thread, and what was sent to one that is gone goes to the client's own queue instead. The client
ignores a reply that it has already.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from hbshim.errors import MessagingError
from hbshim.messaging.amqp.connection import Message
from hbshim.runtime.unpatched import signals_blocked

if TYPE_CHECKING:
    from hbshim.messaging.amqp.sender import Sender
    from hbshim.messaging.amqp.topology import Subscription

#: Seconds between two checks of one address.
CHECK_EVERY = 0.5

#: Seconds after which a reply is out of the client's and the broker's buffers. A check that is
#: sooner after it does not settle it.
UNDER_WAY = 0.2

#: Seconds for one check, and for sending again.
LIMIT = 5.0

#: Seconds after which the thread ends when it has nothing to check.
IDLE = 5.0

#: Bytes of replies to one address that are kept without a check.
KEPT = 16 * 1024 * 1024


@dataclasses.dataclass(frozen=True, slots=True)
class _Sent:
    message: Message
    own: Subscription
    at: float
    deadline: float


class _Address:
    __slots__ = ("due", "sent", "size")

    def __init__(self, due: float) -> None:
        self.due = due
        self.sent: deque[_Sent] = deque()
        self.size = 0


class DirectReplies:
    """The direct replies of one process that are not settled.

    Parameters:
        sender: checks the addresses, and sends again.
    """

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._renew()

    def _renew(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._thread: threading.Thread | None = None
        self._addresses: dict[str, _Address] = {}

    def sent(self, message: Message, own: Subscription, deadline: float) -> None:
        """A reply was sent; returns at once.

        Parameters:
            own: the client's own queue.
            deadline: of ``time.monotonic()``, after which the client does not wait any more.
        """
        if self._pid != os.getpid():
            self._renew()
        now = time.monotonic()
        with self._lock:
            address = self._addresses.get(message.routing_key)
            if address is None:
                address = self._addresses[message.routing_key] = _Address(now)
                self._changed.set()
            address.sent.append(_Sent(message, own, now, deadline))
            address.size += len(message.body)
            if address.size > KEPT and address.due > now:
                address.due = now
                self._changed.set()
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="hbshim-replies", daemon=True
                )
                with signals_blocked():
                    self._thread.start()

    def _run(self) -> None:
        while True:
            self._changed.clear()
            with self._lock:
                due = {name: each.due for name, each in self._addresses.items()}
            now = time.monotonic()
            for name in (name for name, at in due.items() if at <= now):
                # One that cannot be checked now is checked again; the others must not wait.
                with contextlib.suppress(MessagingError):
                    self._check(name)
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
            there = self._sender.manage(
                lambda sending: sending.connection.queue_exists(name, until), until, 1
            )
        except MessagingError:
            self._drop(name, lambda sent: sent.deadline <= began)
            raise
        if there:
            self._drop(name, lambda sent: sent.at <= began - UNDER_WAY)
            return
        for sent in self._drop(name, lambda _sent: True):
            self._send_again(sent)

    def _drop(self, name: str, which: Callable[[_Sent], bool]) -> list[_Sent]:
        """Keep the replies no longer that are settled."""
        with self._lock:
            address = self._addresses[name]
            dropped = [sent for sent in address.sent if which(sent)]
            address.sent = deque(sent for sent in address.sent if not which(sent))
            address.size = sum(len(sent.message.body) for sent in address.sent)
            if not address.sent:
                del self._addresses[name]
        return dropped

    def _send_again(self, sent: _Sent) -> None:
        if sent.deadline <= time.monotonic():
            return
        message = dataclasses.replace(
            sent.message, exchange=sent.own.exchange, routing_key=sent.own.routing_key
        )
        with contextlib.suppress(MessagingError):
            self._sender.send(message, min(sent.deadline, time.monotonic() + LIMIT), None)
