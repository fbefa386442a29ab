"""pika: BlockingConnection, SelectConnection and the other connections on pika's own transports.

pika buffers frames and writes them in its transport's ``_produce``, reads in
``_consume``; both are wrapped there. Its heartbeat checker, whose timers need a
running I/O loop, is replaced by one that leaves the work to hbshim.

Longer than others: what is wrapped and what undoes it stand side by side.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import importlib
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import pika
from pika.connection import Connection
from pika.exceptions import StreamLostError

from hbshim.adapters.attach import (
    OptionsFor,
    attach_or_leave,
    check_worker,
    leave_alone,
    not_negotiated,
    ready,
)
from hbshim.adapters.attachment import ATTEMPTS, Attachment, attach_once, restore
from hbshim.adapters.earlier_calls import NO_CALLS, EarlierCalls
from hbshim.adapters.loop_link import LoopLink
from hbshim.adapters.replacing import replace_once
from hbshim.adapters.sockets import wire_for
from hbshim.adapters.versions import require_attributes, require_version
from hbshim.errors import AttachError, OptionError
from hbshim.heartbeat import service
from hbshim.heartbeat.guard import Guard
from hbshim.heartbeat.link import Link
from hbshim.heartbeat.wire import Wire
from hbshim.observe.loops import watch_loop
from hbshim.options import URL_KEYS, ConnectOptions, Options, check_url_key, split_url
from hbshim.runtime.fork import OPENED_BEFORE_FORK, process_mark

if TYPE_CHECKING:
    from typing_extensions import Unpack

SUPPORTED = ">=1.3,<2"

_CONNECTION_NAMES = (
    "_transport",
    "_frame_buffer",
    "_heartbeat_checker",
    "_create_heartbeat_checker",
    "_set_connection_state",
    "_output_marshaled_frames",
    "is_closing",
    "CONNECTION_CLOSED",
)
_TRANSPORT_NAMES = (
    "_sock",
    "_tx_buffers",
    "_tx_buffered_byte_count",
    "_produce",
    "_consume",
    "_initiate_abort",
    "_close_and_finalize",
    "write",
)

#: Attributes in which pika's TLS transport stores its own bound methods, to call and compare them.
_STORED_ACTIONS = ("_ssl_readable_action", "_ssl_writable_action")

#: The most bytes of buffered frames that are sent together. pika copies the rest of its buffer's
#: head after a partial send, so large frames stay separate.
_JOIN_AT_MOST = 16384


#: Of a checker of pika's: which call stops it.
_STOPPED_BY = "hbshim_stopped_by"

_OPTION_NAMES = frozenset(field.name for field in dataclasses.fields(Options))

#: An option that a user may try to set in a URL.
_NOT_IN_URL = "hbshim_strip_polling"


class UnknownTransportError(AttachError):
    """A connection of pika uses a transport that is not pika's own."""


class KeptAliveChecker:
    """Replaces pika's ``HeartbeatChecker``: same calls, no timers.

    pika itself stops it when the connection ends.
    """

    connection_is_idle = False

    def __init__(self, link: Link) -> None:
        self._link = link

    def received(self) -> None:
        """Do nothing: pika has read a heartbeat, and the kernel has reported it already."""

    def stop(self) -> None:
        self._link.close()


