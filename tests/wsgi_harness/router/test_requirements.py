"""R1 to R10 of docs/test-router.md: what a driver can rely on, and what it must reckon with."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.waiting import holds_at_some_scale, wait_until
from tests.wsgi_harness.router.clients import LIMIT, Client
from wsgi_harness.router.plan import Plan, RunningRouter, free_port

Clients = Callable[[], Client]
Connect = Callable[..., Client]
Start = Callable[[Plan, int], RunningRouter]

#: Of a sender's link; the receiver's has no influence on it.
CAPACITY = 250


def test_r1_idle_time_out(start: Start, connect: Connect) -> None:
    def closes_after(seconds: float) -> None:
        port = free_port()
        listener = {"host": "127.0.0.1", "port": port, "idleTimeoutSeconds": int(seconds)}
        start(Plan([("router", {"id": "r1"}), ("listener", listener)]), port)
        client = connect(port, idle_timeout=1)
        # It advertises half of it.
        assert client.opened["idle"] == 500 * seconds
        # Its own empty frames arrive, and the client's keep the connection open.
        end = time.monotonic() + 1.5 * seconds
        wait_until(lambda: client.closed() or time.monotonic() > end, LIMIT)
        assert client.closed() is None
        client.silence(0.6 * seconds)
        assert client.closed() is None
        client.silence(1.4 * seconds)
        expected = ["amqp:resource-limit-exceeded", "local-idle-timeout expired"]
        assert client.wait_closed() == expected

    holds_at_some_scale(closes_after, 2, 8)


def test_r1_default(client: Clients) -> None:
    assert client().opened["idle"] == 8000


def test_r2_a_sender_without_receiver_has_no_credit(client: Clients) -> None:
    caller = client()
    alone = caller.sender("r2-alone")
    alone_multicast = caller.sender("multicast/r2-alone")
    anonymous = caller.sender()
    assert caller.outcome(caller.send(anonymous, to="r2-no-receiver")) == "released"
    assert caller.outcome(caller.send(anonymous, to="multicast/r2-no-receiver")) == "released"
    assert caller.credit(alone) == caller.credit(alone_multicast) == 0
    server = client()
    server.receiver("r2-alone")
    server.receiver("multicast/r2-alone")
    wait_until(lambda: caller.credit(alone) == CAPACITY, LIMIT)
    wait_until(lambda: caller.credit(alone_multicast) == CAPACITY, LIMIT)


def test_r2_an_anonymous_sender_has_credit(client: Clients) -> None:
    caller = client()
    anonymous = caller.sender()
    wait_until(lambda: caller.credit(anonymous) == CAPACITY, LIMIT)


def test_r2_a_sender_that_has_lost_its_receiver_is_drained(client: Clients) -> None:
    server, caller = client(), client()
    receiver = server.receiver("r2-lost", 10)
    sender = caller.sender("r2-lost")
    wait_until(lambda: caller.credit(sender) == CAPACITY, LIMIT)
    server.detach(receiver)
    assert caller.outcome(caller.send(sender)) == "released"
    wait_until(lambda: caller.drains(sender) and not caller.credit(sender), LIMIT)
    server.receiver("r2-lost", 10)
    wait_until(lambda: caller.credit(sender) == CAPACITY, LIMIT)


def test_r3_messages_wait_in_the_router(client: Clients) -> None:
    server, caller = client(), client()
    receiver = server.receiver("r3", 1)
    sender = caller.sender("r3")
    wait_until(lambda: caller.credit(sender) == CAPACITY, LIMIT)
    for number in range(CAPACITY):
        caller.send_at_once(sender, str(number), ttl=1)
    held = server.message(receiver)
    assert caller.credit(sender) == 0
    assert len(server.received(receiver)) == 1
    # Their time to live is over, and they are delivered all the same.
    server.silence(0.1)
    server.grant(receiver, CAPACITY)
    last = server.message(receiver, CAPACITY - 1)
    assert (held["body"], last["body"]) == ("0", str(CAPACITY - 1))
    # A sender's credit is its messages without an outcome, wherever they are.
    assert caller.credit(sender) == 0
    server.answer(held, "accepted")
    wait_until(lambda: caller.credit(sender) == 1, LIMIT)


def test_r4_a_receiver_that_dies(client: Clients) -> None:
    server, caller = client(), client()
    receiver = server.receiver("r4", 1)
    sender = caller.sender("r4")
    held, *waiting = (caller.send(sender, str(each)) for each in range(3))
    assert server.message(receiver)["body"] == "0"
    server.end()
    assert caller.outcome(held) == "modified"
    assert caller.failed(held)
    assert [caller.outcome(each) for each in waiting] == ["released", "released"]


def test_r4_a_receiver_that_detaches(client: Clients) -> None:
    server, caller = client(), client()
    receiver = server.receiver("r4-detach", 1)
    sender = caller.sender("r4-detach")
    held, waiting = caller.send(sender), caller.send(sender)
    server.message(receiver)
    # A real router may not answer it while messages are on their way.
    server.detach(receiver, waits=False)
    assert caller.outcome(held) == "modified"
    assert caller.failed(held)
    assert caller.outcome(waiting) == "released"


def test_r5_settled_messages_are_discarded(client: Clients) -> None:
    server, caller = client(), client()
    receiver = server.receiver("r5", 1)
    sender = caller.sender("r5")
    caller.send_many(sender, map(str, range(1000)), settled=True)
    # When those that are sent next arrive, the router has handled all before them.
    marker = caller.send(sender, "marker")
    server.grant(receiver, 2000)
    wait_until(lambda: server.received(receiver)[-1]["body"] == "marker", LIMIT)
    arrived = len(server.received(receiver)) - 1
    assert 0 < arrived < 500
    server.answer(server.received(receiver)[-1], "accepted")
    assert caller.outcome(marker) == "accepted"


def test_r6_accepted_before_it_is_settled(client: Clients) -> None:
    server, caller = client(), client()
    receiver = server.receiver("r6", 10)
    sender = caller.sender("r6")
    done, lost = caller.send(sender), caller.send(sender)
    for index in range(2):
        server.answer(server.message(receiver, index), "accepted", settled=False)
    wait_until(lambda: caller.fates(done, lost) == 2 * [("accepted", False)], LIMIT)
    server.answer(server.message(receiver), "accepted")
    assert caller.outcome(done) == "accepted"
    server.end()
    assert caller.outcome(lost) == "modified"
    assert caller.failed(lost)


def test_r7_a_waiting_message_is_withdrawn(client: Clients) -> None:
    server, caller, dying = client(), client(), client()
    receiver = server.receiver("r7", 1)
    first = caller.send(caller.sender("r7"), "first")
    server.message(receiver)
    withdrawn = caller.send(caller.sender("r7"), "withdrawn")
    orphaned = dying.send(dying.sender("r7"), "orphaned")
    assert caller.fate(withdrawn) == dying.fate(orphaned) == (None, False)
    caller.settle(withdrawn)
    # It answers, so what was sent before has arrived.
    assert caller.outcome(caller.send(caller.sender(), to="r7-no-receiver")) == "released"
    dying.end()
    server.silence(0.1)
    server.grant(receiver, 10)
    arrived = [server.message(receiver, index) for index in (1, 2)]
    assert {each["body"]: each["settled"] for each in arrived} == {
        "withdrawn": True,
        "orphaned": True,
    }
    assert caller.fate(first) == (None, False)


def test_r7b_a_message_is_withdrawn_while_it_is_worked_on(client: Clients) -> None:
    server, caller, dying = client(), client(), client()
    receiver = server.receiver("r7b", 10)
    withdrawn = caller.send(caller.sender("r7b"), "withdrawn")
    server.message(receiver)
    dying.send(dying.sender("r7b"), "orphaned")
    server.message(receiver, 1)
    caller.settle(withdrawn)
    wait_until(lambda: server.received(receiver)[0]["settled"], LIMIT)
    assert server.received(receiver)[0]["state"] is None
    dying.end()
    wait_until(lambda: server.received(receiver)[1]["settled"], LIMIT)
    assert server.received(receiver)[1]["state"] == "modified"


def test_r8_a_reply_address_outlives_its_connection(client: Clients) -> None:
    server, caller = client(), client()
    receiver = caller.receiver("r8/reply", 10)
    replies = server.sender()
    first = server.send(replies, "first", to="r8/reply")
    assert caller.message(receiver)["body"] == "first"
    caller.end()
    assert server.outcome(first) == "modified"
    assert server.outcome(server.send(replies, "again", to="r8/reply")) == "released"
    again = client()
    receiver = again.receiver("r8/reply", 10)
    resent = server.send(replies, "again", to="r8/reply")
    again.answer(again.message(receiver), "accepted")
    assert server.outcome(resent) == "accepted"


def test_r10_multicast_ends_with_its_last_receiver(client: Clients) -> None:
    servers = [client(), client()]
    receivers = [each.receiver("multicast/r10", 10) for each in servers]
    caller = client()
    sent = caller.send(caller.sender(), "to all", to="multicast/r10")
    for server, receiver in zip(servers, receivers, strict=True):
        assert server.message(receiver)["body"] == "to all"
        assert caller.fate(sent) == (None, False)
        server.answer(server.message(receiver), "accepted")
    assert caller.outcome(sent) == "accepted"


def test_r10_without_configuration_one_receiver_gets_it(client: Clients) -> None:
    servers = [client(), client()]
    receivers = [each.receiver("r10-balanced", 10) for each in servers]
    caller = client()
    sent = caller.send(caller.sender(), to="r10-balanced")
    pairs = list(zip(servers, receivers, strict=True))
    wait_until(lambda: any(server.received(receiver) for server, receiver in pairs), LIMIT)
    for server, receiver in pairs:
        for message in server.received(receiver):
            server.answer(message, "accepted")
    assert caller.outcome(sent) == "accepted"
    assert sum(len(server.received(receiver)) for server, receiver in pairs) == 1
