"""A connection of a client, or of another router, on proton."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping
from typing import Any, Protocol

from proton import (
    UNDESCRIBED,
    Array,
    Collector,
    Condition,
    Data,
    Transport,
    TransportException,
    symbol,
)
from proton import Connection as ProtonConnection

from wsgi_harness.router.attachments import Attachments, is_own
from wsgi_harness.router.configuration import Connector, Listener
from wsgi_harness.router.core import Router
from wsgi_harness.router.links import ReceiverLink
from wsgi_harness.router.login import ClientLogin, Login, LoginError
from wsgi_harness.router.policy import RESOURCE_LIMIT, Permissions, Policy
from wsgi_harness.router.stream import Stream

INTER_ROUTER = "inter-router"
#: Bytes that may wait for the socket before proton has to keep the rest.
_BUFFER = 1 << 20


class Host(Protocol):
    """What a connection needs of its router's process."""

    @property
    def router(self) -> Router:
        """The addresses."""

    @property
    def policy(self) -> Policy:
        """The virtual hosts."""

    @property
    def users(self) -> Mapping[str, str]:
        """Passwords, by name and realm."""

    @property
    def mesh(self) -> Routers:
        """The other routers."""

    @property
    def open_properties(self) -> Mapping[str, str]:
        """What it states about itself in Open."""

    @property
    def container(self) -> str:
        """Its name."""

    @property
    def traces(self) -> bool:
        """Whether frames go to standard error."""

    def changed(self, connection: Connection) -> None:
        """Note that a connection may have something to send."""

    def opened(self, connection: Connection) -> None:
        """Report that a client has opened a connection."""

    def closed(self, connection: Connection, reason: str) -> None:
        """Report that a connection has ended."""

    def linger(self, connection: Connection) -> None:
        """End a connection whose peer does not close it in time."""

    def forget(self, sock: socket.socket) -> None:
        """Wait for a socket no more, before it is closed."""

    def dynamic_address(self) -> str:
        """Return a new address for a client that wants one."""


class Routers(Protocol):
    """What a connection needs of what connects routers."""

    def joined(self, connection: Connection) -> None:
        """Handle a connection with another router."""

    def left(self, connection: Connection) -> None:
        """Handle the end of a connection."""

    def announced(self, connection: Connection, payload: bytes) -> None:
        """Handle what another router reports about an address."""


