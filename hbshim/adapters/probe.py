"""Opens one connection with py-amqp or pika, for the doctor.

Both get one address that is resolved already, and both end in bounded time: pika by its own limit
on the whole handshake, py-amqp by a call of :meth:`Client.cut`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import ssl
import sys
from dataclasses import dataclass
from typing import Any, Protocol

from hbshim.adapters.sockets import native_socket
from hbshim.errors import AttachError, MissingExtraError, OptionError
from hbshim.heartbeat.link import Link
from hbshim.heartbeat.wire import Wire
from hbshim.options import Options

NAMES = ("amqp", "pika")
CONNECTION_NAME = "hbshim doctor"

#: Seconds between the time at which py-amqp is cut off and its own timeout, which restarts with
#: each read.
GRACE = 1.0


@dataclass(frozen=True)
class Login:
    """What a client needs to connect.

    Attributes:
        address: of the peer, resolved.
        hostname: the name that its certificate must have.
        tls: the TLS context; None for plain TCP.
        heartbeat: T to request, in seconds.
        limit: seconds for the handshake.
        external: log in by the certificate of TLS, without user and password.
    """

    address: str
    port: int
    hostname: str
    user: str
    password: str
    vhost: str
    tls: ssl.SSLContext | None
    heartbeat: int
    limit: float
    external: bool = False

    def __repr__(self) -> str:
        return f"<Login to {self.hostname}:{self.port}>"


class Client(Protocol):
    """One connection of one library."""

    #: The library with its version.
    label: str
    #: Whether the peer had accepted the TCP connection when it was cut; None if the library's own
    #: error shows it.
    reached: bool | None

    def open(self, login: Login) -> None:
        """Connect and log in; raises the library's errors."""

    def cut(self) -> None:
        """End whatever the library waits for; from any thread, raises nothing."""

    def attach(self, options: Options) -> Link | None:
        """Keep it alive."""

    def agreed(self) -> tuple[int, int, int, int]:
        """Return T, the T that the broker suggested, frame_max, channel_max."""

    def broker(self) -> dict[str, Any]:
        """Return the broker's properties."""

    def close(self) -> None:
        """Close it; raises the library's errors."""


def client_of(name: str | None) -> Client:
    """Return a client of the library `name`; by default, of the one that is installed.

    A library that is loaded already is preferred: it is the one that the program uses.

    Raises:
        MissingExtraError: neither is installed, or not the named one.
        OptionError: an unknown name.
    """
    if name is not None and name not in NAMES:
        raise OptionError(f"there is no client library {name!r} here; use one of: amqp, pika")
    wanted = NAMES if name is None else (name,)
    present = [found for found in wanted if importlib.util.find_spec(found)]
    if not present:
        raise MissingExtraError(*(("pika", "pika") if name == "pika" else ("py-amqp", "kombu")))
    chosen = next((found for found in present if found in sys.modules), present[0])
    return PyAmqp() if chosen == "amqp" else Pika()


class PyAmqp:
    """py-amqp, which kombu and Celery use."""

    def __init__(self) -> None:
        import amqp

        self.label = f"py-amqp {amqp.__version__}"
        self.reached: bool | None = None
        self._library = amqp
        self._connection: Any = None
        self._transport: Any = None

    def open(self, login: Login) -> None:
        outer = self

        class Connection(self._library.Connection):  # type: ignore[misc, name-defined]
            def Transport(self, *args: Any, **kwargs: Any) -> Any:  # noqa: N802
                transport = super().Transport(*args, **kwargs)
                if login.tls is not None:
                    transport._wrap_socket = _wrap_with(login)
                outer._transport = transport
                return transport

        host = f"[{login.address}]" if ":" in login.address else login.address
        self._connection = Connection(
            f"{host}:{login.port}",
            login.user,
            login.password,
            login_method="EXTERNAL" if login.external else None,
            virtual_host=login.vhost,
            heartbeat=login.heartbeat,
            ssl=login.tls is not None,
            connect_timeout=login.limit + GRACE,
            client_properties={"connection_name": CONNECTION_NAME},
        )
        try:
            self._connection.connect()
        except BaseException:
            # py-amqp does so itself only after errors of the socket.
            with contextlib.suppress(Exception):
                self._connection.collect()
            raise

    def cut(self) -> None:
        # The socket is created, and replaced by a TLS one, while the library connects.
        with contextlib.suppress(AttachError, AttributeError):
            wire = Wire(native_socket(self._transport.sock), tcp_info=False)
            if self.reached is None:
                self.reached = _has_peer(wire)
            wire.shut_both()

    def attach(self, options: Options) -> Link | None:
        from hbshim.adapters.pyamqp import heartbeat as adapter

        return adapter.attach(self._connection, options)

    def agreed(self) -> tuple[int, int, int, int]:
        it = self._connection
        return it.heartbeat, it.server_heartbeat, it.frame_max, it.channel_max

    def broker(self) -> dict[str, Any]:
        return dict(self._connection.server_properties or {})

    def close(self) -> None:
        self._connection.close()


def _has_peer(wire: Wire) -> bool:
    try:
        wire.name()
    except OSError:
        return False
    return True


def _wrap_with(login: Login) -> Any:
    """Return a function that wraps py-amqp's socket with the given TLS context."""

    def wrap(sock: Any, **_options: Any) -> Any:
        assert login.tls is not None
        # The handshake is left to py-amqp, which sets a timeout first.
        return login.tls.wrap_socket(
            sock, server_hostname=login.hostname, do_handshake_on_connect=False
        )

    return wrap


class Pika:
    """pika's BlockingConnection."""

    def __init__(self) -> None:
        import pika

        self.label = f"pika {pika.__version__}"
        self.reached: bool | None = None
        self._library = pika
        self._connection: Any = None
        self._suggested = 0

    def open(self, login: Login) -> None:
        pika = self._library

        def settle(_connection: Any, suggested: int) -> int:
            # As pika does with a plain number: the smaller of the two, except 0.
            self._suggested = suggested
            return min(suggested or login.heartbeat, login.heartbeat)

        self._connection = pika.BlockingConnection(
            pika.ConnectionParameters(
                host=login.address,
                port=login.port,
                virtual_host=login.vhost,
                credentials=pika.credentials.ExternalCredentials()
                if login.external
                else pika.PlainCredentials(login.user, login.password),
                heartbeat=settle,
                ssl_options=login.tls and pika.SSLOptions(login.tls, login.hostname),
                socket_timeout=login.limit,
                stack_timeout=login.limit,
                connection_attempts=1,
                client_properties={"connection_name": CONNECTION_NAME},
            )
        )

    def cut(self) -> None:
        with contextlib.suppress(AttachError, AttributeError):
            sock = self._connection._impl._transport._sock
            Wire(native_socket(sock), tcp_info=False).shut_both()

    def attach(self, options: Options) -> Link | None:
        from hbshim.adapters.pika import heartbeat as adapter

        return adapter.attach(self._connection, options)

    def agreed(self) -> tuple[int, int, int, int]:
        parameters = self._connection._impl.params
        return parameters.heartbeat, self._suggested, parameters.frame_max, parameters.channel_max

    def broker(self) -> dict[str, Any]:
        return dict(self._connection._impl.server_properties or {})

    def close(self) -> None:
        self._connection.close()
