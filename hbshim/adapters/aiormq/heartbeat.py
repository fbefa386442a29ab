"""aiormq, and with it aio-pika.

aiormq's own heartbeats are sent by a task, which does not run while the event loop is blocked. It
is replaced: after a long block it could also take a connection for dead whose heartbeats are still
in the receive queue. hbshim reports a dead peer instead, by shutting the socket down, after the
same time without a byte received: 3 (T + 1) s. For the same reason the time since aiormq has read a
frame does not count: a connection that is closed right after a long block would end without Close,
and lose what its transport has buffered.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
import weakref
from typing import Any

from aiormq.connection import TransportFactory, __version__
from aiormq.exceptions import AMQPConnectionError

from hbshim.adapters.asyncio.streams import UnknownTransportError, beneath, open_link
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
from hbshim.adapters.replacing import replace_once
from hbshim.adapters.versions import require_attributes, require_version
from hbshim.errors import AttachError, UnsupportedVersionError
from hbshim.heartbeat.link import Link
from hbshim.heartbeat.state import silence_of
from hbshim.observe.loops import watch_loop
from hbshim.options import URL_KEYS, Options, check_url_key
from hbshim.runtime.fork import OPENED_BEFORE_FORK

SUPPORTED = ">=6.9,<8"

#: The coroutine function of aiormq's own heartbeat task, and the seconds without a frame after
#: which aiormq takes a connection for dead.
_HEARTBEAT = "_Connection__heartbeat"
_GRACE = "_Connection__heartbeat_grace_timeout"

_NAMES = (
    "url",
    "loop",
    "heartbeat_timeout",
    "is_opened",
    "_transport_factory",
    _HEARTBEAT,
    _GRACE,
    "HEARTBEAT_GRACE_MULTIPLIER",
    "__dict__",
)


class _NeverExceeded(float):
    """Seconds that limit how long aiormq waits, and that no time since a frame exceeds."""

    def __lt__(self, other: float) -> bool:
        # Python asks the subclass first in `delay > grace`.
        return False


def attach(connection: Any, options: Options) -> Link | None:
    """Keep an open ``aiormq.Connection`` alive; called in its event loop.

    Returns:
        The link, or None if no heartbeat was negotiated.

    Raises:
        AttachError: the connection is not open, the call comes from outside of its event loop, or
            hbshim cannot send beneath its transport.
        UnsupportedVersionError: hbshim does not know this version of aiormq.
        WorkerError: the worker cannot run in this process.
    """
    _check_version(connection)
    link: Link | None = getattr(connection, "hbshim_link", None)
    if link is not None:
        refuse_inherited(link)
        change(link, options)
        return link
    if not connection.is_opened:
        raise AttachError("the aiormq connection is not open; await its connect() first")
    _require_own_loop(connection)
    link = _keep(connection, writer_of(connection), options)
    if link is not None:
        _end_heartbeat_task(connection)
    return link


def _check_version(connection: Any) -> None:
    require_version("aiormq", __version__, SUPPORTED)
    require_attributes("aiormq", __version__, SUPPORTED, connection, _NAMES)


def _require_own_loop(connection: Any) -> None:
    try:
        running: Any = asyncio.get_running_loop()
    except RuntimeError:
        running = None
    if connection.loop.is_running() and running is not connection.loop:
        raise AttachError(
            "this connection belongs to an event loop that runs in another thread; call "
            "hbshim.keep_alive() there, for example with loop.call_soon_threadsafe()"
        )


def writer_of(connection: Any) -> Any:
    """Return the ``asyncio.StreamWriter`` of an open connection, which only its task refers to.

    Raises:
        AttachError: it is not where hbshim knows it to be.
    """
    writer = _found_writer(connection)
    if writer is None:
        raise AttachError(
            f"hbshim does not find the stream of this connection in aiormq {__version__}; "
            "call hbshim.install() before it is opened"
        )
    return writer


def _found_writer(connection: Any) -> Any:
    task = getattr(connection, "_writer_task", None)
    return inspect.getcoroutinelocals(task.get_coro()).get("writer") if task is not None else None


def transport_of(connection: Any) -> Any:
    """Return the transport of an open connection; None if it is not found."""
    return getattr(_found_writer(connection), "transport", None)


def _keep(connection: Any, writer: Any, options: Options) -> Link | None:
    if not connection.heartbeat_timeout:
        not_negotiated(_name(connection), options)
        return None
    timeout = float(connection.heartbeat_timeout)
    reference, grace = weakref.ref(connection), getattr(connection, _GRACE)

    def forget() -> None:
        if (alive := reference()) is not None:
            vars(alive).pop("hbshim_link", None)

    def closing() -> bool:
        # aiormq cancels the task that writes; this sends Close, and waits for the answer. Python
        # 3.10 does not show it.
        task = getattr(reference(), "_writer_task", None)
        return bool(getattr(task, "cancelling", int)())

    silence = max(silence_of(timeout, None), float(grace))
    link, end = open_link(writer, timeout, silence, forked_error, forget, closing)
    try:
        watch(link, options)
    except BaseException:
        end()
        raise
    watch_loop(connection.loop, link)
    connection.hbshim_link = link
    # Until it is collected: a connection that has ended is not opened again. aiormq 6.9 would not
    # close the stream of one whose peer was found dead.
    setattr(connection, _GRACE, _NeverExceeded(grace))
    return link


def _end_heartbeat_task(connection: Any) -> None:
    code = getattr(type(connection), _HEARTBEAT).__code__
    for task in asyncio.all_tasks(connection.loop):
        coroutine: Any = task.get_coro()
        if getattr(coroutine, "cr_code", None) is not code:
            continue
        if inspect.getcoroutinelocals(coroutine).get("self") is connection:
            task.cancel()


def forked_error() -> Exception:
    """Return the error for a child process that uses its parent's connection."""
    error: Exception = AMQPConnectionError(OPENED_BEFORE_FORK)
    return error