def attach(connection: Any, options: Options, *, new: bool = False) -> Link | None:
    """Keep an open pika connection alive.

    Parameters:
        connection: a ``BlockingConnection``, or any ``pika.connection.Connection``
            on pika's own transport (select, asyncio, tornado, gevent).
        options: hbshim's options.
        new: it was just made, so that no other thread has it.

    Returns:
        The link, or None if no heartbeat was negotiated.

    Raises:
        AttachError: the connection is not open, or uses a transport that is not pika's own.
        UnsupportedVersionError: hbshim does not know this version of pika.
        WorkerError: the worker cannot run in this process.
    """
    require_version("pika", pika.__version__, SUPPORTED)
    if isinstance(connection, pika.BlockingConnection):
        require_attributes("pika", pika.__version__, SUPPORTED, connection, ("_impl",))
        connection = connection._impl
    require_attributes("pika", pika.__version__, SUPPORTED, connection, _CONNECTION_NAMES)
    if connection._transport is None or connection.is_closed:
        raise AttachError("the pika connection is not open; attach it after it has opened")
    if not connection.params.heartbeat:
        not_negotiated(_name(connection), options)
        return None
    link = _attach(connection, options, new=new)
    checker = connection._heartbeat_checker
    if not isinstance(checker, KeptAliveChecker):
        if checker is not None:
            _stop_once(checker)
        connection._heartbeat_checker = KeptAliveChecker(link)
    return link


def _stop_once(checker: Any) -> None:
    """Stop pika's checker; of two threads that do it at the same time, only one does."""
    mine = object()
    try:
        if vars(checker).setdefault(_STOPPED_BY, mine) is mine:
            checker.stop()
    except BaseException:
        # Interrupted: the next call completes it.
        vars(checker).pop(_STOPPED_BY, None)
        raise


def _attach(connection: Any, options: Options, *, new: bool) -> Link:
    link = attach_once(vars(connection), lambda: _Attachment(connection, new=new), options)
    loop = _loop_of(connection)
    if loop is not None and isinstance(link, LoopLink):
        link.belongs_to(loop)
        watch_loop(loop, link)
    return link


def _loop_of(connection: Any) -> Any:
    """Return the event loop of asyncio that runs a connection; None for another I/O loop."""
    ioloop = getattr(connection, "ioloop", None)
    loop = getattr(ioloop, "asyncio_loop", ioloop)  # Tornado's has one of asyncio
    return loop if hasattr(loop, "call_soon_threadsafe") else None


def _replace_method(transport: Any, name: str, stock: Any, function: Any) -> None:
    """Replace a method, also where pika has stored it; idempotent."""
    setattr(transport, name, function)
    _replace_stored(transport, stock, function)


def _restore_method(transport: Any, name: str, stock: Any, function: Any) -> None:
    """Undo :func:`_replace_method`; idempotent."""
    if vars(transport).get(name) is function:
        vars(transport).pop(name, None)
    _replace_stored(transport, function, stock)


def _replace_stored(transport: Any, before: Any, after: Any) -> None:
    for stored in _STORED_ACTIONS:
        if getattr(transport, stored, None) == before:
            setattr(transport, stored, after)


def prepare(options_for: OptionsFor) -> None:
    """Have every pika connection attached at its connection.tune, while hbshim is installed.

    Idempotent; called again after a reload, for the new class.
    """
    module = importlib.import_module("pika.connection")
    _accept_url_options(module.URLParameters)

    def attaching(create: Any) -> Any:
        @functools.wraps(create)
        def create_checker(self: Any) -> Any:
            return _checker(self, functools.partial(create, self), options_for)

        return create_checker

    replace_once(module.Connection, "_create_heartbeat_checker", attaching)


def _checker(connection: Any, create: Callable[[], Any], options_for: OptionsFor) -> Any:
    """Attach a connection before its connection.tune-ok; return its heartbeat checker.

    Parameters:
        connection: the connection.
        create: makes pika's own, for a connection that is left alone.
        options_for: returns the options, or None.
    """
    asked = connection.params.heartbeat
    try:
        options = options_for(url_options(connection.params))
        if options is None:
            return create()
        # The negotiated value is sent to the broker after this.
        connection.params.heartbeat = asked or options.heartbeat
        if not connection.params.heartbeat:
            not_negotiated(_name(connection), options)
            return None
        link = _attach(connection, options, new=True)
    except UnknownTransportError as error:
        # Such as Twisted's. Its loop runs pika's timers, so pika's own checker is the better
        # choice.
        leave_alone(_name(connection), error, "left-alone")
    except Exception as error:
        leave_alone(_name(connection), error)
    else:
        return KeptAliveChecker(link)
    connection.params.heartbeat = asked
    return create()


