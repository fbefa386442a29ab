"""Where the processes of a proxy listen: ports of the network, and local sockets for servers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

import zmq

from hbshim.errors import OptionError
from hbshim.messaging.zmq.directory import Pipeline
from hbshim.messaging.zmq.directory.settings import PORTS
from hbshim.messaging.zmq.local_sockets import share_socket
from hbshim.messaging.zmq.proxy.access import Access
from hbshim.messaging.zmq.settings import SocketSettings

#: Seconds until a port is tried again that was given up just now.
REBIND_AFTER = 0.01

#: The processes of a proxy. Calls and casts share a dispatch table, and so a process.
ProcessName: TypeAlias = Literal["requests", "fanout", "notify"]

#: All of them, in the order in which they start.
PROCESSES: tuple[ProcessName, ...] = ("requests", "fanout", "notify")


@dataclass(frozen=True, slots=True)
class ProxySettings:
    """The settings of a proxy.

    Attributes:
        host: its name.
        bind: the address to listen at, without a port; ``*`` is every one.
        backlog: requests that wait for the servers of one key, at most.
        queue_bytes: that wait for all servers, at most.
        copies_lifetime: seconds for which copies of acknowledged requests are recognised.
        ipc_group: of the users whose servers may connect, beside the proxy's own; None: no other.
        allowed_keys: of clients, see :class:`hbshim.messaging.zmq.proxy.access.Access`.
    """

    host: str
    bind: str
    ipc_directory: str
    sockets: SocketSettings = field(default_factory=SocketSettings)
    ports: Mapping[Pipeline, int] = field(default_factory=lambda: PORTS)
    backlog: int = 1000
    queue_bytes: int = 64 * 1024 * 1024
    copies_lifetime: float = 300.0
    ipc_group: int | None = None
    allowed_keys: str = ""

    def address(self, pipeline: Pipeline) -> str:
        """Return the address of a pipeline, as clients use it."""
        here = self.host if self.bind == "*" else self.bind
        return f"tcp://{here}:{self.ports[pipeline]}"


class Server(Protocol):
    """What one process of a proxy runs. Its methods belong to the thread of the loop."""

    #: What it listens at, as a sentence has it.
    description: str
    #: It has ended by itself.
    failed: bool

    def stop(self, grace: float) -> None:
        """Take nothing new, finish what there is within `grace` seconds, then stop the loop."""
        ...

    def statistics(self) -> Mapping[str, float] | None:
        """Return its figures, by name; None where it does not work."""
        ...

    def drop_connections(self) -> None:
        """End every connection of the network; clients that may connect come back at once."""
        ...


def bind_port(
    socket: zmq.Socket[bytes], settings: ProxySettings, pipeline: Pipeline, access: Access | None
) -> str:
    """Bind a socket to the port of a pipeline; return its address.

    Parameters:
        access: counts the handshakes that fail; None: there are no keys.

    Raises:
        OptionError: it cannot be bound.
    """
    if access is not None:
        access.watch(socket)
    bind(socket, f"tcp://{settings.bind}:{settings.ports[pipeline]}")
    return socket.get_string(zmq.LAST_ENDPOINT)


def bind_again(socket: zmq.Socket[bytes], address: str) -> bool:
    """Bind a socket again that was unbound; return False if the address is not free yet."""
    try:
        socket.bind(address)
    except zmq.ZMQError:
        return False
    return True


def bind(socket: zmq.Socket[bytes], address: str, group: int | None = None) -> None:
    """Bind a socket.

    Parameters:
        group: whose users may connect to a local socket, too.

    Raises:
        OptionError: it cannot be bound; the socket is closed.
    """
    try:
        socket.bind(address)
        if group is not None:
            share_socket(address, group)
    except zmq.ZMQError as error:
        socket.close()
        raise OptionError(
            f"{address} cannot be bound ({zmq.strerror(error.errno or 0)}); is another proxy "
            "running on this host?"
        ) from None
