"""Opens the socket of a connection, over TCP or TLS, before a deadline."""

from __future__ import annotations

import logging
import socket
import time
import weakref
from typing import TYPE_CHECKING, Any

from hbshim.errors import ConnectError, OptionError
from hbshim.heartbeat import service
from hbshim.messaging.hosts import Host
from hbshim.messaging.options import MessagingOptions
from hbshim.messaging.resolving import resolve

if TYPE_CHECKING:
    import ssl

LOG = logging.getLogger("hbshim.messaging")


def dial(host: Host, options: MessagingOptions, deadline: float) -> Any:
    """Connect to `host`: try each address of its name, IPv6 and IPv4.

    Parameters:
        host: the broker.
        options: those of the driver.
        deadline: of ``time.monotonic()``, for all addresses and the TLS handshake.

    Returns:
        A non-blocking socket of the program's concurrency model; with TLS if `options` have it.

    Raises:
        ConnectError: no address accepted in time, or TLS failed.
        OptionError: a file that the options name for TLS cannot be used.
    """
    context = _context(host, options)
    found = resolve(host, deadline)
    began = time.monotonic()
    refused: OSError = TimeoutError("timed out")
    for position, (family, kind, protocol, _, address) in enumerate(found):
        now = time.monotonic()
        # Each address gets an equal share, so that an unreachable one does not use up the time.
        until = now + (deadline - now) / (len(found) - position)
        left = min(options.socket_timeout, until - now)
        if left <= 0:
            break
        sock: Any = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(left)
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if context is not None:
                named = (options.ssl_options or {}).get("server_hostname") or host.hostname
                # In two steps: in one step, eventlet does not close a socket whose handshake fails.
                sock = context.wrap_socket(
                    sock, server_hostname=named, do_handshake_on_connect=False
                )
                sock.settimeout(max(0.001, until - time.monotonic()))
                sock.do_handshake()
            sock.setblocking(False)
        except OSError as error:
            sock.close()
            refused = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise ConnectError(f"{host.name}: {_reason(refused, options, began)}") from refused


#: The last usable context for each set of options.
_contexts: weakref.WeakKeyDictionary[MessagingOptions, ssl.SSLContext] = weakref.WeakKeyDictionary()


def _context(host: Host, options: MessagingOptions) -> ssl.SSLContext | None:
    """Return the TLS context. It is created anew each time, because certificates are renewed.

    If a file cannot be read, for example while it is being replaced, the last usable context
    is returned.
    """
    try:
        context = options.ssl_context()
    except OptionError as error:
        last = _contexts.get(options)
        if last is None:
            raise
        service.current().metrics.record("tls-files-unreadable", host.name, str(error))
        LOG.warning("%s: %s; the certificates read before are used", host.name, error)
        return last
    if context is not None:
        _contexts[options] = context
    return context


def _reason(error: OSError, options: MessagingOptions, began: float) -> str:
    if isinstance(error, TimeoutError):
        return (
            f"no answer in time ({time.monotonic() - began:.1f} s; socket_timeout is "
            f"{options.socket_timeout:g} s, handshake_timeout {options.handshake_timeout:g} s); is "
            "it the right host, and does a firewall block it?"
        )
    if isinstance(error, ConnectionRefusedError):
        return "connection refused; is the broker running, and is it the right port?"
    if type(error).__module__ == "ssl":
        return f"TLS failed ({error}); check ssl_options, and whether the port speaks TLS"
    return str(error)
