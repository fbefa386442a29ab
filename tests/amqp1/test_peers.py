"""qpid-proton and rhea, each as server and as client."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hbshim.amqp1.connection import Connection
from hbshim.amqp1.delivery import Delivery
from hbshim.amqp1.events import Closed, CreditChanged, Detached, Drained, Origin, Received
from hbshim.amqp1.mechanisms import Anonymous, plain_credentials
from hbshim.amqp1.performatives import (
    Accepted,
    Modified,
    Properties,
    Rejected,
    Released,
    Source,
    Target,
)
from hbshim.amqp1.sasl import SaslClient, SaslServer
from tests.amqp1.driver import Driver, content, message
from tests.amqp1.peers import Peer, Program
from tests.amqp1.store import serving


@pytest.fixture
def server(peer: Peer) -> Iterator[Program]:
    """A server that gives 10 credits to each sender."""
    with peer.running("server", "10", stops=False) as program:
        yield program


@pytest.fixture
def connect(server: Program) -> Iterator[Callable[..., Driver]]:
    port = int(server.line())
    assert server.line() == "ready"
    drivers = []

    def connect(*, login: bool = True, **options: Any) -> Driver:
        sasl = SaslClient([Anonymous()], None) if login else None
        connection = Connection("hbshim-test", sasl=sasl, **options)
        drivers.append(Driver.connect(("127.0.0.1", port), connection))
        drivers[-1].open()
        return drivers[-1]

    yield connect
    for each in drivers:
        each.sock.close()


Connect = Callable[..., Driver]


@pytest.mark.parametrize("login", [True, False])
def test_with_and_without_login(connect: Connect, login: bool) -> None:
    driver = connect(login=login)
    driver.begin().end()
    driver.close()


@pytest.mark.parametrize("max_frame_size", [512, 16_384, 65_536])
def test_messages_of_any_size(connect: Connect, max_frame_size: int) -> None:
    driver = connect(max_frame_size=max_frame_size)
    session = driver.begin()
    sender = driver.sender(session, Target("queue"))
    receiver = driver.receiver(session, Source("queue"), credit=1)
    for size in (0, 1, max_frame_size - 30, max_frame_size, 7 * max_frame_size + 1, 1_000_000):
        assert driver.outcome(sender.send(message(b"y" * size))) == Accepted()
        delivery = driver.wait_for(Received).delivery
        assert content(delivery) == b"y" * size
        receiver.settle(delivery, Accepted())
        receiver.grant(1)
    driver.close()


@pytest.mark.parametrize(
    ("address", "outcome"),
    [("reject", Rejected), ("release", Released), ("modify", Modified), ("queue", Accepted)],
)
def test_outcomes_of_the_server(connect: Connect, address: str, outcome: type[Any]) -> None:
    driver = connect()
    sender = driver.sender(driver.begin(), Target(address))
    sent = sender.send(message(b"x"))
    assert isinstance(driver.outcome(sent), outcome)
    assert sent.settled
    driver.close()


@pytest.mark.parametrize(
    ("outcome", "again"),
    [(Accepted(), False), (Rejected(), False), (Released(), True), (Modified(True), True)],
    ids=lambda value: type(value).__name__,
)
def test_outcomes_for_the_server(connect: Connect, outcome: Any, again: bool) -> None:
    driver = connect()
    session = driver.begin()
    sender = driver.sender(session, Target("queue"))
    driver.outcome(sender.send(message(b"first")))
    receiver = driver.receiver(session, Source("queue"), credit=1)
    receiver.settle(driver.wait_for(Received).delivery, outcome)
    driver.outcome(sender.send(message(b"second")))
    receiver.grant(1)
    assert content(driver.wait_for(Received).delivery) == (b"first" if again else b"second")
    driver.close()


def test_credit_is_exhausted_given_again_and_drained(connect: Connect) -> None:
    driver = connect()
    session = driver.begin()
    sender = driver.sender(session, Target("queue"))
    sent: list[Delivery] = []
    while len(sent) < 100:
        if not sender.credit:
            driver.wait_for(CreditChanged, where=lambda event: event.credit)
        sent.append(sender.send(message(b"x")))
    driver.outcome(sent[-1])
    receiver = driver.receiver(session, Source("queue"), credit=60)
    for _ in range(60):
        receiver.settle(driver.wait_for(Received).delivery, Accepted())
    receiver.grant(50)
    for _ in range(40):
        receiver.settle(driver.wait_for(Received).delivery, Accepted())
    assert receiver.credit == 10
    receiver.drain()
    driver.wait_for(Drained)
    driver.close()


def test_addresses_in_messages(connect: Connect) -> None:
    driver = connect()
    session = driver.begin()
    sender = driver.sender(session, Target())
    sent = message(b"x", properties=Properties(to="queue-of-a-message"))
    assert driver.outcome(sender.send(sent)) == Accepted()
    driver.receiver(session, Source("queue-of-a-message"), credit=1)
    assert content(driver.wait_for(Received).delivery) == b"x"


@pytest.mark.parametrize("sends", [True, False])
def test_a_link_that_is_refused(connect: Connect, sends: bool) -> None:
    driver = connect()
    session = driver.begin()
    if sends:
        session.attach_sender("l", Target("refused"))
    else:
        session.attach_receiver("l", Source("refused"))
    detached = driver.wait_for(Detached)
    assert detached.by_peer
    assert detached.error is not None
    assert (detached.error.condition, detached.error.description) == (
        "amqp:not-found",
        "no such address",
    )
    driver.close()


def test_a_connection_that_the_server_closes(connect: Connect) -> None:
    driver = connect()
    driver.begin().attach_sender("l", Target("closed"))
    closed = driver.wait_for(Closed)
    assert closed.origin is Origin.PEER
    assert closed.error is not None
    assert closed.error.description == "as asked for"


def test_a_server_that_is_frozen_is_dead(connect: Connect, server: Program) -> None:
    driver = connect(idle_timeout=1)
    driver.run(2.5)
    # It sends what was asked for.
    assert not driver.connection.closed
    os.kill(server.pid, signal.SIGSTOP)
    try:
        closed = driver.wait_for(Closed)
    finally:
        os.kill(server.pid, signal.SIGCONT)
    assert closed.origin is Origin.LOCAL
    assert closed.error is not None
    assert closed.error.description == "local-idle-timeout expired: nothing arrived in 2 s"


def outcome_of(program: Program, *command: Any) -> Any:
    return json.loads(program.ask(json.dumps(command)))


def server_connection(**options: Any) -> Callable[[], Connection]:
    """Makes connections of a server that knows one user, and lets in those without a name."""

    def accepts(mechanism: str, response: bytes) -> bool:
        return mechanism == "ANONYMOUS" or plain_credentials(response) == ("user", "secret")

    def make() -> Connection:
        sasl = SaslServer(["PLAIN", "ANONYMOUS"], accepts)
        return Connection("hbshim-test", server=True, sasl=sasl, **options)

    return make


def test_a_client(peer: Peer) -> None:
    make = server_connection()
    with (
        serving(make) as store,
        peer.running("client", str(store.port), "user", "secret") as program,
    ):
        assert program.line() == '"connected"'
        assert outcome_of(program, "send", "queue", 10) == "ACCEPTED"
        assert outcome_of(program, "send", "queue", 300_000) == "ACCEPTED"
        assert outcome_of(program, "send", "reject", 10) == "REJECTED"
        assert outcome_of(program, "send", "release", 10) == "RELEASED"
        assert outcome_of(program, "send", "modify", 10) == "MODIFIED"
        assert outcome_of(program, "send", "refused", 10) == "detached: amqp:not-found"
        assert outcome_of(program, "receive", "queue", "accept") == [10, "an-id", 0]
        assert outcome_of(program, "receive", "queue", "reject") == [300_000, "an-id", 0]
        assert outcome_of(program, "close") == "closed"
    assert [type(each) for each in store.settled] == [Accepted, Rejected]


def test_a_client_and_small_frames(peer: Peer) -> None:
    make = server_connection(max_frame_size=512)
    with serving(make) as store, peer.running("client", str(store.port)) as program:
        assert program.line() == '"connected"'
        assert outcome_of(program, "send", "queue", 100_000) == "ACCEPTED"
        assert outcome_of(program, "receive", "queue", "accept") == [100_000, "an-id", 0]


def test_a_client_without_login(peer: Peer) -> None:
    def make() -> Connection:
        return Connection("hbshim-test", server=True)

    with serving(make) as store, peer.running("client", str(store.port), "nobody") as program:
        assert program.line() == '"connected"'
        assert outcome_of(program, "send", "queue", 10) == "ACCEPTED"


def test_a_client_with_wrong_credentials(peer: Peer) -> None:
    with (
        serving(server_connection()) as store,
        peer.running("client", str(store.port), "user", "wrong") as program,
    ):
        assert "refused" in program.line()


def test_an_idle_client_is_kept_alive(peer: Peer) -> None:
    """It asks for an empty frame a second, as this side does."""
    make = server_connection(idle_timeout=1)
    with serving(make) as store, peer.running("client", str(store.port)) as program:
        assert program.line() == '"connected"'
        assert outcome_of(program, "pause", 3.5) == "connected"
        assert outcome_of(program, "send", "queue", 10) == "ACCEPTED"
