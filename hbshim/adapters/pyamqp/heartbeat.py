"""py-amqp, and with it kombu's ``amqp://`` transport and Celery.

The guard wraps the functions with which py-amqp passes bytes to the socket, whole frames at a time;
a large body is several such writes. The connection's own ``heartbeat_tick`` is replaced: it writes
nothing, and raises only if the link is lost.

Longer than others: what is wrapped and what undoes it stand side by side.
"""

from __future__ import annotations

import errno
import functools
import importlib
import socket
import time
import weakref
from collections.abc import Callable
from typing import Any

import amqp
from amqp.exceptions import ConnectionForced, RecoverableConnectionError
from amqp.transport import DEFAULT_SOCKET_SETTINGS

from hbshim.adapters.attach import (
    OptionsFor,
    attach_or_leave,
    not_negotiated,
    options_for_connect,
    ready,
)
from hbshim.adapters.attachment import ATTEMPTS, Attachment, attach_once, restore
from hbshim.adapters.earlier_calls import NO_CALLS, EarlierCalls
from hbshim.adapters.replacing import replace_once
from hbshim.adapters.sockets import wire_for
from hbshim.adapters.versions import require_attributes, require_version
from hbshim.errors import AttachError
from hbshim.heartbeat import service
from hbshim.heartbeat.link import Link
from hbshim.heartbeat.state import State
from hbshim.heartbeat.wire import Wire
from hbshim.options import Options
from hbshim.runtime.fork import OPENED_BEFORE_FORK, process_mark

SUPPORTED = ">=5.2,<6"

#: AMQP 0-9-1 section 4.2.7: the type of a heartbeat's frame.
FRAME_HEARTBEAT = 8

_monotonic = time.monotonic

#: Errors after which py-amqp treats the connection as still open.
_NOT_READY = {errno.EAGAIN, errno.EINTR, errno.ENOENT, errno.EWOULDBLOCK}

#: Key of kombu's ``transport_options`` for the options of a connection. A clone of the kombu
#: connection, as pools make it, inherits them, and py-amqp ignores the key.
KOMBU_OPTION = "hbshim"

#: Where a transport has that hbshim, and not the application, has requested the heartbeat.
_ASKED = "hbshim_asked"

#: The name of the frame writer that the threads which attach a connection agree on.
_WRITER = "writer"


def attach(connection: Any, options: Options, *, new: bool = False) -> Link | None:
    """Keep an open ``amqp.Connection`` alive.

    Parameters:
        connection: connected; its negotiated ``heartbeat`` is T, in seconds.
        options: hbshim's options.
        new: it was just made, so that no other thread has it.

    Returns:
        The link, or None if no heartbeat was negotiated.

    Raises:
        AttachError: the connection is not open, or uses an unknown socket type.
        UnsupportedVersionError: hbshim does not know this version of py-amqp.
        WorkerError: the worker cannot run in this process.
    """
    _check_version(connection)
    transport = connection._transport
    if transport is None or not transport.connected:
        raise AttachError("the py-amqp connection is not open; call its connect() first")
    if not connection.heartbeat:
        not_negotiated(wire_for(transport.sock).name(), options)
        return None
    return attach_once(
        vars(transport), lambda: _Attachment(connection, transport, new=new), options
    )


def _check_version(connection: Any) -> None:
    require_version("amqp", amqp.__version__, SUPPORTED)
    of_connection = (
        "_transport",
        "_frame_writer",
        "frame_writer_cls",
        "heartbeat",
        "heartbeat_tick",
        "drain_events",
        "is_closing",
    )
    require_attributes("amqp", amqp.__version__, SUPPORTED, connection, of_connection)
    if connection._transport is not None:
        of_transport = (
            "sock",
            "connected",
            "read_frame",
            "_read_buffer",
            "_write",
            "close",
            "having_timeout",
            "socket_settings",
            "__dict__",
        )
        require_attributes("amqp", amqp.__version__, SUPPORTED, connection._transport, of_transport)


def _make_link(connection: Any, transport: Any, wire: Wire, earlier: EarlierCalls) -> Link:
    transport_ref = weakref.ref(transport)
    connection_ref = weakref.ref(connection)

    def half_read() -> bool:
        alive = transport_ref()
        return alive is not None and bool(alive._read_buffer or earlier.reading())

    def closing() -> bool:
        alive = connection_ref()
        return alive is not None and bool(alive.is_closing)

    def forget_socket() -> None:
        # Before py-amqp sets a timeout on the closed socket, or uses it in a `repr`, and raises
        # "Bad file descriptor".
        if (alive := connection_ref()) is not None:
            alive.drain_events = _refuse_read
        if (transport := transport_ref()) is not None:
            transport.sock = None

    return Link(
        wire,
        float(connection.heartbeat),
        wire.name(),
        service.current().metrics,
        half_written=earlier.writing,
        half_read=half_read,
        closing=closing,
        on_orphaned=forget_socket,
        forked_error=_forked_error,
    )


