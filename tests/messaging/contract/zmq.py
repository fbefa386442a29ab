"""The laboratory of the ZeroMQ driver: a proxy behind a relay."""

from __future__ import annotations

from typing import Any

import pytest

from hbshim import messaging
from tests.messaging.zmq.nodes import Node
from wsgi_harness.wire.relay import Relay


class ZmqLaboratory:
    """See :class:`tests.messaging.contract.laboratory.Laboratory`."""

    def __init__(self) -> None:
        self._node = Node()
        self._node.start()
        self._relay = Relay(self._node.address, 9501).__enter__()
        query = f"?rpc_zmq_ipc_dir={self._node.ipc}"
        self.url = f"hbzmq://{self._relay.host}:{self._relay.port}/{query}"
        self._direct_url = f"{self._node.url}{query}"
        self._drivers: list[messaging.Driver] = []

    def start(self, **options: Any) -> messaging.Driver:
        self._drivers.append(messaging.connect(self.url, **options))
        return self._drivers[-1]

    def start_uncut(self, **options: Any) -> messaging.Driver:
        self._drivers.append(messaging.connect(self._direct_url, **options))
        return self._drivers[-1]

    def cut(self) -> None:
        self._relay.reset()

    def disconnect(self) -> None:
        self._relay.stop()

    def reconnect(self) -> None:
        self._relay.accept()

    def restart(self) -> None:
        self._node.end()
        self._node.start()

    def count(self) -> int:
        return len(self._relay.seen("opened"))

    def close(self) -> None:
        for driver in self._drivers:
            driver.close()
        self._node.close()
        self._relay.__exit__(None, None, None)


def zmq_laboratory(scheme: str, request: pytest.FixtureRequest, *, restarts: bool) -> ZmqLaboratory:
    """Return the laboratory of one test."""
    return ZmqLaboratory()