def _name(connection: Any) -> str:
    return f"pika {connection.params.host}:{connection.params.port}"


class _Attachment(Attachment):
    """The guard around the functions of a connection and its transport, until it is closed."""

    __slots__ = ("_closing", "_connection", "_methods", "_output", "_transport")

    link: LoopLink

    def __init__(self, connection: Any, *, new: bool) -> None:
        transport = connection._transport
        if not hasattr(transport, "_sock"):
            raise UnknownTransportError(
                f"hbshim does not know pika's transport {type(transport).__qualname__}; use "
                "BlockingConnection, SelectConnection, or the asyncio, tornado or gevent adapter"
            )
        require_attributes("pika", pika.__version__, SUPPORTED, transport, _TRANSPORT_NAMES)
        wire = wire_for(transport._sock)
        earlier = NO_CALLS
        if not new:
            earlier = EarlierCalls(
                [transport._consume],
                [transport._produce],
                connection.params.heartbeat,
                one_session=wire.route == "tls",
            )
        link = _make_link(connection, transport, wire, earlier)
        super().__init__(link, earlier)
        self._connection = weakref.ref(connection)
        self._transport = weakref.ref(transport)
        self._output = _guarded_output(connection._output_marshaled_frames, link)
        self._closing = _closing_functions(transport, link, self.remove)
        guard, before_idle_write = link.guard, link.before_idle_write
        produce, consume = transport._produce, transport._consume
        guarded_produce = guard.around_flush(
            _joining(transport, produce, guard),
            before_idle_write,
            _tears,
            link.tear,
            BlockingIOError,
            transport._tx_buffers,
        )
        guarded_consume = guard.around_read(consume, before_idle_write)
        self._methods = [
            ("_produce", produce, guarded_produce),
            ("_consume", consume, guarded_consume),
        ]

    def _wrap(self) -> None:
        connection, transport = self._connection(), self._transport()
        if connection is None or transport is None:
            return
        connection._output_marshaled_frames = self._output
        for method in self._methods:
            _replace_method(transport, *method)
        vars(transport).update(self._closing)

    def _unwrap(self) -> None:
        connection, transport = self._connection(), self._transport()
        if connection is not None:
            restore(connection, {"_output_marshaled_frames": self._output})
            if self.kept is not False:
                vars(connection).pop(ATTEMPTS, None)
        if transport is not None:
            for method in self._methods:
                _restore_method(transport, *method)
            restore(transport, self._closing)


def _make_link(connection: Any, transport: Any, wire: Wire, earlier: EarlierCalls) -> LoopLink:
    connection_ref = weakref.ref(connection)
    buffers = transport._tx_buffers

    def half_written() -> bool:
        # The rest of a partial send is at the head of this queue. But whole frames are also there,
        # from the publish until the first attempt to send them; in between, a green poller may
        # switch to the hub, which may be blocked for long.
        return (link.guard.unsent and bool(buffers)) or earlier.writing()

    def half_read() -> bool:
        alive = connection_ref()
        return alive is not None and bool(alive._frame_buffer or earlier.reading())

    def closing() -> bool:
        alive = connection_ref()
        return alive is not None and bool(alive.is_closing)

    link = LoopLink(
        wire,
        float(connection.params.heartbeat),
        wire.name(),
        service.current().metrics,
        half_written=half_written,
        half_read=half_read,
        closing=closing,
        on_orphaned=lambda: _close_books(connection_ref()),
        forked_error=forked_error,
    )
    link.guard.unsent = bool(buffers)
    return link


def _guarded_output(output: Callable[[Any], None], link: Link) -> Callable[[Any], None]:
    before_idle_write, mine = link.before_idle_write, process_mark()

    def output_frames(frames: Any) -> None:
        # pika uses its poller before it writes, and a child shares that with its parent, too. Once
        # for a message, whereas a transport's `write` is called for each of its frames.
        if not mine[0]:
            before_idle_write()
        try:
            output(frames)
        except BaseException:
            # Some of the frames may be buffered, with or without the poller's knowledge.
            link.guard.torn = True
            link.tear()
            raise

    return output_frames


