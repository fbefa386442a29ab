"""Opens the socket of a connection, over TCP or TLS, within a time."""

from __future__ import annotations

import socket
import time
from typing import Any

from hbshim.errors import ConnectError
from hbshim.messaging.hosts import Host
from hbshim.messaging.options import MessagingOptions


def dial(host: Host, options: MessagingOptions, deadline: float) -> Any:
    """Connect to `host`: each address of its name is tried, of IPv6 and IPv4.

    Parameters:
        deadline: of ``time.monotonic()``, for all addresses and the TLS handshake.

    Returns:
        A non-blocking socket, of the program's own kind; TLS where the options say so.

    Raises:
        ConnectError: no address answers, or not in time; or TLS was refused.
        OptionError: a file that the options name for TLS cannot be used.
    """
    context = options.ssl_context()
    try:
        found = socket.getaddrinfo(host.hostname, host.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConnectError(f"{host.name}: the name cannot be resolved ({error})") from None
    refused: OSError = TimeoutError("timed out")
    for family, kind, protocol, _, address in found:
        left = min(options.socket_timeout, deadline - time.monotonic())
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
                # In two steps: eventlet forgets to close a socket whose handshake fails in one.
                sock = context.wrap_socket(
                    sock, server_hostname=named, do_handshake_on_connect=False
                )
                sock.settimeout(max(0.001, deadline - time.monotonic()))
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
    raise ConnectError(f"{host.name}: {_reason(refused)}") from refused


def _reason(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time; is it the right host, and does a firewall let us through?"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused; is the broker running, and is it the right port?"
    if type(error).__module__ == "ssl":
        return f"TLS failed ({error}); check ssl_options, and whether the port speaks TLS"
    return str(error)
