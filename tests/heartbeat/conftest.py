"""A connection without a broker."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest


@pytest.fixture
def connected() -> Iterator[tuple[socket.socket, socket.socket]]:
    server = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(server.getsockname())
    peer, _ = server.accept()
    peer.settimeout(10)
    server.close()
    with client, peer:
        yield client, peer
