"""A relay between two real TCP sockets."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from wsgi_harness.wire.relay import Relay

LIMIT = 20.0


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Stands where the broker would."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(LIMIT)
        yield server


@pytest.fixture
def relay(listener: socket.socket) -> Iterator[Relay]:
    with Relay(*listener.getsockname()) as relay:
        yield relay


@contextlib.contextmanager
def connected(port: int, listener: socket.socket) -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_connection(("127.0.0.1", port), LIMIT) as client:
        broker, _ = listener.accept()
        broker.settimeout(LIMIT)
        with broker:
            yield client, broker
