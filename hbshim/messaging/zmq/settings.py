"""What can be chosen for sockets; without ZeroMQ's library."""

from __future__ import annotations

from dataclasses import dataclass, field

#: How the line of a process of a proxy begins that cannot start.
REFUSED = "refused: "

#: The line of an embedded proxy while another proxy runs.
WAITING = "waiting"

#: Acknowledged messages whose copies are recognised, by each proxy and each process of servers.
COPIES_KEPT = 100_000


@dataclass(frozen=True, slots=True)
class SocketSettings:
    """What an operator may choose.

    Attributes:
        heartbeat_interval: T, in seconds; 0: no heartbeats.
        linger: seconds for which a closed socket still sends.
        keepalive: of TCP: on, seconds idle, probes, seconds between two probes.
        fanout_hwm: publications that wait for one subscriber.
        secret_key: turns CURVE on for the sockets of the network. Not shown by ``repr``.
    """

    heartbeat_interval: int = 10
    linger: float = 2.0
    keepalive: tuple[int, int, int, int] = (1, 10, 3, 5)
    fanout_hwm: int = 1000
    secret_key: bytes | None = field(default=None, repr=False)
