"""The links of a connection: which are attached, and which are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from proton import Endpoint, Terminus

from wsgi_harness.router.addresses import Distribution
from wsgi_harness.router.core import Router
from wsgi_harness.router.endpoints import ReceiverEndpoint, SenderEndpoint
from wsgi_harness.router.links import ReceiverLink
from wsgi_harness.router.policy import RESOURCE_LIMIT, UNAUTHORIZED, Permissions

#: The target of the links on which routers announce their addresses to each other.
ANNOUNCE = "$announce"
_DISALLOWED = "link disallowed by local policy"


class Attachments:
    """The links.

    Parameters:
        changed: called when there is something to be sent.
        dynamic_address: makes an address for a client that wants one.
        capacity: credit of each sender.
        from_router: the peer is another router.

    Attributes:
        permissions: what the client may do; set once it has logged in.
        endpoints: the links that are attached, with their names.
    """

    def __init__(
        self,
        router: Router,
        changed: Callable[[], None],
        dynamic_address: Callable[[], str],
        *,
        capacity: int,
        from_router: bool,
    ) -> None:
        self._router = router
        self._changed = changed
        self._dynamic_address = dynamic_address
        self._capacity = capacity
        self._from_router = from_router
        self.permissions = Permissions(None, "")
        self.endpoints: dict[SenderEndpoint | ReceiverEndpoint, str] = {}

    def attach(self, link: Any) -> tuple[str, str] | None:
        """Answer a link that the peer attaches; return condition and description if it is refused.

        Parameters:
            link: of proton.
        """
        terminus = link.remote_target if link.is_receiver else link.remote_source
        if self._from_router and terminus.address == ANNOUNCE:
            _accept(link)
            link.flow(self._capacity)
            return None
        if self._too_many(link):
            return RESOURCE_LIMIT, _DISALLOWED
        if not self._allowed(link, terminus):
            return UNAUTHORIZED, _DISALLOWED
        if terminus.type == Terminus.UNSPECIFIED:
            return "amqp:not-found", "No route to the destination node"
        address = self._dynamic_address() if terminus.dynamic else terminus.address or None
        if address is not None and self._router.distribution(address) is Distribution.UNAVAILABLE:
            return "amqp:not-found", "Node not found"
        _accept(link)
        if link.is_receiver:
            self._router.attach_sender(self._carry_sender(link).link, address)
        else:
            assert address is not None
            link.source.address = address
            self._router.attach_receiver(self._carry_receiver(link).link, address)
        return None

    def open_sender(self, session: Any, address: str) -> ReceiverLink:
        """Open a link to an address of another router, which receives there.

        Parameters:
            session: of proton.
        """
        link = session.sender(f"{address}#{len(self.endpoints)}")
        link.source.address = link.target.address = address
        link.open()
        self._changed()
        return self._carry_receiver(link).link

    def detach(self, link: Any) -> None:
        """Handle the end of a link of proton."""
        endpoint = getattr(link, "endpoint", None)
        if endpoint in self.endpoints:
            del self.endpoints[endpoint]
            endpoint.end()

    def detach_session(self, session: Any) -> None:
        """Handle the end of all links of a session of proton."""
        link = session.connection.link_head(0)
        while link is not None:
            if link.session == session:
                self.detach(link)
            link = link.next(0)

    def detach_all(self) -> None:
        """Handle the end of the connection."""
        endpoints, self.endpoints = self.endpoints, {}
        for endpoint in endpoints:
            endpoint.end()

    def _allowed(self, link: Any, terminus: Any) -> bool:
        permissions = self.permissions
        if terminus.dynamic:
            return not link.is_receiver and permissions.dynamic_source
        if link.is_receiver:
            if not terminus.address:
                return permissions.anonymous_sender
            return permissions.may_send(terminus.address)
        return bool(terminus.address) and permissions.may_receive(terminus.address)

    def _too_many(self, link: Any) -> bool:
        group = self.permissions.group
        if group is None:
            return False
        kind: type[Any] = SenderEndpoint if link.is_receiver else ReceiverEndpoint
        allowed = group.max_senders if link.is_receiver else group.max_receivers
        return 0 < allowed <= sum(isinstance(each, kind) for each in self.endpoints)

    def _carry_sender(self, link: Any) -> SenderEndpoint:
        endpoint = SenderEndpoint(
            self._router,
            link,
            self._changed,
            capacity=self._capacity,
            from_router=self._from_router,
            allows=self.permissions.may_send,
        )
        self._add(link, endpoint)
        return endpoint

    def _carry_receiver(self, link: Any) -> ReceiverEndpoint:
        endpoint = ReceiverEndpoint(
            self._router,
            link,
            self._changed,
            capacity=self._capacity,
            to_router=self._from_router,
        )
        self._add(link, endpoint)
        return endpoint

    def _add(self, link: Any, endpoint: SenderEndpoint | ReceiverEndpoint) -> None:
        link.endpoint = endpoint
        self.endpoints[endpoint] = link.name


def is_own(link: Any) -> bool:
    """Return whether this side has attached a link of proton already."""
    return bool(link.state & Endpoint.LOCAL_ACTIVE)


def _accept(link: Any) -> None:
    link.source.copy(link.remote_source)
    link.target.copy(link.remote_target)
    link.snd_settle_mode = link.remote_snd_settle_mode
    link.rcv_settle_mode = link.remote_rcv_settle_mode
    link.open()