def _forked_error() -> Exception:
    error: Exception = RecoverableConnectionError(OPENED_BEFORE_FORK)
    return error


def _refuse_read(_timeout: float | None = None, **_kwargs: Any) -> None:
    raise _forked_error()


class _Attachment(Attachment):
    """The guard around the connection's own functions, until it is closed.

    The instance attributes set here shadow the class's methods. Closing removes them, so that
    nothing refers to a closed connection, and a py-amqp object that connects again is unchanged.
    """

    __slots__ = (
        "_connection",
        "_of_connection",
        "_of_transport",
        "_raised",
        "_transport",
        "_writer",
    )

    def __init__(self, connection: Any, transport: Any, *, new: bool) -> None:
        wire = wire_for(transport.sock)
        earlier = NO_CALLS
        if not new:
            earlier = EarlierCalls(
                [transport.read_frame],
                # A thread inside the frame writer has the transport's own `write`.
                [transport.write, connection._frame_writer],
                connection.heartbeat,
                one_session=wire.route == "tls",
            )
        super().__init__(_make_link(connection, transport, wire, earlier), earlier)
        self._connection = weakref.ref(connection)
        self._transport = weakref.ref(transport)
        self._writer = connection._frame_writer
        self._raised = _user_timeout(transport, self.link)
        self._of_connection = _functions_of_connection(connection, transport, self.link)
        self._of_transport = _functions_of_transport(transport, self.link, self.remove)

    def _wrap(self) -> None:
        connection, transport = self._connection(), self._transport()
        if connection is None or transport is None:
            return
        if self._raised:
            self.link.wire.user_timeout = self._raised
        vars(transport).update(self._of_transport)
        # The frame writer got `transport.write` when the connection was made.
        writer = connection.frame_writer_cls(connection, transport)
        connection._frame_writer = self.agree(_WRITER, writer)
        if getattr(self._writer, "__code__", None) is getattr(writer, "__code__", self):
            # It has a buffer as large as a frame, and can be made anew, unlike another tool's.
            self._writer = None
        vars(connection).update(self._of_connection)

    def _unwrap(self) -> None:
        connection, transport = self._connection(), self._transport()
        if self._raised and self.link.wire.user_timeout == self._raised:
            self.link.wire.user_timeout = _DEFAULT_USER_TIMEOUT
        if connection is not None:
            restore(connection, {"drain_events": _refuse_read})
            restore(connection, self._of_connection)
        if transport is not None:
            restore(transport, self._of_transport)
            if connection is not None and connection._frame_writer is self.agreed(_WRITER):
                own = self._writer or connection.frame_writer_cls(connection, transport)
                connection._frame_writer = own
            if self.kept is not False:
                for name in (_ASKED, ATTEMPTS):
                    vars(transport).pop(name, None)


def _functions_of_connection(connection: Any, transport: Any, link: Link) -> dict[str, Any]:
    nothing_waits = link.wire.nothing_waits
    drain_events = connection.drain_events
    mine = process_mark()

    def heartbeat_tick(rate: int = 2) -> None:
        if link.state is State.LOST:
            raise ConnectionForced("Too many heartbeats missed")

    # Not if a subclass has its own.
    stock_drain = getattr(drain_events, "__func__", None) is amqp.Connection.drain_events

    def drain_or_time_out(timeout: float | None = None) -> Any:
        if not mine[0]:
            # Here, and not only at the read: in between py-amqp sets the socket's timeout, and the
            # reset of it on a dropped socket would hide the error.
            link.before_idle_write()
        # py-amqp checks for `connection.blocked` before each publish, where three nested exceptions
        # report that nothing has arrived. This check takes a quarter of the time, which makes up
        # for the cost of the guard.
        if timeout == 0 and nothing_waits():
            raise TimeoutError
        if timeout and stock_drain:
            return _drain_until(connection, transport, timeout)
        if timeout is None and stock_drain and transport.read_timeout and _is_asked(transport):
            return _drain_until_read_timeout(connection, transport)
        return drain_events(timeout)

    return {"heartbeat_tick": heartbeat_tick, "drain_events": drain_or_time_out}


def _is_asked(transport: Any) -> bool:
    return getattr(transport, _ASKED, False)


def _drain_until(connection: Any, transport: Any, timeout: float) -> None:
    # py-amqp restarts its timeout after each frame that is no event. A heartbeat, which hbshim may
    # have requested, must not have that effect.
    deadline, left = _monotonic() + timeout, timeout
    while True:
        with transport.having_timeout(left):
            frame = transport.read_frame()
        if connection.on_inbound_frame(frame):
            return
        now = _monotonic()
        if frame[0] != FRAME_HEARTBEAT:
            deadline = now + timeout
        left = deadline - now
        if left <= 0:
            raise TimeoutError("timed out")


