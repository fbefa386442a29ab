"""The ways to log in at a peer that the options, the URL and the connection allow."""

from __future__ import annotations

import ipaddress
import socket

from hbshim.amqp1.mechanisms import Anonymous, External, Mechanism, Plain
from hbshim.amqp1.sasl import SaslClient
from hbshim.amqp1.scram import HASHES, Scram
from hbshim.errors import ConnectError, OptionError
from hbshim.messaging.amqp.login import login_at
from hbshim.messaging.amqp1.options import Amqp1Options
from hbshim.messaging.hosts import Host

#: Mechanisms that need a user and a password.
PASSWORD_METHODS = (*HASHES, "PLAIN")

#: Why a mechanism is not used over a connection that others can read.
READABLE = (
    "without TLS, others on the network could read the password (SASL PLAIN), so it was not sent; "
    "use hbamqps://, or set plain_without_tls=true if the network is trusted"
)


def login_of(host: Host, options: Amqp1Options, sock: socket.socket) -> SaslClient:
    """Return the login at a host.

    Parameters:
        sock: connected to it.

    Raises:
        ConnectError: nothing that the options name can be used.
        OptionError: the credentials have characters that no mechanism allows.
    """
    names = options.login_methods
    withheld = {}
    if "PLAIN" in names and not _is_private(host, options, sock):
        withheld["PLAIN"] = READABLE
    mechanisms: list[Mechanism] = []
    refused: OptionError | None = None
    for name in names:
        if name not in withheld and _has_credentials(name, host, options):
            try:
                mechanisms.append(_mechanism(name, host))
            except OptionError as error:
                refused = error
    if host.username is None and "PLAIN" in names and "ANONYMOUS" not in names:
        # RabbitMQ has an account for those without a user, a router has none.
        mechanisms.append(Anonymous())
    if not mechanisms:
        if refused is not None:
            raise refused
        raise ConnectError(f"{host.name}: {withheld.get('PLAIN') or _no_user(options)}", final=True)
    return SaslClient(mechanisms, host.hostname, withheld)


def _has_credentials(name: str, host: Host, options: Amqp1Options) -> bool:
    if name == "EXTERNAL":
        return "certfile" in (options.ssl_options or {})
    # Without a user, PLAIN is the login of RabbitMQ's own account.
    return name not in HASHES or host.username is not None


def _mechanism(name: str, host: Host) -> Mechanism:
    login = login_at(host)
    if name in HASHES:
        return Scram(name, login.username, login.password)
    if name == "PLAIN":
        return Plain(login.username, login.password)
    return External() if name == "EXTERNAL" else Anonymous()


def _no_user(options: Amqp1Options) -> str:
    return (
        f"login_method={options.login_method!r} needs a user in the URL, and there is none; name "
        "one, or choose another login_method"
    )


def _is_private(host: Host, options: Amqp1Options, sock: socket.socket) -> bool:
    """Return whether the password may be sent as it is."""
    if options.ssl or options.plain_without_tls or host.username is None:
        return True
    return _is_here(sock)


def _is_here(sock: socket.socket) -> bool:
    """Return whether the peer is on this machine."""
    try:
        peer, own = (
            str(name[0]).partition("%")[0] for name in (sock.getpeername(), sock.getsockname())
        )
    except OSError:
        return False
    return peer == own or ipaddress.ip_address(peer).is_loopback
