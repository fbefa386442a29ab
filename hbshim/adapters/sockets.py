"""Finds the operating-system socket beneath the socket of a client library."""

from __future__ import annotations

from _socket import socket as NativeSocket  # noqa: N812
from typing import Any

from hbshim.errors import AttachError
from hbshim.heartbeat.wire import AMQP_0_9_1, HeartbeatFormat, Wire


def native_socket(sock: Any) -> Any:
    """Return the operating-system socket beneath `sock`.

    Parameters:
        sock: a ``socket.socket``, ``ssl.SSLSocket``, or eventlet's or gevent's
            counterpart of either.

    Raises:
        AttachError: `sock` is of another type.
    """
    # eventlet's GreenSocket has it in `fd`, gevent's socket in `_sock`.
    for candidate in (sock, getattr(sock, "fd", None), getattr(sock, "_sock", None)):
        if isinstance(candidate, NativeSocket):
            return candidate
    raise AttachError(
        f"hbshim does not know the socket type {type(sock).__module__}.{type(sock).__qualname__}; "
        "use a connection over TCP or TLS from the standard library, eventlet or gevent"
    )


def wire_for(sock: Any, heartbeat: HeartbeatFormat = AMQP_0_9_1) -> Wire:
    """Return the wire beneath `sock`: plain TCP, or through its TLS session.

    Parameters:
        sock: as for :func:`native_socket`.
        heartbeat: the protocol's.
    """
    native = native_socket(sock)
    if hasattr(sock, "_sslobj"):
        # Imported only now: `ssl` is slow to import, and may be missing.
        from hbshim.adapters.tls import TlsWire

        return TlsWire(sock, native, heartbeat)
    return Wire(native, heartbeat=heartbeat)
