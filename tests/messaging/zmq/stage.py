"""Hosts and clients on several machines, each of them in a process of its own."""

from __future__ import annotations

import os
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tests.messaging.zmq.machines import Machine, Network
from tests.messaging.zmq.nodes import Node
from tests.messaging.zmq.peer_process import Outcome, Peer

#: Runs with HBSHIM_ZMQ_NETWORK=all only.
long = pytest.mark.skipif(
    os.environ.get("HBSHIM_ZMQ_NETWORK") != "all", reason="HBSHIM_ZMQ_NETWORK=all runs it"
)

T = 2

#: Seconds within which a client knows of a peer that it does not hear any more; and within which
#: the calls that it was sent have ended.
DETECTED = 1.5 * T + 1
ENDED = DETECTED + 1.5

#: Seconds after which the record of a host that was killed is dropped.
LEASE = 1

#: Of TCP; it would end an idle connection within 3 s.
KEEPALIVE = {
    "HBSHIM_ZMQ_ZMQ_TCP_KEEPALIVE_IDLE": "1",
    "HBSHIM_ZMQ_ZMQ_TCP_KEEPALIVE_INTVL": "1",
    "HBSHIM_ZMQ_ZMQ_TCP_KEEPALIVE_CNT": "2",
}

#: Two proxies share an address where one of them is the control.
PORTS, CONTROL_PORTS = (9501, 9504), (9601, 9604)


@dataclass
class Host:
    """A proxy and a server."""

    name: str
    node: Node
    server: Peer
    port: int

    @property
    def authority(self) -> str:
        return f"{self.node.address}:{self.port}"


class Stage:
    """Machines, and what runs on them; a context manager."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.network = Network(0)

    def machines(self, count: int) -> list[Machine]:
        self.network = self._stack.enter_context(Network(count))
        return self.network.machines

    def host(
        self,
        machine: Machine,
        name: str,
        heartbeat: int = T,
        ports: tuple[int, int] = PORTS,
        clock: float = 0.0,
        directory: str = "",
    ) -> Host:
        node = machine.node()
        self._stack.callback(node.close)
        options = {"HBSHIM_ZMQ_HEARTBEAT_INTERVAL": str(heartbeat), **KEEPALIVE}
        arguments = ["--call-port", str(ports[0]), "--cast-port", str(ports[1]), "--host", name]
        if directory:
            arguments += ["--directory", directory]
            options["HBSHIM_ZMQ_ZMQ_TARGET_EXPIRE"] = str(LEASE)
        node.start(*arguments, environment=options, clock=clock)
        server = self._peer(machine, "server", node.url, node, name, options, clock)
        return Host(name, node, server, ports[0])

    def client(
        self,
        machine: Machine,
        *hosts: Host,
        heartbeat: int = T,
        clock: float = 0.0,
        directory: str = "",
        idle: float = 300.0,
    ) -> Peer:
        options = {
            "HBSHIM_ZMQ_HEARTBEAT_INTERVAL": str(heartbeat),
            "HBSHIM_ZMQ_ZMQ_IDLE_DISCONNECT": str(idle),
            **KEEPALIVE,
        }
        url = "hbzmq://"
        if directory:
            options["HBSHIM_ZMQ_FANOUT_DS_ADDRESS"] = directory
        else:
            url += f"{','.join(host.authority for host in hosts)}/"
        return self._peer(machine, "client", url, hosts[0].node, "client", options, clock)

    def _peer(
        self,
        machine: Machine,
        role: str,
        url: str,
        node: Node,
        name: str,
        options: dict[str, str],
        clock: float,
    ) -> Peer:
        peer = Peer(machine, role, url, node.ipc, "network", name, clock=clock, environment=options)
        self._stack.callback(peer.close)
        return peer

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def answered_by(client: Peer) -> set[str]:
    return {outcome.host for outcome in client.outcomes if outcome.host is not None}


def failed(outcomes: list[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.error]


def call_until(client: Peer, until: float) -> None:
    """Call every tenth of a second, whatever becomes of the calls before."""
    number = 1_000_000
    while (left := until - time.monotonic()) > 0:
        client.command("call", number=number, seconds=0, timeout=60)
        number += 1
        time.sleep(min(left, 0.1))


def ran_twice(*hosts: Host) -> list[int]:
    runs = Counter(number for host in hosts for number in host.server.ran)
    return [number for number, count in runs.items() if count > 1]
