"""From a URL to the driver that its scheme names."""

from __future__ import annotations

import dataclasses
import importlib
import logging
import random
from collections.abc import Sequence
from typing import Any

from hbshim.errors import OptionError
from hbshim.extras import needs
from hbshim.heartbeat import service
from hbshim.messaging.amqp.driver import AmqpDriver
from hbshim.messaging.hosts import Host, read_hosts
from hbshim.messaging.options import MessagingOptions

LOG = logging.getLogger("hbshim.messaging")

#: URL schemes, each with the client library that it names, which is the extra's name too.
LIBRARIES = {"hbkombu": "kombu", "hbpika": "pika"}


def connect(url: str, **options: Any) -> AmqpDriver:
    """A driver for the brokers of `url`; it connects when it is first used.

    Parameters:
        url: ``hbkombu://`` or ``hbpika://``, then user, hosts, virtual host and options:
            ``hbpika://user:password@host1,user:password@host2/vhost?quorum_queues=true``.
        options: see :class:`hbshim.messaging.MessagingOptions`; they win over the URL.

    Raises:
        OptionError: the URL or an option is not acceptable.
        MissingExtraError: the client library is not installed.
    """
    library = LIBRARIES.get(url.partition("://")[0])
    if library is None:
        known = " or ".join(f"{scheme}://" for scheme in LIBRARIES)
        raise OptionError(f"the URL names no messaging driver; begin it with {known}")
    loaded = MessagingOptions.load(url=url, **options)
    return driver_over(library, read_hosts(url, tls=loaded.ssl), loaded)


def driver_over(library: str, hosts: Sequence[Host], options: MessagingOptions) -> AmqpDriver:
    """A driver over one of :data:`LIBRARIES`.

    Parameters:
        hosts: tried in a random order, unless the option `hosts_shuffle` is off. With more
            than one, queues are replicated, or a warning is logged.

    Raises:
        MissingExtraError: the client library is not installed.
    """
    with needs(("amqp", "kombu", "pika"), library):
        open_one = importlib.import_module(f"hbshim.messaging.{library}").connect
    if len(hosts) > 1:
        options = _replicated(options, len(hosts))
    if options.hosts_shuffle:
        hosts = random.sample(hosts, len(hosts))
    return AmqpDriver(hosts, options, open_one)


def _replicated(options: MessagingOptions, hosts: int) -> MessagingOptions:
    """Return the options for several hosts: with quorum queues, unless they are off."""
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
