"""Which host serves which key: the interface of the directory, whatever keeps it.

Only proxies write to it. Clients read it; what they have read stays in use while the directory
cannot be reached. A key is opaque here, see :func:`hbshim.messaging.zmq.frames.key_of`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

Pipeline: TypeAlias = Literal["call", "cast", "fanout", "notify"]

#: The pipelines, each with a port of its own.
PIPELINES: tuple[Pipeline, ...] = ("call", "cast", "fanout", "notify")


@dataclass(frozen=True, slots=True)
class HostRecord:
    """One host with a proxy.

    Attributes:
        host: its name in the directory, and the routing id of its proxy's sockets.
        incarnation: chosen by the proxy when it starts; another one means that it restarted.
        addresses: ``tcp://host:port`` of each pipeline that the proxy offers.
        version: of the wire format, as :data:`hbshim.messaging.zmq.frames.VERSION`.
        curve_key: the proxy's public key; None: it has none, or the directory does not have it.
    """

    host: str
    incarnation: str
    addresses: Mapping[Pipeline, str]
    version: int
    curve_key: str | None = None


@dataclass(frozen=True, slots=True)
class Registration:
    """A listener on a host.

    Attributes:
        keys: that it listens to: of its topic, of itself, of its pool.
        instance: its unique id.
    """

    keys: tuple[bytes, ...]
    instance: str


@dataclass(frozen=True, slots=True)
class Route:
    """A host that serves a key.

    Attributes:
        instances: ids of the listeners there, sorted; empty where the directory does not know
            them. Their number is the weight of the host.
    """

    record: HostRecord
    instances: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Routes:
    """The result of a lookup.

    Attributes:
        routes: by name of the host.
        reachable: whether the directory answered. If not, the routes are those known before.
    """

    routes: tuple[Route, ...] = ()
    reachable: bool = True


class Reader(Protocol):
    """What a client needs of a directory. All methods may be called from any thread."""

    def routes(self, key: bytes, deadline: float) -> Routes:
        """Return the hosts that serve `key`; from memory where it is known.

        It raises nothing: a directory that cannot be reached reports that in what it returns.

        Parameters:
            deadline: of ``time.monotonic()``, for a first lookup.
        """
        ...

    def forget(self, key: bytes, host: str) -> None:
        """Drop a host from what is known of `key`: it has rejected it."""
        ...

    def watch(self, on_change: Callable[[], None]) -> Callable[[], None]:
        """Have a function called when routes may have changed.

        Parameters:
            on_change: called in any thread, a native one included; must not wait or raise.

        Returns:
            A function that ends it.
        """
        ...

    def close(self) -> None:
        """Close connections and end threads; routes that are known may still be read."""
        ...


class Directory(Reader, Protocol):
    """What a proxy needs of a directory. No method waits for longer than its deadline.

    Where the directory cannot be reached, the backend keeps the changes and writes them later;
    so a proxy starts, and serves known routes, without it.
    """

    def register(self, record: HostRecord, registration: Registration, deadline: float) -> bool:
        """Add a listener, and announce it to those that watch.

        Parameters:
            deadline: of ``time.monotonic()``.

        Returns:
            Whether the directory has it by now.
        """
        ...

    def withdraw(self, host: str, instance: str | None, deadline: float) -> bool:
        """Remove a listener, or with None the host and all its listeners; announce it.

        Returns:
            Whether the directory has done so by now.
        """
        ...

    def renew(self, host: str, deadline: float) -> bool:
        """Renew the lease of a host; register all of it again where the directory has lost it.

        Returns:
            Whether the directory has it by now.
        """
        ...
