"""Connections of the driver over AMQP 1.0 to the real broker."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hbshim.messaging.amqp1.connection import Connection
from hbshim.messaging.amqp1.opening import open_connection
from hbshim.messaging.amqp1.options import Amqp1Options
from hbshim.messaging.hosts import Host
from tests.messaging.conftest import LIMIT


def soon() -> float:
    """A deadline for what takes no time."""
    return time.monotonic() + LIMIT


@pytest.fixture
def opened(host: Host) -> Iterator[Callable[..., Connection]]:
    """Open connections; what is still open when the test ends is closed."""
    all_opened: list[Connection] = []

    def open_one(to: Host = host, **options: Any) -> Connection:
        loaded = Amqp1Options(**{"socket_timeout": LIMIT, "handshake_timeout": LIMIT, **options})
        all_opened.append(open_connection(to, loaded, soon()))
        return all_opened[-1]

    yield open_one
    for connection in all_opened:
        connection.close()


@pytest.fixture
def connection(opened: Callable[..., Connection]) -> Connection:
    """One open connection."""
    return opened()
