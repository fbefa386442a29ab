"""Makes the driver that the scheme of a URL names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from hbshim.errors import OptionError
from hbshim.messaging.base import Driver
from hbshim.messaging.hosts import read_hosts
from hbshim.messaging.registry import factory


def connect(
    url: str,
    *,
    notifications: str | None = None,
    listen_also: Sequence[str] = (),
    messaging_backend: Literal["rabbitmq", "router", "hybrid"] | None = None,
    stored_requests: bool = True,
    config: Mapping[str, object] | None = None,
    **options: Any,
) -> Driver:
    """Return a driver for the hosts of `url`; it connects at its first use.

    With `notifications` or `listen_also` it combines several backends: calls, casts and fanouts
    go to `url`. Requests are stored by the first of them that stores.

    Parameters:
        url: the scheme of a driver, such as ``hbkombu://`` or ``hbpika://``, then its hosts and
            options: ``hbpika://user:password@host1,user:password@host2/vhost?quorum_queues=true``.
            The driver defines the meaning of login and path; in AMQP the path is the virtual host.
        notifications: the URL of the backend for notifications; None: that of `url`.
        listen_also: URLs of backends that servers receive calls, casts and fanouts from, too,
            during a migration. A reply goes over the backend that delivered the request.
        messaging_backend: the deployment that these URLs must make: RabbitMQ for everything
            (``rabbitmq``), a router for RPC alone (``router``), a router for RPC and RabbitMQ for
            notifications (``hybrid``). None: any.
        stored_requests: servers receive submitted requests, also where another backend than that
            of RPC stores them. False: that one stores none.
        config: options by name, for example one section of the application's configuration. The
            environment and the URL take precedence. Options of other drivers are ignored. By
            default the section ``[hbshim_messaging]`` of the file that ``HBSHIM_CONFIG`` names.
        options: options of the driver of `url`; they take precedence over the URL. For
            ``hbkombu://`` and ``hbpika://`` see :class:`hbshim.messaging.AmqpOptions`.

    Raises:
        OptionError: no driver has this scheme, the URL or an option is not valid, or the URLs
            contradict each other.
        DriverLoadError: the driver of another package cannot be loaded.
        MissingExtraError: a library that the driver needs is not installed.
    """
    if not isinstance(url, str):
        raise OptionError(f"url must be text such as 'hbpika://host/', got {url!r}")
    if notifications is not None or listen_also or messaging_backend is not None:
        from hbshim.messaging.hybrid import connecting

        return connecting.connect(
            url,
            notifications,
            listen_also,
            messaging_backend,
            stored_requests=stored_requests,
            config=config,
            options=options,
        )
    drivers = factory(url.partition("://")[0])
    loaded = drivers.options_class.load(url=url, config=config, **options)
    return drivers.open(read_hosts(url, drivers.default_port(loaded)), loaded)
