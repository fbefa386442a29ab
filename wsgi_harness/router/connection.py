"""A connection of a client, or of another router, on proton."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping
from typing import Any, Protocol

from proton import Collector, Condition, Endpoint, Terminus, Transport, TransportException
from proton import Connection as ProtonConnection

from wsgi_harness.router.addresses import Distribution
from wsgi_harness.router.configuration import Connector, Listener
from wsgi_harness.router.core import Router
from wsgi_harness.router.endpoints import ReceiverEndpoint, SenderEndpoint
from wsgi_harness.router.login import Login, LoginError
from wsgi_harness.router.policy import RESOURCE_LIMIT, UNAUTHORIZED, Permissions, Policy
from wsgi_harness.router.stream import Stream

INTER_ROUTER = "inter-router"
#: Bytes that may wait for the socket before proton has to keep the rest.
_BUFFER = 1 << 20
#: The target of the links on which routers tell each other their addresses.
ANNOUNCE = "$announce"


class Routers(Protocol):
    """What a connection needs of what connects routers."""

    def joined(self, connection: Connection) -> None:
        """Handle a connection with another router."""

    def left(self, connection: Connection) -> None:
        """Handle the end of a connection."""

    def announced(self, connection: Connection, payload: bytes) -> None:
        """Handle what another router tells about an address."""


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
        """What it tells about itself in Open."""

    @property
    def container(self) -> str:
        """Its name."""

    @property
    def traces(self) -> bool:
        """Whether frames go to standard error."""

    def changed(self, connection: Connection) -> None:
        """Note that a connection may have something to send."""

    def linger(self, connection: Connection) -> None:
        """End a connection whose peer does not close it in time."""

    def forget(self, sock: socket.socket) -> None:
        """Wait for a socket no more, before it is closed."""

    def dynamic_address(self) -> str:
        """Return a new address for a client that wants one."""


class Connection:
    """A connection.

    Parameters:
        settings: of the listener that accepted it, or of the connector that opened it.

    Attributes:
        number: of this connection in the router.
        user: who has logged in; None: anonymous.
        endpoints: its links.
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
        self.from_router = settings.role == INTER_ROUTER
        self.endpoints: dict[str, SenderEndpoint | ReceiverEndpoint] = {}
        self.over = False
        self.due = 0.0
        self._permissions: Permissions | None = None
        self._login: Login | None = None
        self._user: str | None = None
        self._ending = False
        accepted = isinstance(settings, Listener)
        self.peer = _address(stream.socket)
        self.proton = ProtonConnection()
        self._collector = Collector()
        self.proton.collect(self._collector)
        self._transport = Transport(Transport.SERVER if accepted else Transport.CLIENT)
        self._transport.max_frame_size = settings.max_frame_size
        # proton advertises half of it, and closes the connection after all of it (R1).
        self._transport.idle_timeout = settings.idle_timeout_seconds
        if host.traces:
            self._transport.trace(Transport.TRACE_FRM)
        self._transport.bind(self.proton)
        self._describe()
        if not accepted:
            self.proton.open()

    @property
    def user(self) -> str | None:
        return self._user

    @property
    def opened(self) -> bool:
        """Whether both sides have opened it, and none has closed it."""
        both = Endpoint.LOCAL_ACTIVE | Endpoint.REMOTE_ACTIVE
        return bool(self.proton.state & both == both)

    def changed(self) -> None:
        """Note that there may be something to be sent."""
        self._host.changed(self)

    def close(self, condition: str, description: str) -> None:
        """Close it with an error."""
        self.proton.condition = Condition(condition, description)
        self.proton.close()
        self.changed()

    def tick(self, now: float) -> float:
        """Have what is due done; return when something may be due again, or 0.0: never."""
        due = float(self._transport.tick(now))
        self.process()
        return due

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
        """Handle the end of the stream."""
        if self.over:
            return
        self.over = True
        self._detach_all()
        self._host.mesh.left(self)
        self._host.forget(self.stream.socket)
        self.stream.close()

    def open_sender(self, address: str) -> Any:
        """Open a link to an address of another router."""
        link = self.mesh_session().sender(f"{address}#{len(self.endpoints)}#{self.number}")
        link.target.address = address
        link.source.address = address
        link.open()
        self.changed()
        return link

    def drop(self, link: Any) -> None:
        """Close a link that this router has opened."""
        self._detach(link)
        link.close()
        self.changed()

    def mesh_session(self) -> Any:
        """Return the session for links that this router opens."""
        session = getattr(self.proton, "mesh", None)
        if session is None:
            session = self.proton.mesh = self.proton.session()
            session.open()
        return session

    def carry_receiver(self, link: Any) -> ReceiverEndpoint:
        """Have a link of proton carry what the router sends."""
        endpoint = ReceiverEndpoint(
            self._host.router,
            link,
            self.changed,
            capacity=self.settings.link_capacity,
            to_router=self.from_router,
        )
        link.endpoint = endpoint
        self.endpoints[f"out {link.name}"] = endpoint
        return endpoint

    def _carry_sender(self, link: Any, permissions: Permissions) -> SenderEndpoint:
        endpoint = SenderEndpoint(
            self._host.router,
            link,
            self.changed,
            capacity=self.settings.link_capacity,
            from_router=self.from_router,
            allows=permissions.may_send,
        )
        link.endpoint = endpoint
        self.endpoints[f"in {link.name}"] = endpoint
        return endpoint

    # What has arrived.

    def _handle(self, data: bytes) -> None:
        if isinstance(self.settings, Listener) and (self._login is None or not self._login.done):
            data = self._log_in(self.settings, data)
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
                self._ending = True
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
        self._user = self._login.user
        return rest

    def _finish(self) -> None:
        """End the stream after what is sent; the peer closes the socket first, so it reads all."""
        self._ending = True
        self._detach_all()
        self.stream.end()
        self._host.linger(self)

    def _detach_all(self) -> None:
        endpoints, self.endpoints = self.endpoints, {}
        for endpoint in endpoints.values():
            endpoint.end()

    def _describe(self) -> None:
        self.proton.container = self._host.container
        self.proton.offered_capabilities = ["ANONYMOUS-RELAY"]
        self.proton.properties = {
            **self._host.open_properties,
            "qd.conn-id": self.number,
        }

    # Events of proton.

    def _dispatch(self) -> None:
        while (event := self._collector.peek()) is not None:
            handler = getattr(self, f"_{event.type.method}", None)
            if handler is not None and not self.over:
                handler(event)
            self._collector.pop()

    def _on_connection_remote_open(self, event: Any) -> None:
        vhost = getattr(self.settings, "policy_vhost", None) or self.proton.remote_hostname
        permissions = self._host.policy.permissions(vhost, self._user, self.peer)
        if self.from_router:
            permissions = Permissions(None, "")
        if permissions is None:
            self.close(RESOURCE_LIMIT, "connection disallowed by local policy")
            return
        self._permissions = permissions
        group = permissions.group
        if group is not None and group.max_frame_size:
            self._transport.max_frame_size = group.max_frame_size
        self.proton.open()
        if self.from_router:
            self._host.mesh.joined(self)

    def _on_connection_remote_close(self, event: Any) -> None:
        self._detach_all()
        self.proton.close()

    def _on_session_remote_open(self, event: Any) -> None:
        event.session.open()

    def _on_session_remote_close(self, event: Any) -> None:
        link = self.proton.link_head(0)
        while link is not None:
            following = link.next(0)
            if link.session == event.session:
                self._detach(link)
            link = following
        event.session.close()

    def _on_link_remote_open(self, event: Any) -> None:
        link = event.link
        if link.state & Endpoint.LOCAL_ACTIVE or self._permissions is None:
            return
        refused = self._attach(link, self._permissions)
        if refused is not None:
            link.condition = Condition(*refused)
            link.close()

    def _attach(self, link: Any, permissions: Permissions) -> tuple[str, str] | None:
        """Attach a link; return why it is refused, if it is."""
        terminus = link.remote_target if link.is_receiver else link.remote_source
        if self.from_router and terminus.address == ANNOUNCE:
            self._accept(link)
            link.flow(self.settings.link_capacity)
            return None
        denied = UNAUTHORIZED, "link disallowed by local policy"
        if self._too_many(link, permissions):
            return RESOURCE_LIMIT, "link disallowed by local policy"
        address = terminus.address or None
        if terminus.dynamic:
            if link.is_receiver or not permissions.dynamic_source:
                return denied
            address = self._host.dynamic_address()
        elif address is None:
            if not link.is_receiver or not permissions.anonymous_sender:
                return denied
        elif not (permissions.may_send if link.is_receiver else permissions.may_receive)(address):
            return denied
        if terminus.type == Terminus.UNSPECIFIED:
            return "amqp:not-found", "No route to the destination node"
        router = self._host.router
        if address is not None and router.distribution(address) is Distribution.UNAVAILABLE:
            return "amqp:not-found", "Node not found"
        self._accept(link)
        if link.is_receiver:
            router.attach_sender(self._carry_sender(link, permissions).link, address)
        else:
            assert address is not None
            link.source.address = address
            router.attach_receiver(self.carry_receiver(link).link, address)
        return None

    def _accept(self, link: Any) -> None:
        link.source.copy(link.remote_source)
        link.target.copy(link.remote_target)
        link.snd_settle_mode = link.remote_snd_settle_mode
        link.rcv_settle_mode = link.remote_rcv_settle_mode
        link.open()

    def _too_many(self, link: Any, permissions: Permissions) -> bool:
        if permissions.group is None:
            return False
        kind: type[Any] = SenderEndpoint if link.is_receiver else ReceiverEndpoint
        allowed = permissions.group.max_senders
        if not link.is_receiver:
            allowed = permissions.group.max_receivers
        return 0 < allowed <= sum(isinstance(each, kind) for each in self.endpoints.values())

    def _on_link_remote_close(self, event: Any) -> None:
        self._detach(event.link)
        event.link.close()

    def _on_link_remote_detach(self, event: Any) -> None:
        self._detach(event.link)
        event.link.detach()

    def _detach(self, link: Any) -> None:
        name = f"{'in' if link.is_receiver else 'out'} {link.name}"
        if name in self.endpoints and self.endpoints[name] is getattr(link, "endpoint", None):
            self.endpoints.pop(name).end()

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
        elif link.is_receiver and self.from_router and not event.delivery.partial:
            payload = link.recv(event.delivery.pending)
            link.advance()
            event.delivery.settle()
            link.flow(1)
            self._host.mesh.announced(self, payload)

    def _on_transport_error(self, event: Any) -> None:
        self._detach_all()


def _address(sock: socket.socket) -> str:
    with contextlib.suppress(OSError):
        return str(sock.getpeername()[0])
    return ""
