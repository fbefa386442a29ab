"""Makes the AMQP 0-9-1 drivers over each client library."""

from __future__ import annotations

import dataclasses
import importlib
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hbshim.extras import needs
from hbshim.heartbeat import service
from hbshim.messaging.amqp.login import login_at
from hbshim.messaging.amqp.names import PORT, TLS_PORT, check_virtual_host
from hbshim.messaging.amqp.options import AmqpOptions
from hbshim.messaging.hosts import Host

if TYPE_CHECKING:
    from hbshim.messaging.amqp.driver import AmqpDriver

LOG = logging.getLogger("hbshim.messaging")


@dataclass(frozen=True)
class AmqpFactory:
    """See :class:`hbshim.messaging.registry.DriverFactory`.

    Parameters:
        library: the client library, whose name is also that of its extra.
    """

    library: str
    options_class: ClassVar[type[AmqpOptions]] = AmqpOptions

    def default_port(self, options: AmqpOptions) -> int:
        return TLS_PORT if options.ssl else PORT

    def open(self, hosts: Sequence[Host], options: AmqpOptions) -> AmqpDriver:
        """Return a driver for `hosts`.

        The hosts are tried in a random order, unless the option `hosts_shuffle` is off. With
        several hosts, queues are replicated, or a warning is logged.
        """
        with needs(("tenacity", "amqp", "kombu", "pika"), self.library):
            # First, because the imports below name the extras of all libraries.
            importlib.import_module("tenacity")
            from hbshim.messaging.amqp.driver import AmqpDriver

            open_one = importlib.import_module(f"hbshim.messaging.{self.library}").connect
        for host in hosts:
            check_virtual_host(login_at(host).virtual_host)
        if len(hosts) > 1:
            options = _replicated(options, len(hosts))
        if options.hosts_shuffle:
            hosts = random.sample(hosts, len(hosts))
        return AmqpDriver(hosts, options, open_one)


KOMBU = AmqpFactory("kombu")
PIKA = AmqpFactory("pika")


def _replicated(options: AmqpOptions, hosts: int) -> AmqpOptions:
    """Return the options for several hosts: with quorum queues, unless they are turned off."""
    if options.quorum_queues is None:
        return dataclasses.replace(options, quorum_queues=True)
    if not options.quorum_queues:
        detail = (
            f"The URL names {hosts} hosts, and quorum_queues is off: RabbitMQ does not replicate "
            "the queues. When a node fails, its queues cannot be used until it is back; remove "
            "quorum_queues=false, or name one host."
        )
        service.current().metrics.record("queue-not-replicated", "", detail)
        LOG.warning("%s", detail)
    return options
