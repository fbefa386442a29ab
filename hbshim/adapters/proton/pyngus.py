"""pyngus, with which oslo.messaging's driver over AMQP 1.0, removed in 15.0, drives proton.

pyngus has neither sockets nor a loop. Its user calls two functions of it with a connection and a
socket whenever there is something to send or receive; they are replaced, and give the stock ones a
socket that hbshim has guarded. oslo.messaging calls them in one thread, which is green where the
program is patched, and stands still with its hub.
"""

from __future__ import annotations

import functools
import importlib
import sys
import weakref
from collections.abc import Callable
from typing import Any

from hbshim.adapters.attach import (
    OptionsFor,
    leave_alone,
    not_negotiated,
    options_for_connect,
    ready,
    watch,
)
from hbshim.adapters.proton.frames import SentFrames
from hbshim.adapters.proton.heartbeat import IN_C, idle_times_of
from hbshim.adapters.proton.io import guarded_recv, guarded_send, link_beneath
from hbshim.adapters.replacing import replace_once
from hbshim.adapters.sockets import wire_for
from hbshim.adapters.versions import require_attributes, require_version
from hbshim.errors import AttachError
from hbshim.heartbeat.link import Link
from hbshim.options import Options
from hbshim.runtime.fork import OPENED_BEFORE_FORK

SUPPORTED = ">=2.2,<3"

#: Where a connection of pyngus has its guarded socket: None if it is left alone.
_GUARDED = "hbshim_socket"
#: Where it has, once it is opened, whether hbshim has advertised an idle-time-out for it.
_ASKED = "hbshim_asked"

_NAMES = ("_pn_connection", "_pn_transport", "_pn_ssl")
#: Of its class: of a connection, `has_output` would have proton make its first frames.
_NAMES_OF_CLASS = ("active", "destroy", "has_output")
_TRANSPORT_NAMES = ("encrypted", "idle_timeout", "remote_idle_timeout")


class GuardedSocket:
    """What pyngus sends to and receives from, with hbshim beneath it.

    Attributes:
        link: of the connection.
    """

    def __init__(self, sock: Any, link: Link, frames: SentFrames) -> None:
        self.link = link
        self._frames = frames
        self.send = guarded_send(link, frames, sock.send)
        self.recv = guarded_recv(link, sock.recv)

    def synchronize(self, connection: Any) -> None:
        """Find out where the stream stands, once proton has nothing more to send."""
        if not self._frames.known and connection.has_output == 0:
            self._frames.synchronize()


def prepare(options_for: OptionsFor) -> None:
    """Have each connection attached when it is open, while hbshim is installed; idempotent."""
    kind = sys.modules["pyngus"].Connection
    replace_once(kind, "open", lambda stock: _asking(stock, options_for))
    for name in ("read_socket_input", "write_socket_output"):
        for module in ("pyngus.sockets", "pyngus"):
            if hasattr(sys.modules[module], name):
                owner = sys.modules[module]
                replace_once(owner, name, lambda stock: _guarded(stock, options_for))


def _asking(stock: Any, options_for: OptionsFor) -> Any:
    """Advertise the option `heartbeat`, before proton has made its first frame."""

    @functools.wraps(stock)
    def open_connection(connection: Any) -> None:
        if _ASKED not in connection.__dict__ and not getattr(connection, "_server", False):
            setattr(connection, _ASKED, _ask(connection, options_for))
        stock(connection)

    return open_connection


def _guarded(
    stock: Callable[[Any, Any], int], options_for: OptionsFor
) -> Callable[[Any, Any], int]:
    @functools.wraps(stock)
    def io(connection: Any, socket_obj: Any) -> int:
        seen = connection.__dict__
        if _ASKED not in seen:
            return stock(connection, socket_obj)
        done = stock(connection, seen.get(_GUARDED) or socket_obj)
        # At once: there may be no further call before the program stands still.
        _attach_once_open(connection, socket_obj, options_for)
        guarded: GuardedSocket | None = seen.get(_GUARDED)
        if guarded is not None:
            guarded.synchronize(connection)
        return done

    return io


def _ask(connection: Any, options_for: OptionsFor) -> bool:
    """Advertise the option `heartbeat` for an application that advertises nothing.

    Returns:
        Whether it was done.
    """
    name = f"pyngus {connection.name}"
    options = options_for_connect(options_for, dict, name)
    try:
        if options is None:
            setattr(connection, _GUARDED, None)
            return False
        _check_version(connection)
        transport = connection._pn_transport
        if not options.heartbeat or transport.idle_timeout or connection._pn_ssl is not None:
            return False
        if not ready(options, name):
            return False
        # proton advertises half of it.
        transport.idle_timeout = 2 * options.heartbeat
    except Exception as error:
        setattr(connection, _GUARDED, None)
        leave_alone(name, error)
        return False
    return True


def _attach_once_open(connection: Any, sock: Any, options_for: OptionsFor) -> None:
    if _GUARDED in connection.__dict__ or not connection.active:
        return
    guarded = None
    try:
        setattr(connection, _GUARDED, None)
        options = options_for({})
        if options is not None:
            guarded = _attach(connection, sock, options)
    except Exception as error:
        leave_alone(_name(sock), error)
    if guarded is None and getattr(connection, _ASKED):
        # Only hbshim could keep it.
        connection._pn_transport.idle_timeout = 0
    setattr(connection, _GUARDED, guarded)


def _attach(connection: Any, sock: Any, options: Options) -> GuardedSocket | None:
    transport = connection._pn_transport
    if connection._pn_ssl is not None or transport.encrypted or hasattr(sock, "_sslobj"):
        raise AttachError(f"the connection of pyngus is encrypted, and {IN_C}")
    times = idle_times_of(transport)
    if times.timeout is None:
        not_negotiated(_name(sock), options)
        return None
    frames = SentFrames()
    link = link_beneath(sock, times, frames, on_orphaned=lambda: None, forked_error=_forked_error)
    guarded = GuardedSocket(sock, link, frames)
    _wrap_destroy(connection, link)
    try:
        watch(link, options)
    except BaseException:
        link.close()
        raise
    # Open was sent: the peer does not notice.
    transport.idle_timeout = 0
    return guarded


def _forked_error() -> Exception:
    # An error of the socket: its users handle these.
    return ConnectionAbortedError(OPENED_BEFORE_FORK)


def _wrap_destroy(connection: Any, link: Link) -> None:
    """End the link with the connection; a socket that is closed ends it, too."""
    kind = type(connection)
    connection_ref = weakref.ref(connection)

    def destroy() -> None:
        connection = connection_ref()
        if connection is not None:
            kind.destroy(connection)
        link.close()

    connection.destroy = destroy


def _name(sock: Any) -> str:
    try:
        return wire_for(sock).name()
    except Exception:
        return "pyngus"


def _check_version(connection: Any) -> None:
    version = ".".join(map(str, importlib.import_module("pyngus").VERSION))
    require_version("pyngus", version, SUPPORTED)
    require_attributes("pyngus", version, SUPPORTED, connection, _NAMES)
    require_attributes("pyngus", version, SUPPORTED, type(connection), _NAMES_OF_CLASS)
    require_attributes("pyngus", version, SUPPORTED, connection._pn_transport, _TRANSPORT_NAMES)