def _closing_functions(
    transport: Any, link: Link, remove: Callable[[], None]
) -> dict[str, Callable[..., None]]:
    finalize, abort = transport._close_and_finalize, transport._initiate_abort

    def close_and_finalize() -> None:
        remove()
        if link.inherited:
            _finalize_copy(transport)
        else:
            finalize()

    def initiate_abort(error: BaseException | None) -> None:
        # pika first removes the descriptor from its poller, which a child shares.
        if link.inherited:
            close_and_finalize()
        else:
            abort(error)

    return {"_close_and_finalize": close_and_finalize, "_initiate_abort": initiate_abort}


def _joining(transport: Any, stock_produce: Callable[[], None], guard: Guard) -> Callable[[], None]:
    """Wrap pika's ``_produce``: small frames are sent together."""
    buffers = transport._tx_buffers

    def produce() -> None:
        # pika sends each of a message's three frames separately. Sending them together saves two
        # system calls of four, which makes up for the cost of the guard.
        if (
            len(buffers) > 1
            and transport._tx_buffered_byte_count <= _JOIN_AT_MOST
            and not guard.unsent
        ):
            whole = list(buffers)
            # Only the frames that were seen, and in their place: a program may publish in another
            # thread than that of pika's loop, against pika's rules, and pika tolerates that.
            for _ in whole:
                buffers.popleft()
            buffers.appendleft(b"".join(whole))
        stock_produce()

    return produce


def _finalize_copy(transport: Any) -> None:
    """Do what pika's ``_close_and_finalize`` does, without its ``shutdown``.

    For a forked child, whose copy of the descriptor has been dropped.
    """
    if transport._state != transport._STATE_COMPLETED:
        transport._sock = transport._protocol = transport._nbio = None
        transport._state = transport._STATE_COMPLETED


def _tears(_error: BaseException) -> bool:
    """Return whether pika's buffers may differ from the bytes that are still unsent.

    Only a socket that accepts no more bytes raises from the call that sends. Any other exception
    may come between that call and pika's own record of it, and then pika would send some bytes
    twice.
    """
    return True


def forked_error() -> Exception:
    """Return the error for a child process that uses its parent's connection."""
    error: Exception = StreamLostError(OPENED_BEFORE_FORK)
    return error


def _close_books(connection: Any) -> None:
    """In a forked child: have every further call refused, most of them by pika's own checks."""
    if connection is not None:
        _leave_poller(connection)
        connection._set_connection_state(connection.CONNECTION_CLOSED)
        # A publish checks only whether its channel is open.
        if connection._transport is not None:
            connection._transport.write = _refuse_write


def _leave_poller(connection: Any) -> None:
    """Close this process's copy of epoll before the child's clean-up unregisters anything.

    epoll(7): parent and child share one set of descriptors. If a child removes one, the parent gets
    no more events for it, and waits forever for the broker's answer.
    """
    poller: Any = getattr(getattr(connection, "ioloop", None), "_poller", None)
    if hasattr(poller, "_uninit_poller"):
        poller._uninit_poller()


def _refuse_write(_data: bytes) -> None:
    raise forked_error()


def _accept_url_options(parameters: Any) -> None:
    """Let ``pika.URLParameters`` accept hbshim's query keys; it rejects keys without a setter.

    The values stay in the parameters' own copy of the query, where :func:`url_options` finds them.
    """
    for key in URL_KEYS:
        setattr(parameters, f"_set_url_{key}", functools.partialmethod(_check, key))
    setattr(parameters, f"_set_url_{_NOT_IN_URL}", _refuse_in_url)


def _check(_parameters: Any, key: str, value: str) -> None:
    """Check one option when pika reads the URL, as it checks its own."""
    Options.load(url={URL_KEYS[key]: value}, config={}, environ={})


