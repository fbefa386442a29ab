"""Which servers a proxy has, what each may be handed, and what each was handed. No I/O.

A server's state depends on what it and the health check report:

- *ready* and *no_credit*: it answers; with credit it is handed requests.
- *suspect*: the last checks could not reach it. It is handed nothing.
- *draining*: it sent BYE. It is handed nothing, and its replies are still forwarded.

A server that is gone is removed, and with it go the calls that it was handed: they are lost.
"""

from __future__ import annotations

import enum
import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

#: Checks in a row that do not reach a server until it is taken for gone.
FAILED_CHECKS = 3


class State(enum.Enum):
    """Whether a server can be handed requests."""

    READY = "ready"
    NO_CREDIT = "no_credit"
    SUSPECT = "suspect"
    DRAINING = "draining"


@dataclass(eq=False)
class Server:
    """A listener that sent HELLO.

    Attributes:
        routing_id: of its connection.
        incarnation: chosen by it; another one means that it restarted.
        used: the number of the last request that it was handed.
        failures: checks in a row that have not reached it.
        outstanding: the calls that it works on, and what it has not acknowledged yet, by message
            id: the client of each, and when its time is over.
    """

    routing_id: bytes
    incarnation: bytes
    keys: tuple[bytes, ...]
    credit: int
    used: int = 0
    failures: int = 0
    draining: bool = False
    outstanding: dict[bytes, tuple[bytes, float]] = field(default_factory=dict)

    @property
    def suspect(self) -> bool:
        """Whether the last check could not reach it."""
        return self.failures > 0

    @property
    def state(self) -> State:
        if self.draining:
            return State.DRAINING
        if self.suspect:
            return State.SUSPECT
        return State.READY if self.credit > 0 else State.NO_CREDIT


#: Message id and client of each call that is lost.
Lost = list[tuple[bytes, bytes]]


class DispatchTable:
    """The servers of one host."""

    def __init__(self) -> None:
        self._servers: dict[bytes, Server] = {}
        self._by_key: dict[bytes, list[Server]] = {}
        self._numbers = itertools.count(1)

    @property
    def servers(self) -> list[Server]:
        """All of them."""
        return list(self._servers.values())

    @property
    def outstanding(self) -> int:
        """How many calls are being worked on."""
        return sum(len(server.outstanding) for server in self._servers.values())

    def get(self, routing_id: bytes) -> Server | None:
        """Return the server of a connection."""
        return self._servers.get(routing_id)

    def calls_of(self, client: bytes) -> set[bytes]:
        """Return the ids of the calls of a client that are being worked on."""
        return {
            call
            for server in self._servers.values()
            for call, (waits, _) in server.outstanding.items()
            if waits == client
        }

    def servers_of(self, key: bytes) -> list[Server]:
        """Return the servers of `key` that are to stay."""
        return [server for server in self._by_key.get(key, ()) if not server.draining]

    def serves(self, key: bytes) -> bool:
        """Return whether a server here takes requests to `key`, or will again."""
        return bool(self.servers_of(key))

    def hello(
        self, routing_id: bytes, incarnation: bytes, keys: Iterable[bytes], credit: int
    ) -> Lost:
        """A server has connected; return the calls that its earlier incarnation held."""
        server = self._servers.get(routing_id)
        lost: Lost = []
        if server is not None and server.incarnation == incarnation:
            server.credit, server.failures = credit, 0
            return lost
        if server is not None:
            lost = self.remove(server)
        server = Server(routing_id, incarnation, tuple(keys), credit)
        self._servers[routing_id] = server
        for key in server.keys:
            self._by_key.setdefault(key, []).append(server)
        return lost

    def match(self, key: bytes) -> Server | None:
        """Return the server for the next request to `key`.

        Of those with credit, it is the one that was handed a request least recently.
        """
        ready = [each for each in self._by_key.get(key, ()) if each.state is State.READY]
        return min(ready, key=lambda server: server.used) if ready else None

    def hand_over(
        self, server: Server, call: bytes | None, client: bytes, until: float = math.inf
    ) -> None:
        """Note that a server was handed a request.

        Parameters:
            call: the id of a call; None for a cast, which nothing waits for.
            until: when no caller waits for it any more.
        """
        server.credit -= 1
        server.used = next(self._numbers)
        if call is not None:
            server.outstanding[call] = client, until

    def forget(self, call: bytes) -> None:
        """A copy of a request has come, so the loss of an earlier one means nothing."""
        for server in self.servers:
            self.answered(server, call)

    def answered(self, server: Server, call: bytes) -> None:
        """A call has ended. A server that drains and holds no more is removed."""
        server.outstanding.pop(call, None)
        if server.draining and not server.outstanding:
            self.remove(server)

    def drop_late(self, now: float) -> None:
        """Forget the calls that no caller waits for any more; their servers may not answer."""
        for server in self.servers:
            late = [call for call, (_, until) in server.outstanding.items() if until <= now]
            for call in late:
                self.answered(server, call)

    def bye(self, server: Server) -> None:
        """A server takes nothing more."""
        server.draining = True
        if not server.outstanding:
            self.remove(server)

    def unreachable(self, server: Server) -> Lost | None:
        """A check could not reach a server.

        Returns:
            The calls that are lost, where the server is taken for gone; else None.
        """
        server.failures += 1
        return self.remove(server) if server.failures >= FAILED_CHECKS else None

    def reachable(self, server: Server) -> None:
        """A check has reached a server."""
        server.failures = 0

    def remove(self, server: Server) -> Lost:
        """Remove a server; return the calls that it held."""
        if self._servers.get(server.routing_id) is server:
            del self._servers[server.routing_id]
            for key in server.keys:
                self._by_key[key].remove(server)
                if not self._by_key[key]:
                    del self._by_key[key]
        lost = [(call, client) for call, (client, _) in server.outstanding.items()]
        server.outstanding.clear()
        return lost
