"""Links: what is refused, drained, distributed, and how large messages are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.waiting import wait_until
from tests.wsgi_harness.router.clients import LIMIT, Client, RefusedError

Clients = Callable[[], Client]
Connect = Callable[..., Client]


def test_links_to_an_unavailable_address_are_refused(client: Clients) -> None:
    refused = client()
    for attach in (refused.sender, refused.receiver):
        with pytest.raises(RefusedError) as error:
            attach("closed/door")
        assert error.value.args == ("amqp:not-found", "Node not found")
    sent = refused.send(refused.sender(), to="closed/door")
    assert refused.outcome(sent) == "rejected"
    text = "Deliveries cannot be sent to an unavailable address"
    assert refused.error(sent) == ["amqp:not-found", text]


def test_the_closest_receivers_take_turns(client: Clients) -> None:
    servers = [client(), client()]
    receivers = [each.receiver("closest/turns", 10) for each in servers]
    caller = client()
    sender = caller.sender("closest/turns")
    for number in range(6):
        caller.send(sender, str(number))
    for server, receiver in zip(servers, receivers, strict=True):
        server.message(receiver, 2)
        assert len(server.received(receiver)) == 3


def test_a_balanced_address_prefers_the_receiver_with_less_to_do(client: Clients) -> None:
    busy, idle = client(), client()
    busy_receiver = busy.receiver("balanced", 10)
    caller = client()
    sender = caller.sender("balanced")
    for _ in range(3):
        caller.send(sender, "before")
    busy.message(busy_receiver, 2)
    idle_receiver = idle.receiver("balanced", 10)
    for _ in range(3):
        caller.send(sender, "after")
    idle.message(idle_receiver, 2)
    assert [each["body"] for each in busy.received(busy_receiver)] == ["before"] * 3


def test_the_outcome_of_a_multicast_is_the_strongest(client: Clients) -> None:
    servers = [client() for _ in range(3)]
    receivers = [each.receiver("multicast/strongest", 10) for each in servers]
    caller = client()
    states = {
        "released": ("released", "released", "released"),
        "modified": ("released", "modified", "released"),
        "accepted": ("accepted", "modified", "released"),
        "rejected": ("accepted", "rejected", "released"),
    }
    sender = caller.sender("multicast/strongest")
    for index, (expected, answers) in enumerate(states.items()):
        sent = caller.send(sender)
        for server, receiver, answer in zip(servers, receivers, answers, strict=True):
            server.answer(server.message(receiver, index), answer)
        assert caller.outcome(sent) == expected


def test_a_multicast_outlives_a_receiver(client: Clients) -> None:
    lasting, dying, caller = client(), client(), client()
    receiver = lasting.receiver("multicast/dying", 10)
    dying_receiver = dying.receiver("multicast/dying", 10)
    sent = caller.send(caller.sender("multicast/dying"))
    dying.message(dying_receiver)
    dying.end()
    lasting.answer(lasting.message(receiver), "accepted")
    assert caller.outcome(sent) == "accepted"


def test_a_receiver_may_want_settled_messages(client: Clients) -> None:
    server, caller = client(), client()
    receiver = server.receiver("settled", 10, settled=True)
    sent = caller.send(caller.sender("settled"), "hello")
    assert server.message(receiver)["settled"]
    assert caller.outcome(sent) == "accepted"


def test_a_receiver_is_drained(client: Clients) -> None:
    server, caller = client(), client()
    receiver = server.receiver("drain", 10)
    caller.send(caller.sender("drain"))
    server.message(receiver)
    server.drain(receiver)
    wait_until(lambda: server.drains(receiver), LIMIT)
    assert server.credit(receiver) == 0


def test_an_address_that_the_router_has_chosen(client: Clients) -> None:
    server, caller = client(), client()
    replies = caller.receiver(None, 10)
    address = caller.address(replies)
    assert address.startswith("amqp:/_topo/0/shared/temp.")
    answers = server.sender()
    sent = server.send(answers, "reply", to=address)
    caller.answer(caller.message(replies), "accepted")
    assert server.outcome(sent) == "accepted"
    caller.end()
    wait_until(lambda: server.outcome(server.send(answers, to=address)) == "released", LIMIT)


@pytest.mark.parametrize("size", [16_384, 1_000_000])
def test_messages_of_many_frames(connect: Connect, shared_router: int, size: int) -> None:
    server = connect(shared_router, max_frame_size=512)
    caller = connect(shared_router)
    assert caller.opened["frame"] == 16_384
    receiver = server.receiver("frames", 1)
    body = "y" * size
    sent = caller.send(caller.sender("frames"), body)
    message = server.message(receiver)
    assert message["body"] == body
    server.answer(message, "accepted")
    assert caller.outcome(sent) == "accepted"


def test_management(client: Clients) -> None:
    server, caller, operator = client(), client(), client()
    server.receiver("managed", 1)
    sender = caller.sender("managed")
    for _ in range(3):
        caller.send(sender)

    def link() -> list[Any]:
        names = ("linkDir", "owningAddr", "capacity", "undeliveredCount", "unsettledCount")
        links = operator.query("router.link", *names, "connectionId")
        found = [each for each in links if each[0] == "out" and "managed" in str(each[1])]
        return list(found[0][2:])

    wait_until(lambda: link()[:3] == [250, 2, 1], LIMIT)
    number = link()[3]
    connections = operator.query("connection", "identity", "container", "role")
    assert [row[2] for row in connections if str(row[0]) == str(number)] == ["normal"]
    status, _ = operator.manage(
        "UPDATE",
        {"adminStatus": "deleted"},
        type="io.skupper.router.connection",
        identity=str(number),
    )
    assert status == 200
    # The stream ends, without a Close that would have an error.
    assert server.wait_closed() == [None, None]