def _refuse_in_url(_parameters: Any, _value: str) -> None:
    check_url_key(_NOT_IN_URL)


def _parameters_of(url: str) -> Any:
    """Return ``pika.URLParameters``, whether or not they accept hbshim's keys."""
    stripped, given = split_url(url)
    parameters = pika.URLParameters(stripped)
    keys = {option: key for key, option in URL_KEYS.items()}
    parameters._all_url_query_values.update({keys[name]: [given[name]] for name in given})
    return parameters


def url_options(parameters: Any) -> dict[str, object]:
    """Return hbshim's options in the query of the URL that `parameters` were made from.

    ``pika.URLParameters`` keep that query; other parameters have none.
    """
    query = getattr(parameters, "_all_url_query_values", None) or {}
    return {URL_KEYS[key]: values[-1] for key, values in query.items() if key in URL_KEYS}


def _asking(parameters: Any, options: Options) -> Any:
    """Return `parameters`; those that request no heartbeat request the option `heartbeat`."""
    if isinstance(parameters, (list, tuple)):
        return [_asking(one, options) for one in parameters]
    if getattr(parameters, "heartbeat", None) != 0 or not options.heartbeat:
        return parameters
    asking = copy.copy(parameters)
    if ready(options, f"pika {parameters.host}:{parameters.port}"):
        asking.heartbeat = options.heartbeat
    return asking


def _read(parameters: Any, options: ConnectOptions) -> tuple[Any, Options]:
    """Return the parameters to connect with, and the options for the connection.

    Raises:
        OptionError: an option is not valid.
        WorkerError: the worker needs a library that this program has not loaded.
    """
    if options.get("strip_polling") is not None:
        raise OptionError("strip_polling is for the whole process; give it to hbshim.install()")
    if isinstance(parameters, str):
        parameters = _parameters_of(parameters)
    loaded = Options.load(url=url_options(parameters), **options)
    check_worker(loaded)
    return _asking(parameters, loaded), loaded


class BlockingConnection(pika.BlockingConnection):  # type: ignore[misc]
    """A ``pika.BlockingConnection`` that is kept alive from its opening.

    Parameters:
        parameters: pika's connection parameters, or a broker URL whose query may
            hold hbshim's options; None for pika's defaults.
        options: hbshim's options by keyword, for example ``heartbeat_in_pthread=True``;
            they take precedence over the URL.

    Raises:
        OptionError: an option is not valid.
        WorkerError: the worker needs a library that this program has not loaded.
        pika.exceptions.AMQPConnectionError: as pika raises it.
    """

    def __init__(self, parameters: Any = None, **options: Unpack[ConnectOptions]) -> None:
        parameters, loaded = _read(parameters, options)
        super().__init__(parameters)
        try:
            attach_or_leave(attach, self, loaded, _name(self._impl))
        except BaseException:
            self.close()
            raise


class SelectConnection(pika.SelectConnection):  # type: ignore[misc]
    """A ``pika.SelectConnection`` that is kept alive from its opening.

    Parameters:
        parameters: as for :class:`BlockingConnection`.
        args, keywords: pika's callbacks and other arguments, and hbshim's options by keyword;
            these take precedence over the URL.

    Raises:
        OptionError: an option is not valid.
        WorkerError: the worker needs a library that this program has not loaded.
    """

    def __init__(self, parameters: Any = None, *args: Any, **keywords: Any) -> None:
        options = {name: keywords.pop(name) for name in _OPTION_NAMES & keywords.keys()}
        parameters, self._hbshim_options = _read(parameters, cast(ConnectOptions, options))
        super().__init__(parameters, *args, **keywords)

    def _create_heartbeat_checker(self) -> Any:
        create = Connection._create_heartbeat_checker
        # pika's own class, not the one that install() has put in its place.
        create = getattr(create, "__wrapped__", create)
        return _checker(self, lambda: create(self), lambda _url: self._hbshim_options)
