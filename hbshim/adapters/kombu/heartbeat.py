"""kombu: its ``amqp`` transport over py-amqp, and options in a kombu URL.

Importing this module changes nothing in kombu. :class:`Connection` replaces kombu's class in a
program; :func:`register` changes kombu itself, and ``hbshim.install()`` calls it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Mapping
from typing import Any

import amqp
import kombu
from amqp.exceptions import RecoverableConnectionError
from kombu.connection import ConnectionPool
from kombu.transport import TRANSPORT_ALIASES, pyamqp

from hbshim.adapters.attach import OptionsFor, attach_or_leave, options_for_connect, ready
from hbshim.adapters.kombu import other_transports
from hbshim.adapters.pyamqp import heartbeat as amqp_adapter
from hbshim.adapters.pyamqp.heartbeat import KOMBU_OPTION
from hbshim.adapters.replacing import replace_once
from hbshim.adapters.versions import require_attributes, require_version
from hbshim.errors import AttachError
from hbshim.heartbeat import service
from hbshim.heartbeat.link import Link
from hbshim.heartbeat.state import WATCHED, State
from hbshim.options import Options, split_url

SUPPORTED = ">=5.3,<6"


def connection_options(conninfo: Any) -> dict[str, object]:
    """Return hbshim's options of a ``kombu.Connection``, from URL or ``transport_options``."""
    return dict((conninfo.transport_options or {}).get(KOMBU_OPTION) or {})


class Transport(pyamqp.Transport):  # type: ignore[misc]
    """kombu's py-amqp transport; every connection it opens is kept alive."""

    driver_name = "py-amqp+hbshim"

    def establish_connection(self) -> Any:
        client, name = self.client, _name(self.client)
        options = options_for_connect(_load, lambda: connection_options(client), name)
        if options is None:
            return super().establish_connection()
        asked = client.heartbeat
        asking = bool(not asked and options.heartbeat and ready(options, name))
        try:
            client.heartbeat = options.heartbeat if asking else asked
            connection = super().establish_connection()
        finally:
            client.heartbeat = asked
        if getattr(connection._transport, "hbshim_link", None) is not None:
            return connection  # install() has attached it, with the same options
        if not _attach_or_leave(connection, options, name) and asking:
            # The broker would close a connection that promised heartbeats.
            connection.collect()
            connection = super().establish_connection()
        return connection


def _name(conninfo: Any) -> str:
    return f"kombu {conninfo.hostname}:{conninfo.port}"


def _load(url: Mapping[str, object]) -> Options:
    return Options.load(url=url)


def _attach_or_leave(connection: Any, options: Options, name: str) -> bool:
    """Attach an ``amqp.Connection``; return False if it is left as it would be without hbshim."""
    try:
        return attach_or_leave(amqp_adapter.attach, connection, options, name)
    except BaseException:
        connection.collect()
        raise


def take_url_options(init: Any) -> Any:
    """Wrap ``kombu.Connection.__init__``: kombu rejects query keys that it does not know."""

    @functools.wraps(init)
    def __init__(self: Any, hostname: Any = "localhost", *args: Any, **kwargs: Any) -> None:  # noqa: N807
        hostname, options = _split_hosts(hostname)
        init(self, hostname, *args, **kwargs)
        _keep_options(self, options)

    return __init__


def _keep_options(connection: Any, options: Mapping[str, object]) -> None:
    """Store the options of its URL in a ``kombu.Connection``, where its clones inherit them."""
    if options:
        merged = {**options, **connection_options(connection)}
        connection.transport_options = {
            **(connection.transport_options or {}),
            KOMBU_OPTION: merged,
        }


def _split_hosts(hostname: Any) -> tuple[Any, dict[str, object]]:
    """Split a hostname as kombu does: one URL, several joined by semicolons, or a list.

    The options of the first one take precedence.
    """
    if isinstance(hostname, str) and "?" in hostname:
        parts = [split_url(url) for url in hostname.split(";")]
        cleaned: Any = ";".join(url for url, _ in parts)
    elif isinstance(hostname, (list, tuple)):
        parts = [split_url(url) for url in hostname]
        cleaned = [url for url, _ in parts]
    else:
        return hostname, {}
    options: dict[str, object] = {}
    for _, found in reversed(parts):
        options.update(found)
    return cleaned, options


