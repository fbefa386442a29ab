"""What a proxy knows of the requests of its clients, when it is asked what has arrived."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import zmq

from hbshim.messaging.zmq.loop import Loop
from hbshim.messaging.zmq.proxy import clients
from hbshim.messaging.zmq.proxy.clients import Clients
from hbshim.messaging.zmq.settings import SocketSettings
from hbshim.messaging.zmq.sockets import make
from hbshim.metrics import Metrics

ONE, OTHER = b"c-one", b"c-other"

#: A name that a router gives.
GIVEN = b"\0\1\2\3\4"


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def made(metrics: Metrics) -> Iterator[Clients]:
    loop = Loop()
    socket: zmq.Socket[bytes] = make(loop.context, "proxy-call", SocketSettings())
    loop.look_after(socket)
    yield Clients(loop, socket, "host", bytes(16), 1000, metrics)
    loop.end()


def test_what_comes_after_the_last_that_arrived_was_missed(made: Clients) -> None:
    made.greet(ONE, stopping=False)
    assert made.missed(ONE, 1)
    for sequence in (1, 2, 5):
        assert made.arrived(ONE, sequence)
    # It connects again.
    made.greet(ONE, stopping=False)
    assert [made.missed(ONE, sequence) for sequence in (1, 5, 6)] == [False, False, True]


def test_of_a_client_that_was_forgotten_nothing_was_certainly_missed(
    made: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it sent may be running; an answer that it may send it again would run it twice."""
    assert not made.missed(OTHER, 7)
    monkeypatch.setattr(clients, "CLIENTS_KEPT", 1)
    made.greet(ONE, stopping=False)
    assert made.arrived(ONE, 3)
    made.greet(OTHER, stopping=False)
    made.greet(ONE, stopping=False)
    assert not made.missed(ONE, 4)
    assert made.arrived(ONE, 4)
    assert [made.missed(ONE, sequence) for sequence in (4, 5)] == [False, True]


def test_a_numbered_request_of_a_replaced_connection_is_not_run(
    made: Clients, metrics: Metrics
) -> None:
    """A router gives a connection another name as its client connects anew."""
    made.greet(ONE, stopping=False)
    assert not made.arrived(GIVEN, 1)
    assert metrics.snapshot()["zmq_requests_replaced"] == 1
    assert made.missed(ONE, 1)
    # A socket without a name of its own, which asks for nothing afterwards.
    assert made.arrived(GIVEN, 0)
