"""qpid-proton: BlockingConnection, and the connections of a Container.

proton's engine is a C library without locks. Only its own thread may call it, and it neither shows
where a frame ends nor sends a heartbeat unless its loop runs. But it does its I/O in Python: a
``Selectable`` sends and receives for it. So the bytes are followed there, and a heartbeat is sent
on the socket beneath, where they end between two frames. Nothing is taken off the receive queue:
the engine keeps the part of a frame that it has read, and does not show it.

proton calls its own check of the peer only while its loop runs. After a pause of the application
it would find that the peer has been silent, without having read what arrived. So it is turned off,
and hbshim checks instead, with what the kernel has received.

The copy of proton's Python part in other packages is covered as well: no module of proton is
imported here, they are found by the name of their package.
"""

from __future__ import annotations

import functools
import importlib
import sys
from typing import Any

from hbshim.adapters.attach import (
    OptionsFor,
    change,
    leave_alone,
    not_negotiated,
    options_for_connect,
    ready,
    refuse_inherited,
    watch,
)
from hbshim.adapters.proton.selectable import unwrap, wrap
from hbshim.adapters.replacing import replace_once
from hbshim.adapters.sockets import wire_for
from hbshim.adapters.versions import require_attributes, require_version
from hbshim.amqp1.idle import IdleTimes, idle_times
from hbshim.errors import AttachError
from hbshim.heartbeat.link import Link
from hbshim.options import Options
from hbshim.runtime.loaded import module_of

SUPPORTED = ">=0.37,<0.41"

#: Where a selectable has its link: None if it is left alone, absent before Open has arrived.
_LINK = "hbshim_link"
#: Where the connection has the options that keep_alive() got.
_OPTIONS = "hbshim_options"
#: Where a selectable has, once it was seen, whether hbshim has advertised an idle-time-out for it.
_ASKED = "hbshim_asked"

_SELECTABLE_NAMES = ("_delegate", "_transport", "_reactor", "send", "recv", "close", "update")
_TRANSPORT_NAMES = (
    "_ssl",
    "close_head",
    "close_tail",
    "encrypted",
    "frames_output",
    "idle_timeout",
    "pending",
    "remote_idle_timeout",
)

IN_C = (
    "its TLS session is inside proton's C library, which no other thread may call; proton sends "
    "heartbeats itself while its loop runs: run the Container in a thread of its own, or connect "
    "to a TLS proxy on this host in plain text"
)


def attach(connection: Any, options: Options) -> Link | None:
    """Keep an open connection of proton alive.

    It stays kept alive when its Container reconnects it.

    Parameters:
        connection: a ``proton.utils.BlockingConnection`` or ``proton.Connection``, or a connection
            of rabbitmq-amqp-python-client.
        options: hbshim's options.

    Returns:
        The link, or None if neither side advertised an idle-time-out.

    Raises:
        AttachError: the connection is not open, is encrypted, or does its I/O in another way.
        UnsupportedVersionError: hbshim does not know this version of proton.
        WorkerError: the worker cannot run in this process.
    """
    endpoint = _endpoint_of(connection)
    transport: Any = getattr(endpoint, "transport", None)
    selectable = getattr(transport, "_selectable", None)
    if selectable is None or not _is_open(endpoint):
        raise AttachError(
            f"this {type(connection).__name__} is not open; attach a connection of proton after "
            "it has opened"
        )
    link: Link | None = selectable.__dict__.get(_LINK)
    if link is not None:
        refuse_inherited(link)
        change(link, options)
    else:
        link = _attach(transport, selectable, options)
    if link is not None:
        _attach_after_reconnects(endpoint, transport._reactor, options)
    return link


def _endpoint_of(connection: Any) -> Any:
    """Return the ``proton.Connection`` of `connection`; None if it has none."""
    for name in ("_connection", "_conn", "conn"):
        connection = getattr(connection, name, connection)
    return connection


def _is_open(endpoint: Any) -> bool:
    both = endpoint.LOCAL_ACTIVE | endpoint.REMOTE_ACTIVE
    # The state stays as it was when the connection is opened again; what came with Open does not.
    return endpoint.state & both == both and endpoint.remote_container is not None


def _root_of(thing: Any) -> str:
    """Return the package that `thing` is from: "proton", or that of a copy."""
    return module_of(type(thing)).rpartition(".")[0]


def prepare(options_for: OptionsFor, root: str = "proton") -> None:
    """Have each connection attached when Open has arrived, while hbshim is installed.

    Idempotent; called again after a reload, for the new class.

    Parameters:
        options_for: returns the options, or None.
        root: the package that has proton's modules.
    """
    kind = importlib.import_module(f"{root}._handlers").IOHandler
    replace_once(kind, "update", lambda stock: staticmethod(_attaching(stock, options_for)))


