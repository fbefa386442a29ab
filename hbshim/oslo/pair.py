"""The two transport URLs of a service: settings that contradict each other are errors at start."""

from __future__ import annotations

from typing import Any

from hbshim.adapters.oslo.base import RABBIT_GROUP, notifications_url, parsed_url
from hbshim.errors import OptionError
from hbshim.messaging.hybrid import deployments
from hbshim.messaging.hybrid.connecting import backend_of
from hbshim.messaging.hybrid.deployments import AMQP_SCHEMES, Backend
from hbshim.options import boolean
from hbshim.oslo import settings


def check_pair(conf: Any, url: Any, options: Any) -> None:
    """Compare the transport of RPC with that of ``[oslo_messaging_notifications]``.

    Parameters:
        conf: of the service.
        url: of the transport whose driver is being made.
        options: of that driver.

    Raises:
        OptionError: they contradict each other; no part of a URL but its virtual host is shown.
    """
    text = notifications_url(conf)
    if not text:
        return
    other = parsed_url(conf, text)
    if other is None or other == url or other.transport not in AMQP_SCHEMES:
        return
    rpc = backend_of(url.transport, url.virtual_host or "", options)
    notifications = Backend(
        other.transport,
        other.virtual_host or "/",
        tls=_uses_tls(conf, other),
        # Each driver checks its own.
        tls_options=rpc.tls_options,
    )
    try:
        deployments.check(rpc, notifications)
    except OptionError as error:
        raise OptionError(
            f"transport_url and [oslo_messaging_notifications] transport_url: {error}"
        ) from None


def _uses_tls(conf: Any, url: Any) -> bool:
    if "ssl" in url.query:
        try:
            return boolean(url.query["ssl"])
        except ValueError:
            return False  # its own driver refuses it
    settings.register(conf)
    groups = [RABBIT_GROUP]
    if url.transport in ("hbkombu", "hbpika"):
        groups.append(settings.GROUP)
    return any(conf[group].ssl for group in groups)
