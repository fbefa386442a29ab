"""How a connection over pika begins: what is asked for, and who is let in."""

from __future__ import annotations

import time
from typing import Any

import pika
from pika import spec
from pika.exceptions import AMQPError, ChannelClosedByBroker, ConnectionClosedByBroker

from hbshim.adapters.pika.session import StreamConnection
from hbshim.errors import ConnectError, HbshimError
from hbshim.messaging.amqp.connection import connection_name
from hbshim.messaging.amqp.options import AmqpOptions
from hbshim.messaging.hosts import Host
from hbshim.messaging.readiness import Readiness
from hbshim.protocol.reply_codes import login_refused

#: What pika raises when the connection, or its stream of frames, is of no use any more.
LOST = (AMQPError, OSError)


def parameters(host: Host, options: AmqpOptions, *, heartbeats: bool) -> Any:
    """Return what pika is to ask the broker for.

    Parameters:
        heartbeats: whether to have heartbeats, which hbshim sends.
    """
    if options.login_method == "EXTERNAL":
        credentials = pika.credentials.ExternalCredentials()
    else:
        credentials = pika.PlainCredentials(host.username, host.password, erase_on_connect=True)
    interval = options.heartbeat_interval
    return pika.ConnectionParameters(
        host=host.hostname,
        port=host.port,
        virtual_host=host.virtual_host,
        credentials=credentials,
        # Zero means no limit of ours in AMQP; pika takes its own greatest for it.
        channel_max=options.channel_max or pika.channel.MAX_CHANNELS,
        frame_max=min(options.frame_max, spec.FRAME_MAX_SIZE),
        # None takes the broker's.
        heartbeat=(interval or None) if heartbeats and interval != "off" else 0,
        client_properties={"connection_name": connection_name("pika")},
    )


def shake_hands(
    stream: StreamConnection,
    readiness: Readiness,
    host: Host,
    deadline: float,
    handshake_timeout: float,
) -> None:
    """Have `stream` opened; nobody else may touch it meanwhile.

    Parameters:
        deadline: of ``time.monotonic()``.
        handshake_timeout: the option, for the error.

    Raises:
        ConnectError: the broker did not let us in.
    """
    try:
        stream.begin()
        while not stream.is_open and stream.reason is None:
            left = deadline - time.monotonic()
            if left <= 0 or not (stream.buffered or readiness.wait(left)):
                raise ConnectError(
                    f"{host.name}: the broker does not answer in time (handshake_timeout is "
                    f"{handshake_timeout:g} s); is it overloaded, or does something else listen "
                    "there?"
                )
            stream.receive()
    except HbshimError:
        raise
    except Exception as error:
        # pika's own, the socket's, and whatever octets that are no AMQP make pika stumble.
        stream.fail(error)
    reason = stream.reason
    if isinstance(reason, ConnectionClosedByBroker):
        raise login_refused(
            host.name, host.username, host.virtual_host, reason.reply_code, reason.reply_text
        )
    if reason is not None:
        raise ConnectError(
            f"{host.name}: no AMQP connection ({words(reason)}); does a broker listen there, and "
            "is it the port for TLS, or for none?"
        )


def words(error: BaseException | None) -> str:
    """An error of pika's, for people."""
    if isinstance(error, ConnectionClosedByBroker | ChannelClosedByBroker):
        return f"closed by the broker: {error.reply_text} ({error.reply_code})"
    return str(error) or type(error).__name__
