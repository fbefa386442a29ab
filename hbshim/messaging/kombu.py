"""AMQP connections over kombu and py-amqp."""

from __future__ import annotations

from collections.abc import Callable

import kombu

from hbshim.adapters.pyamqp.session import Transport
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
    heartbeat = 0 if options.heartbeat_interval == "off" else options.heartbeat_interval
    if not heartbeat and kept_alive is not None:
        # As for other connections of kombu.
        heartbeat = kept_alive.heartbeat
    login = login_at(host)
    client = kombu.Connection(
        hostname=host.hostname,
        port=host.port,
        userid=login.username,
        password=login.password,
        virtual_host=login.virtual_host,
        transport=Transport,
        login_method=options.login_method,
        heartbeat=heartbeat,
        transport_options={
            "send": send,
            "heartbeats": kept_alive is not None,
            "channel_max": options.channel_max,
            "frame_max": options.frame_max,
            "client_properties": client_properties("kombu"),
        },
    )
    library: Library = client.transport.establish_connection()
    return library