def _drain_until_read_timeout(connection: Any, transport: Any) -> None:
    # The kernel's timer, which the application has set, starts anew with each heartbeat, and hbshim
    # has asked for those. Checked as each arrives: up to T/2 late, but never early.
    limit = transport.read_timeout
    deadline = _monotonic() + limit
    while not connection.on_inbound_frame(frame := transport.read_frame()):
        now = _monotonic()
        if frame[0] != FRAME_HEARTBEAT:
            deadline = now + limit
        elif now >= deadline:
            raise TimeoutError("timed out")


def _functions_of_transport(
    transport: Any, link: Link, remove: Callable[[], None]
) -> dict[str, Any]:
    guard, before_idle_write = link.guard, link.before_idle_write
    close_transport = transport.close
    transport_ref = weakref.ref(transport)

    def close() -> None:
        remove()
        if link.inherited:
            # py-amqp's own would end the TLS session and shut the parent's stream down.
            transport.sock, transport.connected = None, False
        else:
            close_transport()

    def tears(error: BaseException) -> bool:
        alive = transport_ref()
        if alive is not None:
            _note_write_error(alive, error)
        return True

    def nothing_read(error: BaseException) -> bool:
        alive = transport_ref()
        return isinstance(error, TimeoutError) and not (alive and alive._read_buffer)

    return {
        # In place of `transport.write`: a wrapper around the frame writer would be one more Python
        # call for each publish, 3 to 5 % of it.
        "write": guard.around_send(transport._write, before_idle_write, tears, link.tear),
        "read_frame": guard.around_read(transport.read_frame, before_idle_write, nothing_read),
        "close": close,
        "hbshim_link": link,
    }


#: Of py-amqp, in seconds; 0 where the platform has no such limit.
_DEFAULT_USER_TIMEOUT = DEFAULT_SOCKET_SETTINGS.get("TCP_USER_TIMEOUT", 0) / 1000


def _user_timeout(transport: Any, link: Link) -> float:
    """Return how long the kernel is to wait for acknowledgements; 0 to leave it as it is.

    py-amqp's default of 1 s does not apply to an idle socket, but to a heartbeat in flight: a
    network interruption after which the connection could go on would end it. hbshim itself takes
    the peer for dead after 2 T; the kernel's pauses between retransmissions grow, so that one after
    an interruption shorter than T may come later than T. A value that the application chose is
    kept.
    """
    wire, default = link.wire, _DEFAULT_USER_TIMEOUT
    chosen = getattr(socket, "TCP_USER_TIMEOUT", None) in (transport.socket_settings or {})
    if chosen or not default or wire.user_timeout != default or link.silence <= default:
        return 0.0
    return link.silence


def _note_write_error(transport: Any, error: BaseException) -> None:
    """Do what py-amqp's ``write`` does on an error."""
    if isinstance(error, OSError):
        passing = isinstance(error, TimeoutError) or error.errno in _NOT_READY
        transport.connected = transport.connected and passing


def prepare(options_for: OptionsFor) -> None:
    """Have every ``amqp.Connection`` attached when it connects, while hbshim is installed.

    Idempotent; called again after a reload, for the new class.
    """
    # Not amqp.Connection, which stays the old class after a reload.
    kind = importlib.import_module("amqp.connection").Connection
    replace_once(kind, "connect", lambda connect: _attaching(connect, options_for))


def _attaching(connect: Any, options_for: OptionsFor) -> Any:
    """Wrap ``amqp.Connection.connect``."""

    @functools.wraps(connect)
    def connect_and_attach(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.connected:
            return connect(self, *args, **kwargs)
        name = f"py-amqp {self.host}"
        options = options_for_connect(options_for, lambda: _kombu_options(self), name)
        if options is None:
            return connect(self, *args, **kwargs)
        asked, before = self.client_heartbeat, dict(vars(self))
        asking = bool(not asked and options.heartbeat and ready(options, name))
        try:
            self.client_heartbeat = options.heartbeat if asking else asked
            result = connect(self, *args, **kwargs)
        finally:
            self.client_heartbeat = asked
        try:
            kept = attach_or_leave(attach, self, options, name)
        except BaseException:
            self.collect()
            raise
        if asking and kept:
            setattr(self._transport, _ASKED, True)
        if asking and not kept:
            # The broker would close a connection that promised heartbeats.
            _undo_connect(self, before)
            result = connect(self, *args, **kwargs)
        return result

    return connect_and_attach


def _undo_connect(connection: Any, before: dict[str, Any]) -> None:
    """Close the transport and restore what `connect` has changed.

    After py-amqp's own ``collect``, another ``connect`` would do no handshake.
    """
    connection._transport.close()
    vars(connection).clear()
    vars(connection).update(before)


def _kombu_options(connection: Any) -> dict[str, object]:
    """Return the options that kombu's ``Connection`` has; py-amqp gets it as `client`.

    See :mod:`hbshim.adapters.kombu.heartbeat`.
    """
    client = getattr(connection, "client", None)
    return dict((getattr(client, "transport_options", None) or {}).get(KOMBU_OPTION) or {})
