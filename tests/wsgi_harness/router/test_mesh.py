"""Two routers that are connected with each other: R9, and what holds across them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests.waiting import wait_until
from tests.wsgi_harness.router.clients import LIMIT, Client
from tests.wsgi_harness.router.conftest import Starts
from wsgi_harness.router.plan import Plan, free_port

Connect = Callable[..., Client]
MULTICAST = ("address", {"prefix": "multicast", "distribution": "multicast"})


@pytest.fixture(scope="module")
def ports(starts: Starts) -> Iterator[tuple[int, int]]:
    """Two routers of a mesh; the second connects to the first."""
    first, second, between = free_port(), free_port(), free_port()
    listener = {"host": "127.0.0.1", "role": "inter-router", "port": between}
    routers = [
        starts(
            Plan(
                [
                    ("router", {"mode": "interior", "id": "first"}),
                    ("listener", {"host": "127.0.0.1", "port": first}),
                    ("listener", listener),
                    MULTICAST,
                ]
            ),
            first,
        )
    ]
    try:
        routers.append(
            starts(
                Plan(
                    [
                        ("router", {"mode": "interior", "id": "second"}),
                        ("listener", {"host": "127.0.0.1", "port": second}),
                        ("connector", listener),
                        MULTICAST,
                    ]
                ),
                second,
            )
        )
        yield first, second
    finally:
        for router in routers:
            router.stop()


class Pair:
    """A caller at the first router, and a server at the second."""

    def __init__(self, connect: Connect, ports: tuple[int, int]) -> None:
        self.caller = connect(ports[0])
        self.server = connect(ports[1])
        self._anonymous = self.caller.sender()

    def reach(self, address: str, receiver: str) -> list[str | None]:
        """Send messages until the server gets one; return the outcomes of all."""
        outcomes: list[str | None] = []
        while outcomes[-1:] != ["accepted"]:
            sent = self.caller.send(self._anonymous, to=address)
            wait_until(partial(self._settled, sent, receiver), LIMIT)
            outcomes.append(self.caller.outcome(sent))
        return outcomes

    def _settled(self, sent: int, receiver: str) -> bool:
        for message in self.server.received(receiver):
            if not message["settled"]:
                self.server.answer(message, "accepted")
        return self.caller.fate(sent)[1]


@pytest.fixture
def pair(connect: Connect, ports: tuple[int, int]) -> Pair:
    return Pair(connect, ports)


def test_r9_a_new_address_is_known_after_some_time(pair: Pair) -> None:
    receiver = pair.server.receiver("r9", 100)
    begin = time.monotonic()
    outcomes = pair.reach("r9", receiver)
    # The other router may learn of it just then.
    assert set(outcomes[:-1]) <= {"released"}
    assert time.monotonic() - begin < LIMIT / 2


def test_a_sender_to_the_address_gets_credit_with_it(pair: Pair) -> None:
    receiver = pair.server.receiver("r9-credit", 100)
    sender = pair.caller.sender("r9-credit")
    sent = pair.caller.send(sender, "hello")
    assert pair.server.message(receiver)["body"] == "hello"
    pair.server.answer(pair.server.message(receiver), "accepted")
    assert pair.caller.outcome(sent) == "accepted"


def test_outcomes_pass_both_routers(pair: Pair) -> None:
    receiver = pair.server.receiver("r9-outcomes", 100)
    sender = pair.caller.sender("r9-outcomes")
    states = ["accepted", "released", "modified", "rejected"]
    sent = [pair.caller.send(sender) for _ in states]
    for index, state in enumerate(states):
        pair.server.answer(pair.server.message(receiver, index), state)
    assert [pair.caller.outcome(each) for each in sent] == states
    assert pair.caller.failed(sent[2])
    assert pair.caller.error(sent[3]) == ["hbshim:test", "not wanted"]


def test_r4_a_receiver_that_dies_at_the_other_router(pair: Pair) -> None:
    receiver = pair.server.receiver("r9-dies", 1)
    sender = pair.caller.sender("r9-dies")
    held, waiting = pair.caller.send(sender), pair.caller.send(sender)
    pair.server.message(receiver)
    pair.server.end()
    assert pair.caller.outcome(held) == "modified"
    assert pair.caller.failed(held)
    assert pair.caller.outcome(waiting) == "released"


def test_r6_and_r7_pass_both_routers(pair: Pair) -> None:
    receiver = pair.server.receiver("r9-settled", 1)
    sender = pair.caller.sender("r9-settled")
    begun, withdrawn = pair.caller.send(sender), pair.caller.send(sender, "withdrawn")
    pair.server.answer(pair.server.message(receiver), "accepted", settled=False)
    pair.caller.wait_state(begun, "accepted")
    assert not pair.caller.fate(begun)[1]
    pair.caller.settle(withdrawn)
    pair.caller.settle(begun)
    wait_until(lambda: pair.server.received(receiver)[0]["settled"], LIMIT)
    pair.server.grant(receiver, 1)
    message = pair.server.message(receiver, 1)
    assert (message["body"], message["settled"]) == ("withdrawn", True)


def test_r10_multicast_reaches_both_routers(connect: Connect, ports: tuple[int, int]) -> None:
    servers = [connect(port) for port in ports]
    receivers = [each.receiver("multicast/r9", 10) for each in servers]
    caller = connect(ports[0])
    # The receiver at the other router must be known, or the message goes to the one here only.
    far = servers[1].receiver("multicast/r9-known", 100)
    pair = Pair(connect, ports)
    pair.server = servers[1]
    pair.reach("multicast/r9-known", far)
    sent = caller.send(caller.sender(), "to all", to="multicast/r9")
    for server, receiver in zip(servers, receivers, strict=True):
        assert server.message(receiver)["body"] == "to all"
        assert caller.fate(sent) == (None, False)
        server.answer(server.message(receiver), "accepted")
    assert caller.outcome(sent) == "accepted"


def test_a_receiver_that_has_left_is_not_reached(pair: Pair) -> None:
    receiver = pair.server.receiver("r9-left", 100)
    pair.reach("r9-left", receiver)
    pair.server.detach(receiver)
    anonymous = pair.caller.sender()
    assert pair.caller.outcome(pair.caller.send(anonymous, to="r9-left")) == "released"


def test_an_address_that_the_router_has_chosen_is_known_at_once(pair: Pair) -> None:
    replies = pair.caller.receiver(None, 10)
    answers = pair.server.sender()
    sent = pair.server.send(answers, "reply", to=pair.caller.address(replies))
    pair.caller.answer(pair.caller.message(replies), "accepted")
    assert pair.server.outcome(sent) == "accepted"
