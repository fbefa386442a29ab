"""From a URL to the driver that its scheme names."""

from __future__ import annotations

import importlib
from typing import Any
from urllib.parse import urlsplit

from hbshim.errors import MissingExtraError, OptionError
from hbshim.messaging.amqp.driver import AmqpDriver
from hbshim.messaging.hosts import Hosts
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
    library = LIBRARIES.get(urlsplit(url).scheme)
    if library is None:
        known = " or ".join(f"{scheme}://" for scheme in LIBRARIES)
        raise OptionError(f"the URL names no messaging driver; begin it with {known}")
    return open_driver(library, MessagingOptions.load(url=url, **options), url)


def open_driver(library: str, options: MessagingOptions, url: str) -> AmqpDriver:
    """A driver over one of :data:`LIBRARIES`, with options that are complete already.

    Raises:
        MissingExtraError: the client library is not installed.
    """
    hosts = Hosts.from_url(url, shuffle=options.hosts_shuffle, tls=options.ssl)
    try:
        open_one = importlib.import_module(f"hbshim.messaging.{library}").connect
    except ModuleNotFoundError as error:
        if error.name not in LIBRARIES.values():
            raise
        raise MissingExtraError(library, library) from None
    return AmqpDriver(tuple(hosts), options, open_one)
