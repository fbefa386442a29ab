"""AMQP connections over pika."""

from __future__ import annotations

from collections.abc import Callable

from hbshim.adapters.pika.session import PikaSession, parameters
from hbshim.messaging.amqp.library import Library
from hbshim.messaging.amqp.login import login_at
from hbshim.messaging.amqp.opening import client_properties, open_session
from hbshim.messaging.amqp.options import AmqpOptions
from hbshim.messaging.amqp.session import Session
from hbshim.messaging.hosts import Host
from hbshim.options import Options


def connect(host: Host, options: AmqpOptions, deadline: float) -> Session:
    """Open a connection; see :func:`hbshim.messaging.amqp.opening.open_session`."""
    return open_session(_make_library, host, options, deadline)


def _make_library(
    host: Host,
    options: AmqpOptions,
    kept_alive: Options | None,
    send: Callable[[bytes], None],
) -> Library:
    interval = options.heartbeat_interval
    external = options.login_method == "EXTERNAL"
    login = login_at(host)
    asked = parameters(
        host.hostname,
        host.port,
        login.virtual_host,
        None if external else (login.username, login.password),
        channel_max=options.channel_max,
        frame_max=options.frame_max,
        heartbeat=(interval or None) if kept_alive is not None and interval != "off" else 0,
        client_properties=client_properties("pika"),
    )
    return PikaSession(asked, send)