class Connection:
    """A connection.

    Parameters:
        settings: of the listener that accepted it, or of the connector that opened it.

    Attributes:
        number: of this connection in the router.
        peer: its network address.
        user: that has logged in; None: anonymous.
        attachments: its links.
        over: its socket is closed.
        due: when :meth:`tick` may have something to do; 0.0: never.
    """

    def __init__(
        self, host: Host, number: int, stream: Stream, settings: Listener | Connector
    ) -> None:
        self._host = host
        self.number = number
        self.stream = stream
        self.settings = settings
        self.peer = _address(stream.socket)
        self.user: str | None = None
        self.over = False
        self.due = 0.0
        self._from_router = settings.role == INTER_ROUTER
        self._login: Login | None = None
        self._ending = False
        self._closing_reported = False
        self.attachments = Attachments(
            host.router,
            self.changed,
            host.dynamic_address,
            capacity=settings.link_capacity,
            from_router=self._from_router,
        )
        self.proton = ProtonConnection()
        self._collector = Collector()
        self.proton.collect(self._collector)
        accepted = isinstance(settings, Listener)
        self._transport = Transport(Transport.SERVER if accepted else Transport.CLIENT)
        self._transport.max_frame_size = settings.max_frame_size
        # proton advertises half of it, and closes the connection after all of it (R1).
        self._transport.idle_timeout = settings.idle_timeout_seconds
        if host.traces:
            self._transport.trace(Transport.TRACE_FRM)
        self._transport.bind(self.proton)
        self.proton.container = host.container
        # Not a list: proton 0.37, which Debian has, sends it as one.
        self.proton.offered_capabilities = Array(
            UNDESCRIBED, Data.SYMBOL, symbol("ANONYMOUS-RELAY")
        )
        self.proton.properties = {**host.open_properties, "qd.conn-id": number}
        self._client_login: ClientLogin | None = None
        if isinstance(settings, Connector):
            if settings.sasl_mechanisms:
                self._client_login = ClientLogin()
                self.stream.send(self._client_login.first)
            self.proton.open()

    @property
    def container(self) -> str | None:
        """What the peer calls itself; None: nothing, or what is not UTF-8."""
        try:
            found: str | None = self.proton.remote_container
        except UnicodeDecodeError:
            return None
        return found

    def changed(self) -> None:
        """Note that there may be something to be sent."""
        self._host.changed(self)

    def tick(self, now: float) -> None:
        """Have what is due done."""
        self.due = float(self._transport.tick(now))
        self.process()

    def readable(self) -> None:
        """Handle what has arrived."""
        data = self.stream.receive()
        if data is None:
            return
        if not data:
            with contextlib.suppress(TransportException):
                self._transport.close_tail()
            self.process()
            self.end()
        elif not self._ending:
            self._handle(data)
            self.process()

    def process(self) -> None:
        """Handle proton's events, and send what is to be sent."""
        self._dispatch()
        if self._client_login is not None and not self._client_login.done:
            return
        while not self._ending and len(self.stream.unsent) < _BUFFER:
            pending = self._transport.pending()
            if pending < 0:
                self._finish()
                return
            if not pending:
                break
            data = self._transport.peek(pending)
            self.stream.send(data)
            self._transport.pop(len(data))
            self._dispatch()

    def end(self) -> None:
        """End the stream without a word, or handle that the peer has ended it."""
        if self.over:
            return
        self.over = True
        self._report_closing("" if self._is_closed else "the peer ended the stream")
        self.attachments.detach_all()
        self._host.mesh.left(self)
        self._host.forget(self.stream.socket)
        self.stream.close()
        self.changed()

    @property
    def _is_closed(self) -> bool:
        return bool(self.proton.state & ProtonConnection.REMOTE_CLOSED)

    def _report_closing(self, reason: str) -> None:
        if not self._closing_reported and self.container is not None:
            self._closing_reported = True
            self._host.closed(self, reason)

    def open_sender(self, address: str) -> ReceiverLink:
        """Open a link to an address of another router, which receives there."""
        return self.attachments.open_sender(self.own_session, address)

    @property
    def own_session(self) -> Any:
        """The session of proton with the links that this router opens."""
        session = getattr(self.proton, "own_session", None)
        if session is None:
            session = self.proton.own_session = self.proton.session()
            session.open()
        return session

    def _handle(self, data: bytes) -> None:
        if isinstance(self.settings, Listener) and (self._login is None or not self._login.done):
            data = self._log_in(self.settings, data)
        if self._client_login is not None and not self._client_login.done:
            try:
                data = self._client_login.receive(data)
            except LoginError:
                self.end()
                return
        while data and not self._ending:
            capacity = self._transport.capacity()
            if capacity <= 0:
                return
            with contextlib.suppress(TransportException):
                self._transport.push(data[:capacity])
            data = data[capacity:]
            self._dispatch()

    def _log_in(self, listener: Listener, data: bytes) -> bytes:
        """Handle bytes of the login; return those that follow it."""
        if self._login is None:
            if listener.require_ssl and not self.stream.encrypted:
                self._finish()
                return b""
            self._login = Login(
                (listener.sasl_mechanisms or "ANONYMOUS").split(),
                self._host.users,
                required=listener.authenticate_peer,
                subject=self.stream.subject,
            )
        try:
            answer, rest = self._login.receive(data)
        except LoginError as error:
            self.stream.send(error.args[0])
            self._finish()
            return b""
        self.stream.send(answer)
        self.user = self._login.user
        return rest

    def _finish(self) -> None:
        """End the stream after what is sent; the peer closes the socket first, so it reads all."""
        self._ending = True
        self.attachments.detach_all()
        self.stream.end()
        self._host.linger(self)

    # Events of proton, under the names that it gives them.

    def _dispatch(self) -> None:
        while (event := self._collector.peek()) is not None:
            handler = getattr(self, f"_{event.type.method}", None)
            if handler is not None and not self.over:
                handler(event)
            self._collector.pop()

    def _on_connection_remote_open(self, event: Any) -> None:
        permissions: Permissions | None = Permissions(None, "")
        if not self._from_router:
            name = getattr(self.settings, "policy_vhost", None) or self.proton.remote_hostname
            permissions = self._host.policy.permissions(name, self.user, self.peer)
        if permissions is None:
            text = "connection disallowed by local policy"
            self.proton.condition = Condition(RESOURCE_LIMIT, text)
            self.proton.close()
            return
        self.attachments.permissions = permissions
        if permissions.group is not None and permissions.group.max_frame_size:
            self._transport.max_frame_size = permissions.group.max_frame_size
        self.proton.open()
        self._host.opened(self)
        if self._from_router:
            self._host.mesh.joined(self)

    def _on_connection_remote_close(self, event: Any) -> None:
        self._report_closing("")
        self.attachments.detach_all()
        self.proton.close()

    def _on_transport_error(self, event: Any) -> None:
        condition = self._transport.condition
        if condition is not None:
            self._report_closing(f"{condition.name}: {condition.description}")
        self.attachments.detach_all()

    def _on_session_remote_open(self, event: Any) -> None:
        event.session.open()

    def _on_session_remote_close(self, event: Any) -> None:
        self.attachments.detach_session(event.session)
        event.session.close()

    def _on_link_remote_open(self, event: Any) -> None:
        link = event.link
        if is_own(link):
            return
        refused = self.attachments.attach(link)
        if refused is not None:
            link.condition = Condition(*refused)
            link.close()

    def _on_link_remote_close(self, event: Any) -> None:
        self.attachments.detach(event.link)
        event.link.close()

    def _on_link_remote_detach(self, event: Any) -> None:
        self.attachments.detach(event.link)
        event.link.detach()

    def _on_link_flow(self, event: Any) -> None:
        endpoint = getattr(event.link, "endpoint", None)
        if endpoint is not None:
            endpoint.on_flow()
            # proton forgets `drained` if a delivery is settled before it has written the flow.
            self._transport.pending()

    def _on_delivery(self, event: Any) -> None:
        link = event.link
        endpoint = getattr(link, "endpoint", None)
        if endpoint is not None:
            endpoint.on_delivery(event.delivery)
        elif link.is_receiver and self._from_router and not event.delivery.partial:
            payload = link.recv(event.delivery.pending)
            link.advance()
            event.delivery.settle()
            link.flow(1)
            self._host.mesh.announced(self, payload)


def _address(sock: socket.socket) -> str:
    with contextlib.suppress(OSError):
        return str(sock.getpeername()[0])
    return ""