def _name(connection: Any) -> str:
    return f"aiormq {connection.url.host}:{connection.url.port}"


def url_options(url: Any) -> dict[str, object]:
    """Return hbshim's options in the query of a URL; aiormq ignores their keys."""
    return {URL_KEYS[key]: value for key, value in url.query.items() if key in URL_KEYS}


def prepare(options_for: OptionsFor) -> None:
    """Have every ``aiormq.Connection`` attached when it connects, while hbshim is installed.

    Idempotent; called again after a reload, for the new class.
    """
    kind = importlib.import_module("aiormq.connection").Connection
    replace_once(kind, "connect", lambda connect: _attaching(connect, options_for))


def _attaching(connect: Any, options_for: OptionsFor) -> Any:
    """Wrap ``aiormq.Connection.connect``."""

    @functools.wraps(connect)
    async def connect_and_attach(self: Any, *args: Any, **kwargs: Any) -> Any:
        name = _name(self)
        options = options_for_connect(options_for, lambda: url_options(self.url), name)
        if options is None or self.is_opened:
            return await connect(self, *args, **kwargs)
        for key in self.url.query:
            check_url_key(key)
        try:
            _check_version(self)
            opening = _Opening(self, options)
        except Exception as error:
            leave_alone(name, error)
            return await connect(self, *args, **kwargs)
        try:
            result = await connect(self, *args, **kwargs)
            opening.attach()
        finally:
            opening.end()
        return result

    return connect_and_attach


class _Opening(TransportFactory):  # type: ignore[misc]
    """A connection while it is being opened, and aiormq's hook to its stream."""

    def __init__(self, connection: Any, options: Options) -> None:
        self._connection = connection
        self._options = options
        self._writer: Any = None
        self._stock_factory = connection._transport_factory
        vars(connection).pop(_HEARTBEAT, None)  # of an earlier attempt to connect
        self._stock_heartbeat = getattr(connection, _HEARTBEAT)
        #: Whether hbshim sends the heartbeats.
        self._kept: asyncio.Future[bool] = connection.loop.create_future()
        connection._transport_factory = self
        setattr(connection, _HEARTBEAT, self._heartbeat)

    async def create(self, url: Any, **kwargs: Any) -> Any:
        reader, self._writer = await self._stock_factory.create(url, **kwargs)
        self._request_heartbeat()
        return reader, self._writer

    def _request_heartbeat(self) -> None:
        """Request the option's heartbeat where the application requests none.

        Only if hbshim can send it: the broker closes a connection that promised heartbeats.
        """
        connection, seconds = self._connection, self._options.heartbeat
        if connection.heartbeat_timeout or not seconds:
            return
        try:
            beneath(self._writer)
        except (AttachError, UnsupportedVersionError):
            return  # recorded when it is attached
        if ready(self._options, _name(connection)):
            connection.heartbeat_timeout = seconds
            setattr(connection, _GRACE, (seconds + 1) * connection.HEARTBEAT_GRACE_MULTIPLIER)

    async def _heartbeat(self) -> None:
        """Take the place of aiormq's heartbeat task, and start that if hbshim cannot help."""
        if not await self._kept:
            self._connection.create_task(self._stock_heartbeat())

    def attach(self) -> None:
        """Keep the open connection alive, or record why it is left alone."""
        name, kept = _name(self._connection), False
        try:
            kept = _keep(self._connection, self._writer, self._options) is not None
        except UnknownTransportError as error:
            leave_alone(name, error, "left-alone")
        except Exception as error:
            leave_alone(name, error)
        self._kept.set_result(kept)

    def end(self) -> None:
        """Restore the stock factory."""
        self._connection._transport_factory = self._stock_factory
        if not self._kept.done():
            self._kept.set_result(False)
