"""The router's process: sockets, time, and what connects the parts."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import selectors
import socket
import ssl
import sys
import time
from collections.abc import Callable
from typing import Any

from wsgi_harness.router.configuration import (
    Configuration,
    Connector,
    Dialect,
    Listener,
    SslProfile,
)
from wsgi_harness.router.connection import Connection
from wsgi_harness.router.core import Router
from wsgi_harness.router.login import accounts
from wsgi_harness.router.management import Management
from wsgi_harness.router.mesh import Mesh
from wsgi_harness.router.policy import Policy
from wsgi_harness.router.stream import Stream

#: Seconds after which a connector tries again.
_RECONNECT = 0.2
#: Seconds that a peer has to read the last bytes of a connection.
_LINGER = 2.0


class Server:
    """The router.

    Parameters:
        settle: seconds until another router knows a new address (R9).
        traces: frames go to standard error.
        report: called with what happens to clients' connections, as plain data.

    Attributes:
        router: the addresses.
        connections: those of clients and routers.
        users: passwords, by name and realm.
    """

    def __init__(
        self,
        configuration: Configuration,
        dialect: Dialect,
        *,
        settle: float,
        traces: bool = False,
        report: Callable[[dict[str, object]], None] = lambda _: None,
    ) -> None:
        self._configuration = configuration
        self._report = report
        self.traces = traces
        entity = configuration.router
        self.router = Router(configuration.rules, entity.default_distribution)
        self.policy = Policy(configuration.policy, configuration.vhosts)
        self.users = accounts(entity.sasl_config_dir, entity.sasl_config_name)
        self.container = entity.id
        self.open_properties = {"product": dialect.product, "version": "test-router"}
        self.mesh = Mesh(self.router, settle, self.schedule, self.connect_again)
        self.connections: dict[int, Connection] = {}
        self._numbers = itertools.count(1)
        self._addresses = itertools.count(1)
        self._selector = selectors.DefaultSelector()
        self._changed: dict[Connection, None] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timer_numbers = itertools.count()
        Management(self.router, dialect.management, self.connections, self.schedule)

    def start(self) -> list[tuple[str, int]]:
        """Listen, and connect to other routers; return where it listens."""
        bound = []
        for listener in self._configuration.listeners:
            sock = _listen(listener)
            tls = self._server_context(listener.ssl_profile)
            accept = _partial(self._accept, sock, listener, tls)
            self._selector.register(sock, selectors.EVENT_READ, accept)
            bound.append(sock.getsockname()[:2])
        for connector in self._configuration.connectors:
            self._connect(connector)
        return bound

    def run(self) -> None:
        """Run until the process ends."""
        while True:
            self._run_once()

    def changed(self, connection: Connection) -> None:
        """Note that a connection may have something to send."""
        self._changed[connection] = None

    def opened(self, connection: Connection) -> None:
        """Report that a client has opened a connection."""
        limit = connection.settings.idle_timeout_seconds
        self._report({**_event("opened", connection), "idle_timeout": limit})

    def closed(self, connection: Connection, reason: str) -> None:
        """Report that a connection has ended."""
        self._report({**_event("closed", connection), "reason": reason})

    def schedule(self, delay: float, action: Callable[[], None]) -> None:
        """Call something later."""
        entry = time.monotonic() + delay, next(self._timer_numbers), action
        heapq.heappush(self._timers, entry)

    def linger(self, connection: Connection) -> None:
        """End a connection whose peer does not close it in time."""
        self.schedule(_LINGER, connection.end)

    def dynamic_address(self) -> str:
        """Return a new address for a client that wants one."""
        name = f"temp.{next(self._addresses)}.{time.time_ns():x}"
        return f"amqp:/_topo/0/{self._configuration.router.id}/{name}"

    def _run_once(self) -> None:
        for key, events in self._selector.select(self._pause()):
            if isinstance(key.data, Connection):
                self._guard(key.data, _partial(self._serve, key.data, events))
            else:
                key.data()
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()
        for connection in list(self.connections.values()):
            self._guard(connection, _partial(connection.tick, now))
        # What one connection sends may change another.
        while self._changed:
            connection = next(iter(self._changed))
            del self._changed[connection]
            self._guard(connection, connection.process)
        for connection in list(self.connections.values()):
            self._watch(connection)

    @staticmethod
    def _guard(connection: Connection, work: Callable[[], None]) -> None:
        """Do something for a connection, and end it where its peer's input cannot be handled."""
        try:
            work()
        except Exception as error:
            # Whatever one peer sends, the others are served.
            reason = f"{type(error).__name__}: {error}"
            sys.stderr.write(f"connection {connection.number} from {connection.peer}: {reason}\n")
            connection.end()

    def _serve(self, connection: Connection, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            connection.stream.flush()
        if events & selectors.EVENT_READ:
            connection.readable()

    def _watch(self, connection: Connection) -> None:
        """Wait for what a connection waits for."""
        if connection.over:
            del self.connections[connection.number]
            return
        events = selectors.EVENT_READ
        if connection.stream.unsent:
            events |= selectors.EVENT_WRITE
        if self._selector.get_key(connection.stream.socket).events != events:
            self._selector.modify(connection.stream.socket, events, connection)

    def forget(self, sock: socket.socket) -> None:
        """Wait for a socket no more, before it is closed."""
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(sock)

    def _pause(self) -> float | None:
        times = [each.due for each in self.connections.values() if each.due]
        if self._timers:
            times.append(self._timers[0][0])
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _add(self, stream: Stream, settings: Listener | Connector) -> None:
        number = next(self._numbers)
        connection = Connection(self, number, stream, settings)
        self.connections[number] = connection
        self._selector.register(stream.socket, selectors.EVENT_READ, connection)
        self.changed(connection)

    def _accept(self, sock: socket.socket, listener: Listener, tls: ssl.SSLContext | None) -> None:
        with contextlib.suppress(OSError):
            accepted, _ = sock.accept()
            self._add(Stream(accepted, tls), listener)

    def connect_again(self, connector: Connector) -> None:
        """Connect to another router again, after a pause."""
        self.schedule(_RECONNECT, lambda: self._connect(connector))

    def _connect(self, connector: Connector) -> None:
        try:
            sock = socket.create_connection((connector.host, int(connector.port)), _LINGER)
        except OSError:
            self.connect_again(connector)
            return
        profile = self._configuration.profiles.get(connector.ssl_profile or "")
        tls = None if profile is None else _client_context(profile, connector)
        self._add(Stream(sock, tls, connector.host), connector)

    def _server_context(self, name: str | None) -> ssl.SSLContext | None:
        if name is None:
            return None
        profile = self._configuration.profiles[name]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        _load(context, profile)
        if profile.ca_cert_file:
            context.verify_mode = ssl.CERT_OPTIONAL
        return context


def _client_context(profile: SslProfile, connector: Connector) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = connector.verify_hostname
    _load(context, profile)
    return context


def _load(context: ssl.SSLContext, profile: SslProfile) -> None:
    if profile.cert_file:
        context.load_cert_chain(profile.cert_file, profile.private_key_file, profile.password)
    if profile.ca_cert_file:
        context.load_verify_locations(profile.ca_cert_file)
    if profile.ciphers:
        context.set_ciphers(profile.ciphers)


def _listen(listener: Listener) -> socket.socket:
    port = 5672 if listener.port == "amqp" else int(listener.port)
    sock = socket.create_server((listener.host, port), backlog=512)
    sock.setblocking(False)
    return sock


def _event(kind: str, connection: Connection) -> dict[str, object]:
    return {
        "kind": kind,
        "at": time.time(),
        "connection": connection.number,
        "container": connection.container,
    }


def _partial(function: Callable[..., None], *arguments: Any) -> Callable[[], None]:
    return lambda: function(*arguments)
