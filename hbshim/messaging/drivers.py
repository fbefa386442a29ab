"""Makes the driver that the scheme of a URL names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hbshim.messaging.base import Driver
from hbshim.messaging.hosts import read_hosts
from hbshim.messaging.registry import factory


def connect(url: str, *, config: Mapping[str, object] | None = None, **options: Any) -> Driver:
    """Return a driver for the hosts of `url`; it connects at its first use.

    Parameters:
        url: the scheme of a driver, such as ``hbkombu://`` or ``hbpika://``, then its hosts and
            options: ``hbpika://user:password@host1,user:password@host2/vhost?quorum_queues=true``.
            The driver defines the meaning of login and path; in AMQP the path is the virtual host.
        config: options by name, for example one section of the application's configuration. The
            environment and the URL take precedence. Options of other drivers are ignored. By
            default the section ``[hbshim_messaging]`` of the file that ``HBSHIM_CONFIG`` names.
        options: options of the driver; they take precedence over the URL. For ``hbkombu://`` and
            ``hbpika://`` see :class:`hbshim.messaging.AmqpOptions`.

    Raises:
        OptionError: no driver has this scheme, or the URL or an option is not valid.
        DriverLoadError: the driver of another package cannot be loaded.
        MissingExtraError: a library that the driver needs is not installed.
    """
    drivers = factory(url.partition("://")[0])
    loaded = drivers.options_class.load(url=url, config=config, **options)
    return drivers.open(read_hosts(url, drivers.default_port(loaded)), loaded)
