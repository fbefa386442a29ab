"""From a URL to the driver that its scheme names."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from hbshim.errors import MissingExtraError, OptionError
from hbshim.messaging.amqp.driver import AmqpDriver
from hbshim.messaging.hosts import Host, Hosts
from hbshim.messaging.options import MessagingOptions

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
    hosts = Hosts.from_url(url, shuffle=loaded.hosts_shuffle, tls=loaded.ssl)
    return driver_over(library, tuple(hosts), loaded)


def driver_over(library: str, hosts: Sequence[Host], options: MessagingOptions) -> AmqpDriver:
    """A driver over one of :data:`LIBRARIES`.

    Parameters:
        hosts: in the order in which they are to be tried.

    Raises:
        MissingExtraError: the client library is not installed.
    """
    try:
        open_one = importlib.import_module(f"hbshim.messaging.{library}").connect
    except ModuleNotFoundError as error:
        if error.name not in LIBRARIES.values():
            raise
        raise MissingExtraError(library, library) from None
    return AmqpDriver(hosts, options, open_one)
