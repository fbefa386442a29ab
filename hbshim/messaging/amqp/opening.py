"""Opens a connection to one host, over any client library, before a deadline."""

from __future__ import annotations

import functools
import os
import socket
import sys
import time

import hbshim
from hbshim.adapters.attach import options_for_connect, ready
from hbshim.errors import ConnectError, ConnectionLostError
from hbshim.messaging.amqp.library import MakeLibrary
from hbshim.messaging.amqp.login import login_at
from hbshim.messaging.amqp.options import AmqpOptions
from hbshim.messaging.amqp.session import Session
from hbshim.messaging.amqp.stream import Stream
from hbshim.messaging.dialing import dial
from hbshim.messaging.hosts import Host
from hbshim.options import Options
from hbshim.protocol.reply_codes import login_refused


def open_session(
    make_library: MakeLibrary, host: Host, options: AmqpOptions, deadline: float
) -> Session:
    """Open a connection to one host.

    Parameters:
        make_library: makes the client library's part.
        host: the broker.
        options: those of the driver.
        deadline: of ``time.monotonic()``, for everything.

    Raises:
        ConnectError: it did not accept; `final` for wrong credentials or virtual hosts.
        OptionError: a file that the options name for TLS cannot be used.
    """
    deadline = min(deadline, time.monotonic() + options.handshake_timeout)
    heartbeats = options_for_connect(lambda _: options.heartbeat_options(), dict, host.name)
    kept_alive = None
    if options.heartbeat_interval != "off" and heartbeats and ready(heartbeats, host.name):
        kept_alive = heartbeats
    sock = dial(host, options, deadline)
    stream = Stream(sock, host.name, functools.partial(make_library, host, options, kept_alive))
    try:
        _shake_hands(stream, host, options, deadline)
        stream.keep_alive(heartbeats or Options())
        return Session(stream)
    except BaseException:
        stream.drop()
        raise


def _shake_hands(stream: Stream, host: Host, options: AmqpOptions, deadline: float) -> None:
    try:
        answered = stream.shake_hands(deadline)
    except ConnectionLostError as error:
        closed_by = stream.library.closed_by
        if closed_by is not None:
            login = login_at(host)
            user, virtual_host = login.username, login.virtual_host
            raise login_refused(host.name, user, virtual_host, *closed_by) from None
        raise ConnectError(
            f"{host.name}: no AMQP connection ({error.__cause__ or error}); does a broker listen "
            "there, and is it the port with TLS, or without?"
        ) from None
    if not answered:
        raise ConnectError(
            f"{host.name}: the broker does not answer in time (at most handshake_timeout, "
            f"{options.handshake_timeout:g} s); is it overloaded, or does something else listen "
            "there?"
        )


def connection_name(library: str) -> str:
    """Return the name of a connection at the broker (client property `connection_name`)."""
    program = os.path.basename(sys.argv[0]) or "python"
    return f"{program}:{os.getpid()}:hbshim-{library}"


def client_properties(library: str) -> dict[str, str]:
    """Return the client properties of a connection, which the broker's management shows.

    The doctor learns from `hbshim_version` whether a server can take part in a migration.
    """
    return {
        "connection_name": connection_name(library),
        "hbshim_version": hbshim.__version__,
        "hostname": socket.gethostname(),
    }
