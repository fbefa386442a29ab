"""The laboratory of the driver over ZeroMQ: the proxy of one host, behind relays.

Clients reach it by TCP, servers by Unix sockets, and each of these connections can be cut.
"""

from __future__ import annotations

import shutil
import signal
import tempfile
from typing import Any

import pytest

from hbshim import messaging
from tests.messaging.wires import Address, Wires
from tests.messaging.zmq.nodes import Node, own_address

#: Of calls, fanouts, notifications and casts; as the ports of clients are by default.
_PORTS = (9501, 9502, 9503, 9504)

#: By the name of the laboratory.
_QUERIES = {
    "hbzmq": "",
    "hbzmq_acknowledged": "&rpc_use_acks=true&notification_acks=true&rpc_ack_timeout_base=2",
}

#: The sockets of servers.
_LOCAL = ("servers", "fanout", "notify")


class ZeromqLaboratory:
    """See :class:`tests.messaging.contract.laboratory.Laboratory`.

    Parameters:
        node: a host whose proxy runs.
        query: options of every driver, as a URL has them.
        restarts: nothing else uses it.
    """

    def __init__(self, node: Node, query: str, *, restarts: bool) -> None:
        self._node = node
        self._query = query
        self._restarts = restarts
        # Not pytest's: the path of a Unix socket has 107 bytes at most.
        self._ipc = tempfile.mkdtemp(prefix="hbz")
        address = own_address()
        self._wires = Wires(
            {
                **{(address, port): (node.address, port) for port in _PORTS},
                **_local(self._ipc, node.ipc),
            }
        )
        self.url = _url(address, self._ipc, query)
        self._drivers: list[messaging.Driver] = []

    def start(self, **options: Any) -> messaging.Driver:
        return self._connect(self.url, options)

    def start_uncut(self, **options: Any) -> messaging.Driver:
        return self._connect(_url(self._node.address, self._node.ipc, self._query), options)

    def _connect(self, url: str, options: dict[str, Any]) -> messaging.Driver:
        self._drivers.append(messaging.connect(url, **options))
        return self._drivers[-1]

    def cut(self) -> None:
        self._wires.cut()

    def disconnect(self) -> None:
        self._wires.stop()

    def reconnect(self) -> None:
        self._wires.accept()

    def restart(self) -> None:
        assert self._restarts, "a test that restarts the proxy belongs in test_restart.py"
        self._node.end(signal.SIGKILL)
        self._node.start(whole=True)

    def count(self) -> int:
        return self._wires.opened

    def close(self) -> None:
        for driver in self._drivers:
            driver.close()
        self._wires.close()
        shutil.rmtree(self._ipc)


def _url(address: str, ipc: str, query: str) -> str:
    return f"hbzmq://{address}/?rpc_zmq_ipc_dir={ipc}{query}"


def _local(here: str, there: str) -> dict[Address, Address]:
    return {f"{here}/{name}": f"{there}/{name}" for name in _LOCAL}


def zeromq_laboratory(
    scheme: str, request: pytest.FixtureRequest, *, restarts: bool
) -> ZeromqLaboratory:
    """Return a laboratory on the proxy of the tests, or on one that may be restarted."""
    node: Node = request.getfixturevalue("restartable_node" if restarts else "shared_node")
    return ZeromqLaboratory(node, _QUERIES[scheme], restarts=restarts)
