"""Opens a connection to one host, before a deadline: TCP, TLS, SASL and `Open`.

The peer's `Open` shows what it is; see :mod:`hbshim.messaging.amqp1.profiles`.
"""

from __future__ import annotations

import os
import platform
import socket
import sys
import time
import uuid

import hbshim
from hbshim.adapters.attach import options_for_connect
from hbshim.amqp1.connection import Connection as Engine
from hbshim.amqp1.events import Closed, LoginRefused, Origin
from hbshim.amqp1.performatives import SASL_AUTH
from hbshim.amqp1.sasl import SaslClient
from hbshim.amqp1.values import Symbol
from hbshim.errors import ConnectError, ConnectionLostError
from hbshim.messaging.amqp.login import login_at
from hbshim.messaging.amqp1.connection import Connection
from hbshim.messaging.amqp1.logins import PASSWORD_METHODS, READABLE, login_of
from hbshim.messaging.amqp1.options import Amqp1Options
from hbshim.messaging.amqp1.profiles import Profile, Profiles
from hbshim.messaging.amqp1.stream import EngineStream, described
from hbshim.messaging.dialing import dial
from hbshim.messaging.hosts import Host

#: The condition with which a router refuses a virtual host.
_POLICY = "amqp:resource-limit-exceeded"


#: Seconds for closing a connection that was opened in the form for another peer.
CLOSE_WITHIN = 0.2


def open_connection(
    host: Host, options: Amqp1Options, deadline: float, profiles: Profiles | None = None
) -> Connection:
    """Open a connection to one host.

    Parameters:
        host: the peer.
        options: those of the driver.
        deadline: of ``time.monotonic()``, for everything.
        profiles: those of the driver; None: those of this host alone.

    Raises:
        ConnectError: it did not accept; `final` for wrong credentials.
        OptionError: a file that the options name for TLS cannot be used.
    """
    deadline = min(deadline, time.monotonic() + options.handshake_timeout)
    if profiles is None:
        profiles = Profiles(options, login_at(host).virtual_host)
    expected = profiles.expected(host)
    opened = _open(host, options, deadline, profiles, expected)
    if isinstance(opened, Profile):
        # It is another kind of peer, to which the virtual host meant nothing.
        expected = opened
        opened = _open(host, options, deadline, profiles, expected)
    if isinstance(opened, Profile):
        raise ConnectError(
            f"{host.name}: the peer was a {expected.name} and is a {opened.name} now; do several "
            "kinds of peers share this address? Set addressing_profile"
        )
    profiles.note(host, opened.profile)
    return opened


def _open(
    host: Host, options: Amqp1Options, deadline: float, profiles: Profiles, expected: Profile
) -> Connection | Profile:
    """Open a connection; return the profile of the peer instead if it is another one."""
    heartbeats = options_for_connect(lambda _: options.heartbeat_options(), dict, host.name)
    hostname = expected.hostname(host)
    sock = dial(host, options, deadline)
    try:
        engine = _engine(host, options, hostname, login_of(host, options, sock))
    except BaseException:
        sock.close()
        raise
    stream = EngineStream(sock, host.name, engine)
    try:
        try:
            _shake_hands(stream, host, options, deadline)
        except ConnectError:
            found = _other_peer(stream, profiles, expected)
            if found is None:
                raise
            stream.drop()
            return found
        assert stream.opened is not None, "the peer has answered"
        found = profiles.of_peer(stream.opened.remote.properties)
        if found.hostname(host) != hostname:
            stream.close(CLOSE_WITHIN)
            return found
        if heartbeats is not None:
            stream.keep_alive(heartbeats)
        return Connection(stream, found)
    except BaseException:
        stream.drop()
        raise


def _other_peer(stream: EngineStream, profiles: Profiles, expected: Profile) -> Profile | None:
    """Return the profile of a peer that refused the connection, if it may be another one."""
    if not profiles.detects:
        return None
    if stream.opened is not None:
        found = profiles.of_peer(stream.opened.remote.properties)
        return None if found is expected else found
    over = stream.over
    error = over.error if isinstance(over, Closed) else None
    if error is not None and str(error.condition) == _POLICY and not expected.routes:
        # A router that refuses a virtual host need not show what it is.
        return profiles.router()
    return None


def _engine(host: Host, options: Amqp1Options, hostname: str, login: SaslClient) -> Engine:
    program = os.path.basename(sys.argv[0]) or "python"
    properties = {
        Symbol("product"): "hbshim",
        Symbol("version"): hbshim.__version__,
        Symbol("platform"): f"Python {platform.python_version()}",
        Symbol("process"): program,
        Symbol("pid"): os.getpid(),
        # Under the names that connections over AMQP 0-9-1 have them.
        Symbol("connection_name"): f"{program}:{os.getpid()}:hbshim-amqp1",
        Symbol("hbshim_version"): hbshim.__version__,
        Symbol("hostname"): socket.gethostname(),
    }
    return Engine(
        f"{options.container_name}-{uuid.uuid4().hex}",
        # The peer selects the virtual host by it.
        hostname=hostname,
        sasl=login,
        max_frame_size=options.max_frame_size,
        idle_timeout=options.heartbeat_interval or None,
        properties=properties,
    )


def _shake_hands(stream: EngineStream, host: Host, options: Amqp1Options, deadline: float) -> None:
    try:
        answered = stream.shake_hands(deadline)
    except ConnectionLostError as error:
        raise _refused(stream, host, options, error) from None
    if not answered:
        raise ConnectError(
            f"{host.name}: the peer does not answer in time (at most handshake_timeout, "
            f"{options.handshake_timeout:g} s); is it overloaded, or does something else listen "
            "there?"
        )


def _refused(
    stream: EngineStream, host: Host, options: Amqp1Options, error: ConnectionLostError
) -> ConnectError:
    login = login_at(host)
    over = stream.over
    if isinstance(over, LoginRefused):
        if over.reason == READABLE:
            return ConnectError(f"{host.name}: {READABLE}", final=True)
        named = any(name in PASSWORD_METHODS for name in options.login_methods)
        user = f" of user {login.username!r}" if named else ""
        return ConnectError(
            f"{host.name}: the login{user} failed: {over.reason}; correct user name and password, "
            "or choose another login_method",
            final=over.code in (None, SASL_AUTH),
        )
    if isinstance(over, Closed) and over.error is not None and over.origin is Origin.PEER:
        return ConnectError(
            f"{host.name}: the peer refused the connection to virtual host "
            f"{login.virtual_host!r}: {described(over.error)}"
        )
    if stream.engine.logged_in and over is None:
        # RabbitMQ gives no reason, and hangs up after 3 s.
        return ConnectError(
            f"{host.name}: the peer closed the connection after the login, without a reason; is "
            f"there a virtual host {login.virtual_host!r}, and has user {login.username!r} access "
            "to it?"
        )
    return ConnectError(
        f"{host.name}: no AMQP 1.0 connection ({error.__cause__ or error}); does RabbitMQ 4 or a "
        "router listen there, and is it the port with TLS, or without?"
    )
