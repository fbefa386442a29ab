"""What differs between the peers of the driver: a broker with queues, or a router.

The peer's `Open` shows which one it is. `Open` of this side, which is sent before, has the virtual
host in another form for each. So the first connection to a host may be opened twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hbshim.amqp1.performatives import Header
from hbshim.messaging.amqp.addresses import address, queue_address
from hbshim.messaging.amqp.patterns import Names
from hbshim.messaging.amqp.topology import Topology
from hbshim.messaging.amqp1.legacy import Legacy
from hbshim.messaging.amqp1.options import Amqp1Options
from hbshim.messaging.amqp1.routable import Routable
from hbshim.messaging.capabilities import Capabilities
from hbshim.messaging.hosts import Host
from hbshim.messaging.target import Target

RABBITMQ, ROUTER, LEGACY, AUTO = "rabbitmq", "router", "legacy", "auto"

#: The property `product` of a peer's `Open`, which selects a profile. Any other peer is taken for
#: a router: it routes by addresses, and has no queues that this driver could declare.
PRODUCTS = {"RabbitMQ": RABBITMQ, "qpid-cpp": LEGACY}


@dataclass(frozen=True, eq=False)
class Profile:
    """How the driver uses one kind of peer.

    Attributes:
        name: the value of the option `addressing_profile`.
        names: where messages go to.
        capabilities: those of the driver.
        routes: it is a router: it stores nothing, and outcomes are those of the receivers.
    """

    name: str
    names: Names
    capabilities: Capabilities
    routes: bool

    def hostname(self, host: Host) -> str:
        """Return what `Open` names a host's virtual host by."""
        if not self.routes:
            return f"vhost:{host.path or '/'}"
        return host.path or host.hostname

    def destination(self, exchange: str, routing_key: str) -> str:
        """Return the address that a message is sent to."""
        return routing_key if self.routes else address(exchange, routing_key)

    def source(self, queue: str) -> str:
        """Return the address that messages of a queue are received from, or replies sent to."""
        return queue if self.routes else queue_address(queue)

    def may_be_copy(self, header: Header) -> bool:
        """Return whether a message was delivered before."""
        # RabbitMQ sets `first_acquirer`, unless the message was requeued.
        return header.delivery_count > 0 or not (self.routes or header.first_acquirer)


class ServiceTopology(Topology):
    """The exchanges of a program that names one for all uses, as oslo.messaging's services do.

    Each use has a suffix: an exchange of the name itself may exist, with another type.
    """

    def _named(self, target: Target) -> str:
        return f"{target.exchange}_rpc" if target.exchange else super()._named(target)

    def _named_for_notifications(self, target: Target) -> str:
        if target.exchange:
            return f"{target.exchange}_notification"
        return super()._named_for_notifications(target)


class Profiles:
    """The profiles of a driver's hosts.

    Parameters:
        options: those of the driver.
        virtual_host: of its URL.
    """

    def __init__(self, options: Amqp1Options, virtual_host: str) -> None:
        self._option = options.addressing_profile
        topology = ServiceTopology if options.one_exchange else Topology
        self._by_name = {
            RABBITMQ: Profile(
                RABBITMQ,
                topology(options),
                Capabilities(requeues=True, pools=True, mandatory=True, survives_restart=True),
                routes=False,
            ),
            ROUTER: Profile(
                ROUTER,
                Routable(options, virtual_host),
                Capabilities(mandatory=True, requeues=options.direct_notifications),
                routes=True,
            ),
            LEGACY: Profile(
                LEGACY,
                Legacy(options, virtual_host),
                Capabilities(mandatory=True, requeues=True),
                routes=True,
            ),
        }
        self._found: dict[str, Profile] = {}
        #: That of the last connection, or before it the likely one.
        self.current = self._by_name[RABBITMQ if self._option == AUTO else self._option]

    @property
    def detects(self) -> bool:
        """Whether the peer decides."""
        return self._option == AUTO

    def expected(self, host: Host) -> Profile:
        """Return the profile with which a connection is opened."""
        return self._found.get(host.name, self.current)

    def router(self) -> Profile:
        """Return the profile of routers."""
        return self._by_name[ROUTER]

    def of_peer(self, properties: Mapping[Any, Any] | None) -> Profile:
        """Return the profile for a peer with these properties in its `Open`."""
        if not self.detects:
            return self.current
        return self._by_name[PRODUCTS.get(str((properties or {}).get("product")), ROUTER)]

    def note(self, host: Host, profile: Profile) -> None:
        """Note the profile of a host to which a connection was opened."""
        self._found[host.name] = self.current = profile