def attach(connection: Any, options: Options) -> Link | None:
    """Keep a ``kombu.Connection`` alive, now and after each of its reconnections.

    Returns:
        The link of its current connection, or None if no heartbeat was negotiated.

    Raises:
        AttachError: it is not connected, or not over py-amqp.
        UnsupportedVersionError: hbshim does not know this version of kombu or py-amqp.
    """
    require_version("kombu", kombu.__version__, SUPPORTED)
    names = ("_establish_connection", "_connection", "transport_cls")
    require_attributes("kombu", kombu.__version__, SUPPORTED, connection, names)
    current = connection._connection
    if current is None:
        raise AttachError("the kombu connection is not open; call its connect() first")
    if not isinstance(current, amqp.Connection):
        raise AttachError(
            f"hbshim keeps kombu's py-amqp transport alive, not {type(current).__module__}; "
            "use an amqp:// URL"
        )
    link = amqp_adapter.attach(current, options)
    before = vars(connection).get("hbshim_options")
    connection.hbshim_options = options if before is None else options.over(before)
    # Two threads agree on one, and a call that was interrupted is completed by the next one.
    connection._establish_connection = vars(connection).setdefault(
        "hbshim_establish", _Establishing(connection)
    )
    return link


class _Establishing:
    """Takes the place of a kombu connection's ``_establish_connection``.

    Attributes:
        stock: what was in this place.
    """

    def __init__(self, connection: Any) -> None:
        self.stock = connection._establish_connection
        self._connection = connection

    def __call__(self) -> Any:
        return _attach_again(self._connection, self.stock())


def _attach_again(connection: Any, fresh: Any) -> Any:
    """Keep a new connection of a ``kombu.Connection`` alive, if the one before was."""
    options = vars(connection).get("hbshim_options")
    if options is not None:
        _attach_or_leave(fresh, options, _name(connection))
    return fresh


def keep_dead_ones_back(prepare_resource: Any) -> Any:
    """Wrap ``ConnectionPool.prepare``, which a pool calls at each checkout of a connection.

    kombu checks out what it has. A connection whose peer has closed or is silent is replaced first,
    so nothing is published on a dead connection, and the caller gets no error. The same applies to
    a connection that a forked child inherited.
    """

    @functools.wraps(prepare_resource)
    def prepare(self: Any, resource: Any) -> Any:
        connection = prepare_resource(self, resource)
        # An error of hbshim must not prevent the checkout.
        with contextlib.suppress(Exception):
            if is_dead(connection, "taken out of kombu's pool before it was used again"):
                replace_dead(connection)
        return connection

    return prepare


def is_kept_alive(connection: Any) -> bool:
    """Return whether a ``kombu.Connection`` is kept alive by hbshim; does not connect."""
    return _link_of(connection) is not None


def is_dead(connection: Any, consequence: str) -> bool:
    """Return whether a ``kombu.Connection`` that is kept alive has lost its peer, or is inherited.

    Parameters:
        connection: the connection.
        consequence: what happens to it then, for the event.
    """
    link = _link_of(connection)
    if link is None or _usable(link):
        return False
    service.current().metrics.record("dead-in-pool", link.name, consequence)
    return True