def _attaching(stock: Any, options_for: OptionsFor) -> Any:
    """Wrap ``IOHandler.update``."""

    @functools.wraps(stock)
    def update(transport: Any, selectable: Any, now: float) -> None:
        if transport is None:
            return  # its deadline passed as the connection ended, for which proton is not prepared
        seen = selectable.__dict__
        if _LINK in seen:
            stock(transport, selectable, now)
            return
        if _ASKED not in seen:
            seen[_ASKED] = _ask(transport, selectable, options_for)
        stock(transport, selectable, now)
        _attach_once_open(transport, selectable, options_for)

    return update


def _ask(transport: Any, selectable: Any, options_for: OptionsFor) -> bool:
    """Advertise the option `heartbeat` for an application that advertises nothing.

    Returns:
        Whether it was done.
    """
    name = _name(selectable)
    options = options_for_connect(options_for, dict, name)
    try:
        _check_version(transport, selectable)
        if options is None or transport.frames_output:  # opened before install()
            setattr(selectable, _LINK, None)
            return False
        advertises = not options.heartbeat or transport.idle_timeout
        if advertises or transport._ssl is not None or not ready(options, name):
            return False
        # proton advertises half of it, and takes the peer for dead after all of it.
        transport.idle_timeout = 2 * options.heartbeat
    except Exception as error:
        setattr(selectable, _LINK, None)
        leave_alone(name, error)
        return False
    return True


def _attach_once_open(transport: Any, selectable: Any, options_for: OptionsFor) -> None:
    if _LINK in selectable.__dict__ or selectable._transport is None:
        return
    try:
        endpoint = transport.connection
        if endpoint is None or not _is_open(endpoint):
            return
        setattr(selectable, _LINK, None)
        options = options_for({})
        link = None if options is None else _attach(transport, selectable, options)
    except Exception as error:
        leave_alone(_name(selectable), error)
        link = None
    if link is None and getattr(selectable, _ASKED):
        # Only hbshim could keep it.
        transport.idle_timeout = 0


def _attach_after_reconnects(endpoint: Any, reactor: Any, options: Options) -> None:
    """Attach a connection again each time its Container has reconnected it."""
    # Of the connection itself, so that nothing is left when it goes.
    setattr(endpoint, _OPTIONS, options)
    handler = reactor.global_handler
    handler = getattr(handler, "base", handler)
    if "update" in handler.__dict__:
        return
    stock = handler.update

    def update(transport: Any, selectable: Any, now: float) -> None:
        if transport is None:
            return  # as above
        stock(transport, selectable, now)
        if selectable.__dict__.get(_LINK) is None and selectable._transport is not None:
            _attach_again(transport, selectable)

    handler.update = update


def _attach_again(transport: Any, selectable: Any) -> None:
    endpoint = transport.connection
    options = getattr(endpoint, _OPTIONS, None)
    if options is None or not _is_open(endpoint):
        return
    setattr(endpoint, _OPTIONS, None)
    try:
        if _attach(transport, selectable, options) is not None:
            setattr(endpoint, _OPTIONS, options)
    except Exception as error:
        leave_alone(_name(selectable), error)


def _name(selectable: Any) -> str:
    try:
        return wire_for(selectable._delegate).name()
    except Exception:
        return "proton"


def _check_version(transport: Any, selectable: Any) -> None:
    version = ".".join(map(str, sys.modules[_root_of(transport)].VERSION))
    require_version("qpid-proton", version, SUPPORTED)
    require_attributes("qpid-proton", version, SUPPORTED, selectable, _SELECTABLE_NAMES)
    require_attributes("qpid-proton", version, SUPPORTED, transport, _TRANSPORT_NAMES)


def _attach(transport: Any, selectable: Any, options: Options) -> Link | None:
    _check_version(transport, selectable)
    if transport._ssl is not None or transport.encrypted:
        raise AttachError(f"the proton connection is encrypted, and {IN_C}")
    times = idle_times_of(transport)
    if times.timeout is None:
        not_negotiated(_name(selectable), options)
        return None
    link = wrap(selectable, _root_of(transport), times)
    try:
        watch(link, options)
    except BaseException:
        link.close()
        unwrap(selectable)
        raise
    setattr(selectable, _LINK, link)
    # Open was sent: the peer does not notice.
    transport.idle_timeout = 0
    return link


def idle_times_of(transport: Any) -> IdleTimes:
    """Return the idle times of an open connection, by its ``proton.Transport``."""
    # proton advertises half of its setting, in whole milliseconds.
    own = round(transport.idle_timeout * 1000) // 2
    return idle_times(own, round(transport.remote_idle_timeout * 1000))
