"""Opens a connection over kombu, within a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import kombu
from amqp.exceptions import AMQPError

from hbshim.adapters.attach import options_for_connect, ready
from hbshim.adapters.pyamqp.heartbeat import KOMBU_OPTION
from hbshim.adapters.pyamqp.session import NoAnswerError, Transport
from hbshim.errors import ConnectError
from hbshim.messaging.amqp.connection import connection_name
from hbshim.messaging.amqp.options import AmqpOptions
from hbshim.messaging.dialing import dial
from hbshim.messaging.hosts import Host
from hbshim.messaging.kombu.connection import KombuConnection
from hbshim.messaging.readiness import Readiness, wait_writable
from hbshim.protocol.reply_codes import login_refused


class _Waiting:
    """See :class:`hbshim.adapters.pyamqp.transport.Waiting`."""

    def __init__(self, host: Host, options: AmqpOptions, open_by: float) -> None:
        self._host, self._options, self._open_by = host, options, open_by
        self.readiness: Readiness | None = None

    def dial(self) -> Any:
        self._sock = sock = dial(self._host, self._options, self._open_by)
        self.readiness = Readiness(sock.fileno())
        return sock

    def abandon(self) -> None:
        """Close what is open of a connection that did not come to be."""
        if self.readiness is not None:
            self.readiness.close(self._sock.close)

    def readable(self, timeout: float) -> bool:
        assert self.readiness is not None, "dialled before"
        return self.readiness.wait(timeout)

    def writable(self, timeout: float) -> bool:
        # In slices: a descriptor closed meanwhile is heard of by looking again.
        return wait_writable(self._sock.fileno(), min(timeout, 1.0))

    def close(self, then: Callable[[], None]) -> None:
        assert self.readiness is not None, "dialled before"
        self.readiness.close(then)


def connect(host: Host, options: AmqpOptions, deadline: float) -> KombuConnection:
    """Open a connection to one host.

    Parameters:
        deadline: of ``time.monotonic()``, for all of it.

    Raises:
        ConnectError: it did not let us in; `final` for credentials and virtual hosts.
        OptionError: a file that the options name for TLS cannot be used.
    """
    now = time.monotonic()
    open_by = min(deadline, now + options.handshake_timeout)
    waiting = _Waiting(host, options, open_by)
    heartbeats = options_for_connect(lambda _: options.heartbeat_options(), dict, host.name)
    off = options.heartbeat_interval == "off"
    client = kombu.Connection(
        hostname=host.hostname,
        port=host.port,
        userid=host.username,
        password=host.password,
        virtual_host=host.virtual_host,
        transport=Transport,
        connect_timeout=max(0.0, open_by - now),
        login_method=options.login_method,
        heartbeat=0 if off else options.heartbeat_interval,
        transport_options={
            KOMBU_OPTION: heartbeats.for_connection() if heartbeats else {},
            "heartbeats": not off and heartbeats is not None and ready(heartbeats, host.name),
            "waiting": waiting,
            "open_by": open_by,
            "channel_max": options.channel_max,
            "frame_max": options.frame_max,
            "client_properties": {"connection_name": connection_name("kombu")},
        },
    )
    transport = client.transport
    try:
        connection = transport.establish_connection()
        assert waiting.readiness is not None, "establish_connection() dials"
        return KombuConnection(connection, host.name, waiting.readiness)
    except NoAnswerError:
        waiting.abandon()
        raise ConnectError(
            f"{host.name}: the broker does not answer the handshake (within "
            f"{time.monotonic() - now:.1f} s; handshake_timeout is "
            f"{options.handshake_timeout:g} s)"
        ) from None
    except (AMQPError, OSError) as error:
        waiting.abandon()
        if transport.closed_by is not None:
            raise login_refused(
                host.name, host.username, host.virtual_host, *transport.closed_by
            ) from None
        raise ConnectError(f"{host.name}: {error}; does it speak AMQP 0-9-1?") from None
    except BaseException:
        waiting.abandon()
        raise