def replace_dead(connection: Any) -> bool:
    """Replace the dead connection beneath a ``kombu.Connection``.

    Makes one attempt, at the host that the failover strategy names next. If it fails, the dead
    connection stays: its first use fails, and kombu handles a lost connection, with its failover,
    retry policy and errors. If there were no connection, kombu would connect within one limit for
    all hosts, and not retry.

    Returns:
        Whether the connection can be used.
    """
    link = _link_of(connection)
    if link is not None and link.state is State.ORPHANED:
        connection.collect()
        return True
    url = next(connection.cycle) if connection.cycle else None
    stands_in = isinstance(connection, Connection) or "get_transport_cls" in vars(connection)
    kind = Connection if stands_in else kombu.Connection
    spare = kind(**dict(connection._info(resolve=False)))
    try:
        if url is not None:
            spare.switch(url)
        fresh = spare._establish_connection()
    except Exception:
        return False
    if url is not None:
        connection.switch(url)
    else:
        connection.collect()
    connection._closed = False
    connection._default_channel = None
    connection._connection = _attach_again(connection, fresh)
    fresh.client = connection
    return True


def _link_of(connection: Any) -> Link | None:
    # The public names would connect; connections of other libraries have no `_transport`.
    transport = getattr(connection._connection, "_transport", None)
    link: Link | None = getattr(transport, "hbshim_link", None)
    return link


def _usable(link: Link) -> bool:
    try:
        link.check_peer()
    except RecoverableConnectionError:
        return False
    return link.state in WATCHED


class SslTransport(Transport, pyamqp.SSLTransport):  # type: ignore[misc]
    """The same with kombu's defaults for ``amqps://``."""


class Connection(kombu.Connection):  # type: ignore[misc]
    """A ``kombu.Connection`` that is kept alive from its opening.

    Its clones and those of its pools are kept alive too; a pool replaces a connection whose peer is
    gone. Over a transport other than py-amqp's it is an ordinary ``kombu.Connection``.

    Parameters:
        hostname: a host or a broker URL, several of them joined by semicolons, or a list; the
            query of a URL may hold hbshim's options.
        args, kwargs: kombu's own. `transport_options` also takes hbshim's options, by name:
            ``{"hbshim": {"worker": "pthread"}}``; they take precedence over the URL.

    Raises:
        OptionError: the URL has an option of hbshim that no URL may set.
    """

    def __init__(self, hostname: Any = "localhost", *args: Any, **kwargs: Any) -> None:
        hostname, options = _split_hosts(hostname)
        super().__init__(hostname, *args, **kwargs)
        _keep_options(self, options)

    def get_transport_cls(self) -> Any:
        """Return the transport class: kombu's choice, with its py-amqp transports replaced."""
        return _kept_alive(super().get_transport_cls())

    def Pool(self, limit: int | None = None, **kwargs: Any) -> ConnectionPool:  # noqa: N802
        """Return a pool of connections that are kept alive; arguments as for kombu's."""
        return Pool(self, limit, **kwargs)


class Pool(ConnectionPool):  # type: ignore[misc]
    """The pool that :meth:`Connection.Pool` makes; kombu's always makes kombu's own connections."""

    def new(self) -> Any:
        """Return another connection, not open yet."""
        connection = super().new()
        choose = connection.get_transport_cls
        connection.get_transport_cls = lambda: _kept_alive(choose())
        return connection

    prepare = keep_dead_ones_back(ConnectionPool.prepare)


def _kept_alive(transport: Any) -> Any:
    return {pyamqp.Transport: Transport, pyamqp.SSLTransport: SslTransport}.get(
        transport, transport
    )


def prepare(options_for: OptionsFor) -> None:
    """Report kombu's other transports; py-amqp's adapter attaches the connections over py-amqp."""
    register()
    other_transports.prepare(options_for)


def register_transport() -> None:
    """Register the transport ``hbshim`` with kombu; idempotent."""
    TRANSPORT_ALIASES["hbshim"] = f"{__name__}:Transport"


def register() -> None:
    """Register hbshim with kombu, for this process; idempotent.

    ``hbshim://`` is then a transport whose connections are kept alive, each broker URL may have
    hbshim's options, and kombu's pools replace a connection whose peer is gone.
    """
    register_transport()
    # Those of before a reload stay as they are: kombu.Connection is one of them.
    module = importlib.import_module("kombu.connection")
    replace_once(module.Connection, "__init__", take_url_options)
    replace_once(module.ConnectionPool, "prepare", keep_dead_ones_back)
