"""The byte stream of one AMQP 1.0 connection: it drives the engine.

hbshim's heartbeat engine keeps the connection alive. Where it cannot, a thread that waits for the
peer does: it wakes up when an empty frame is due.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from hbshim.amqp1.connection import Connection as Engine
from hbshim.amqp1.events import Closed, Event, LoginRefused, Opened, Origin
from hbshim.amqp1.performatives import Error
from hbshim.heartbeat.link import Link
from hbshim.messaging.amqp1.transport import make_transport
from hbshim.messaging.joining import Part
from hbshim.messaging.stream import ByteStream
from hbshim.options import Options

_T = TypeVar("_T")

_NEVER = float("inf")

_monotonic = time.monotonic


class EngineStream(ByteStream[bytes]):
    """Reads from one connection and writes to it, through the engine.

    Parameters:
        sock: see :class:`hbshim.adapters.transport.Transport`; closed at the end.
        name: host and port.
        engine: of a client; nothing was sent yet.

    Attributes:
        opened: what the peer sent to open the connection; None before.
        over: the event that ended it; None before, or where the stream ended without one.
        on_events: called under the lock with the events of sessions and links that came together.
        on_end: called once, under the lock, when the stream has ended.
    """

    def __init__(self, sock: Any, name: str, engine: Engine) -> None:
        self.engine = engine
        self.opened: Opened | None = None
        self.over: Closed | LoginRefused | None = None
        self.on_events: Callable[[Sequence[Event]], None] = _ignore
        self.on_end: Callable[[], None] = _nothing
        # hbshim's heartbeat engine does it.
        self._kept_alive = False
        super().__init__(sock, name, make_transport)

    def shake_hands(self, deadline: float) -> bool:
        """Open the connection; no other thread may use it meanwhile.

        Returns:
            False if the peer did not answer by `deadline`.

        Raises:
            ConnectionLostError: it closed the connection, refused the login, or does not speak AMQP
                1.0.
        """
        self.locked(self._pump)
        return self._wait_for_handshake(lambda: self.opened, deadline)

    def keep_alive(self, options: Options) -> None:
        """Start heartbeats, by the times that both sides have advertised."""
        myself = weakref.ref(self)

        def abandon() -> None:
            alive = myself()
            if alive is not None:
                alive._abandon()

        times = self.engine.idle

        def keep_alive() -> bool:
            return self._transport.keep_alive(
                times.timeout or 0.0,
                options,
                abandon,
                silence=_NEVER if times.silence is None else times.silence,
            )

        self._kept_alive = self.locked(keep_alive)

    @property
    def link(self) -> Link | None:
        """What keeps the connection alive; None if hbshim cannot, and this object does."""
        return self._transport.link if self._kept_alive else None

    # -- calls into the engine -------------------------------------------------

    def work(self, call: Callable[[Engine], _T]) -> _T:
        """Call the engine under the lock, and send what it has to send.

        An error other than hbshim's ends the connection.

        Raises:
            ConnectionLostError: the connection has ended.
        """

        def call_and_pump() -> _T:
            found = call(self.engine)
            self._pump()
            return found

        return self.locked(call_and_pump)

    def _pump(self) -> None:
        data = self.engine.data_to_send(_monotonic())
        if data:
            self.send(data)

    def read_waiting(self) -> None:
        """Handle what has arrived, unless another thread waits for it; called under the lock."""
        if not self._reading and not self._transport.nothing_waits():
            self._read_available()
            self.check()

    @property
    def unsent(self) -> bool:
        """Whether bytes wait until the socket accepts more."""
        return self._transport.unsent

    def flush(self, deadline: float) -> bool:
        """Wait until all that was sent so far has left; return False if it has not in time."""
        end = self._transport.queued
        return self._transport.sent >= end or self._flush(deadline, end)

    # -- what arrives ----------------------------------------------------------

    def receive(self, timeout: float, enough: Callable[[], object]) -> None:
        due = None if self._kept_alive else self.engine.next_check(_monotonic())
        if due is None or due > timeout:
            super().receive(timeout, enough)
            return
        super().receive(due, enough)
        self.locked(self._check_idle)

    def begin_wait(self, part: Part, enough: Callable[[], object]) -> bool:
        if not self._kept_alive:
            due = self.engine.next_check(_monotonic())
            if due is not None:
                part.limit = min(part.limit, max(0.0, due))
        return super().begin_wait(part, enough)

    def _check_idle(self) -> None:
        self._take(self.engine.check(_monotonic()))

    def _handle(self, item: bytes) -> None:
        self._take(self.engine.receive_data(item, _monotonic()))

    def _take(self, events: list[Event]) -> None:
        of_sessions = []
        for event in events:
            if isinstance(event, Closed | LoginRefused):
                self.over = event
            elif isinstance(event, Opened):
                self.opened = event
            else:
                of_sessions.append(event)
        if of_sessions:
            self.on_events(of_sessions)
        self._pump()
        if self.engine.closed and not self.ended:
            self.fail(ConnectionAbortedError(self._reason() or "it was closed"))

    def _reason(self) -> str | None:
        over = self.over
        if isinstance(over, LoginRefused):
            return over.reason
        return None if over is None or over.error is None else described(over.error)

    def _closed_by_peer(self) -> str | None:
        over = self.over
        if isinstance(over, Closed) and over.origin is not Origin.PEER:
            return None
        return self._reason()

    def _on_ended(self) -> None:
        on_end, self.on_end, self.on_events = self.on_end, _nothing, _ignore
        on_end()

    def _send_close(self) -> None:
        self.engine.close()
        self._pump()


def described(error: Error) -> str:
    """Return what the peer reported, for the text of an error."""
    return f"{error.description or 'no reason given'} ({error.condition})"


def _ignore(_events: Sequence[Event]) -> None:
    return None


def _nothing() -> None:
    return None
