"""Makes the driver over AMQP 1.0."""

from __future__ import annotations

import dataclasses
import importlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hbshim.extras import needs
from hbshim.messaging.amqp.login import login_at
from hbshim.messaging.amqp.names import PORT, TLS_PORT, check_virtual_host
from hbshim.messaging.amqp1.options import Amqp1Options
from hbshim.messaging.hosts import Host

if TYPE_CHECKING:
    from hbshim.messaging.amqp1.driver import Amqp1Driver


@dataclass(frozen=True)
class Amqp1Factory:
    """See :class:`hbshim.messaging.registry.DriverFactory`.

    Parameters:
        secure: over TLS, whatever the option `ssl` is.
    """

    secure: bool
    options_class: ClassVar[type[Amqp1Options]] = Amqp1Options

    def default_port(self, options: Amqp1Options) -> int:
        return TLS_PORT if options.ssl or self.secure else PORT

    def open(self, hosts: Sequence[Host], options: Amqp1Options) -> Amqp1Driver:
        """Return a driver for `hosts`.

        The hosts are tried in a random order, unless the option `hosts_shuffle` is off. With
        several hosts, queues are replicated, unless the option `quorum_queues` is off.
        """
        with needs(("tenacity",), "amqp1"):
            # First, because the imports below name the extras of all drivers.
            importlib.import_module("tenacity")
            from hbshim.messaging.amqp1.driver import Amqp1Driver
            from hbshim.messaging.amqp1.opening import open_connection
            from hbshim.messaging.amqp1.profiles import Profiles
            from hbshim.messaging.connecting import HostConnector
        for host in hosts:
            check_virtual_host(login_at(host).virtual_host)
        if self.secure:
            options = dataclasses.replace(options, ssl=True)
        if options.quorum_queues is None:
            options = dataclasses.replace(options, quorum_queues=len(hosts) > 1)
        if options.hosts_shuffle:
            hosts = random.sample(hosts, len(hosts))
        profiles = Profiles(options, login_at(hosts[0]).virtual_host)
        connector = HostConnector(
            hosts,
            options.connection_retry_delay,
            lambda host, deadline: open_connection(host, options, deadline, profiles),
        )
        return Amqp1Driver(connector, options, profiles)


PLAIN = Amqp1Factory(secure=False)
TLS = Amqp1Factory(secure=True)
