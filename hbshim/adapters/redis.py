"""A connection of redis-py over native sockets, whatever eventlet or gevent have patched.

For a native thread, which must neither run a hub of its own nor wait for the program's. Only the
connection class of redis-py is used: its pools and clients hold locks, which may be green.
"""

from __future__ import annotations

import socket
from _socket import getaddrinfo
from _socket import socket as NativeSocket  # noqa: N812
from typing import Any

from hbshim.extras import needs

with needs(("redis",), "zmq"):
    import redis


class NativeConnection(redis.Connection):  # type: ignore[misc]
    """A connection over TCP.

    Attributes:
        native: its socket, while it is connected.
    """

    native: NativeSocket

    def _connect(self) -> NativeSocket:
        # redis-py's extension point for other kinds of sockets, abstract in its base class.
        error: OSError = OSError("the name has no address")
        for family, kind, protocol, _, address in getaddrinfo(
            self.host, self.port, 0, socket.SOCK_STREAM
        ):
            native = NativeSocket(family, kind, protocol)
            try:
                native.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                native.settimeout(self.socket_connect_timeout)
                native.connect(address)
                native.settimeout(self.socket_timeout)
            except OSError as refused:
                native.close()
                error = refused
                continue
            self.native = native
            return native
        raise error

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when something arrives; -1 once closed."""
        return self.native.fileno()


class NativeTlsConnection(redis.SSLConnection, NativeConnection):  # type: ignore[misc]
    """A connection over TLS."""

    def _connect(self) -> Any:
        wrapped = super()._connect()
        # The plain socket gave its descriptor away.
        self.native = wrapped
        return wrapped
