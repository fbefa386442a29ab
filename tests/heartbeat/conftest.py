"""A connection without a broker."""

import socket

import pytest


@pytest.fixture
def connected():
    server = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(server.getsockname())
    peer, _ = server.accept()
    peer.settimeout(10)
    server.close()
    with client, peer:
        yield client, peer
