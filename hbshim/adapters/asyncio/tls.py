"""asyncio's TLS transports, on its selector loop.

Under TLS a heartbeat is a record of the session, so it is encrypted and sent under a lock that
every call into the session takes: see :class:`hbshim.adapters.asyncio.session.MemorySession`.
Python 3.11 has another implementation than 3.10; what is used here has the same names in both,
except for where the session is.
"""

from __future__ import annotations

import platform
import weakref
from asyncio import sslproto
from collections.abc import Callable
from typing import Any

from hbshim.adapters.asyncio.attributes import replace
from hbshim.adapters.asyncio.selector import (
    SUPPORTED,
    SelectorTransport,
    is_selector_transport,
    replace_methods,
    tears,
)
from hbshim.adapters.asyncio.session import MemorySession, Outgoing
from hbshim.adapters.sockets import native_socket
from hbshim.adapters.versions import require_attributes
from hbshim.heartbeat.guard import Guard, Permit, StreamLock
from hbshim.heartbeat.link import Link
from hbshim.heartbeat.wire import Wire

_PROTOCOL_NAMES = ("_transport", "_write_backlog")
_PIPE_NAMES = ("_sslobj", "_outgoing", "_state")


class MemoryTlsWire(Wire):
    """The wire of a TLS connection of asyncio.

    Parameters:
        native: the operating-system socket.
        session: its session.
        idle: returns whether the client is at a frame boundary, and nothing of it is buffered.
    """

    route = "tls"

    def __init__(self, native: Any, session: MemorySession, idle: Callable[[], bool]) -> None:
        super().__init__(native)
        self._session = session
        self._idle = idle

    def send_heartbeat(self, permit: Permit) -> bool:
        self.require_own_socket()
        return self._session.send_heartbeat(self._frame, permit, self._idle, self.send_some)

    def send_if_idle(
        self, sent_ago: float, received_ago: float, guard: Guard, last_write: float
    ) -> bool:
        """Return False: a session needs its lock first."""
        return False

    def take_heartbeats(self, permit: Permit) -> int:
        """Return 0: the client's session reads everything."""
        return 0

    def nothing_waits(self) -> bool:
        """Return False: the session may hold bytes."""
        return False

    def drop(self) -> None:
        self._session.renew_locks()
        super().drop()


class TlsTransport:
    """Sends inside the session. See :class:`hbshim.adapters.asyncio.streams.Beneath`.

    Raises:
        UnsupportedVersionError: the transport does not have the attributes that are used here.
    """

    def __init__(self, writer: Any) -> None:
        self._transport = writer.transport
        self._protocol = protocol = self._transport._ssl_protocol
        version = platform.python_version()
        require_attributes("asyncio", version, SUPPORTED, protocol, _PROTOCOL_NAMES)
        # In Python 3.10 another object holds the session.
        self._pipe = getattr(protocol, "_sslpipe", protocol)
        require_attributes("asyncio", version, SUPPORTED, self._pipe, _PIPE_NAMES)
        self._raw = protocol._transport
        SelectorTransport.require_structure(self._raw)
        self._session = self._share_session()

    @staticmethod
    def supports(transport: Any) -> bool:
        if not isinstance(transport, sslproto._SSLProtocolTransport):
            return False
        protocol: Any = getattr(transport, "_ssl_protocol", None)
        return is_selector_transport(getattr(protocol, "_transport", None))

    def _share_session(self) -> MemorySession:
        outgoing = self._pipe._outgoing
        if isinstance(outgoing, Outgoing):
            outgoing.session.on_the_way = 0  # nothing is, where the program's own code runs
            return outgoing.session
        session = MemorySession(self._pipe._sslobj._sslobj, outgoing)
        self._pipe._sslobj._sslobj = session
        self._pipe._outgoing = Outgoing(session)
        return session

    def wire(self) -> Wire:
        return MemoryTlsWire(native_socket(self._raw._sock), self._session, self._idle())

    def half_written(self) -> Callable[[], bool]:
        idle = self._idle()
        return lambda: not idle()

    def _idle(self) -> Callable[[], bool]:
        session, backlog = self._session, self._protocol._write_backlog
        buffer = self._raw._buffer
        pipe = weakref.ref(self._pipe)

        def idle() -> bool:
            state = getattr(pipe(), "_state", None)
            return not (backlog or session.between or buffer) and (
                getattr(state, "value", state) == "WRAPPED"
            )

        return idle

    def guard(self, link: Link, end: Callable[[], None]) -> Callable[[], None]:
        transport, raw, session = self._transport, self._raw, self._session
        session.on_torn = link.tear
        write_raw, writers = raw.write, link.guard.writers

        def write_and_count(data: Any) -> None:
            write_raw(data)
            session.on_the_way -= len(data)

        close, abort = transport.close, transport.abort

        def end_and_close() -> None:
            try:
                end()
            finally:
                close()

        def end_and_abort() -> None:
            end()
            abort()

        restore_raw = replace_methods(
            raw, end, _within(writers, write_and_count), _within(writers, raw._write_ready)
        )
        guarded = link.guard.around_send(transport.write, link.before_idle_write, tears, link.tear)
        restore = replace(
            transport, {"write": guarded, "close": end_and_close, "abort": end_and_abort}
        )

        def restore_both() -> None:
            restore()
            restore_raw()
            session.on_torn = None

        return restore_both


def _within(lock: StreamLock, function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function of the client so that it runs inside the lock; such calls may be nested."""
    inside = lock.inside

    def run_within(*arguments: Any) -> Any:
        token = object()
        try:
            inside.add(token)
            if lock.permit is not None:
                lock.revoke_permit()
            return function(*arguments)
        finally:
            inside.discard(token)

    return run_within
