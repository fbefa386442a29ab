"""Routers that are connected with each other (R9).

Each reports to the others which addresses have receivers at its own clients. A router then opens
a link to that address at the other router, and the link is one more receiver of the address here.
So credit, outcomes and withdrawal pass through both routers as through one.

The protocol between the routers is this module's own: test routers connect with test routers only.
Each router must be connected with each other one; a message passes two routers at most.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from proton import Link, Message

from wsgi_harness.router.addresses import Address
from wsgi_harness.router.attachments import ANNOUNCE
from wsgi_harness.router.configuration import Connector
from wsgi_harness.router.connection import Connection
from wsgi_harness.router.core import Router
from wsgi_harness.router.links import ReceiverLink


class _Neighbor:
    """Another router.

    Attributes:
        announcements: the link on which it receives addresses.
        links: to its addresses; they stay when an address has no receivers for now.
        reachable: the addresses that have receivers.
    """

    def __init__(self, announcements: Any) -> None:
        self.announcements = announcements
        self.links: dict[str, ReceiverLink] = {}
        self.reachable: set[str] = set()


class Mesh:
    """The other routers.

    Parameters:
        settle: seconds until they learn of a new address.
        schedule: calls something after some seconds.
        connect_again: connects to a router whose connection has ended.
    """

    def __init__(
        self,
        router: Router,
        settle: float,
        schedule: Callable[[float, Callable[[], None]], None],
        connect_again: Callable[[Connector], None],
    ) -> None:
        self._router = router
        self._settle = settle
        self._schedule = schedule
        self._connect_again = connect_again
        self._neighbors: dict[Connection, _Neighbor] = {}
        #: Addresses of which the others know.
        self._known: set[str] = set()
        router.on_reachable = self._reachable
        router.on_unreachable = self._unreachable

    def joined(self, connection: Connection) -> None:
        """Handle a connection with another router."""
        link = connection.own_session.sender(f"{ANNOUNCE}#{connection.number}")
        link.target.address = ANNOUNCE
        link.snd_settle_mode = Link.SND_SETTLED
        link.open()
        self._neighbors[connection] = _Neighbor(link)
        for name in sorted(self._known):
            self._send_reachable(connection, name, True)

    def left(self, connection: Connection) -> None:
        """Handle the end of a connection, and connect again if this router had connected."""
        self._neighbors.pop(connection, None)
        if isinstance(connection.settings, Connector):
            self._connect_again(connection.settings)

    def announced(self, connection: Connection, payload: bytes) -> None:
        """Handle that another router's address has receivers, or has none any more."""
        neighbor = self._neighbors.get(connection)
        message = Message()
        message.decode(payload)
        name, reachable = message.body
        if neighbor is None or (name in neighbor.reachable) == reachable:
            return
        if reachable:
            neighbor.reachable.add(name)
            if name not in neighbor.links:
                neighbor.links[name] = connection.open_sender(name)
            self._router.attach_receiver(neighbor.links[name], name)
        else:
            # Outcomes of what is under way come after this.
            neighbor.reachable.remove(name)
            self._router.withdraw_receiver(neighbor.links[name])

    def _reachable(self, address: Address) -> None:
        # A client that has just been given an address may be answered at once.
        delay = 0.0 if "/_topo/" in address.name else self._settle
        self._schedule(delay, lambda: self._announce(address.name))

    def _announce(self, name: str) -> None:
        address = self._router.addresses.get(name)
        if address is not None and address.receivers and name not in self._known:
            self._known.add(name)
            self._send_all(name, True)

    def _unreachable(self, address: Address) -> None:
        if address.name in self._known:
            self._known.remove(address.name)
            self._send_all(address.name, False)

    def _send_all(self, name: str, reachable: bool) -> None:
        for connection in self._neighbors:
            self._send_reachable(connection, name, reachable)

    def _send_reachable(self, connection: Connection, name: str, reachable: bool) -> None:
        link = self._neighbors[connection].announcements
        link.send(Message(body=[name, reachable]))
        connection.changed()
