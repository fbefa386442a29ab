"""Messages go over links as credit allows, whole or in parts, and are settled."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hbshim.amqp1.connection import Connection
from hbshim.amqp1.errors import StateError
from hbshim.amqp1.events import (
    Attached,
    AttachRequested,
    CreditChanged,
    Detached,
    Drained,
    Received,
    Updated,
)
from hbshim.amqp1.performatives import (
    SETTLED,
    UNSETTLED,
    Accepted,
    Error,
    Modified,
    Rejected,
    Released,
    Source,
    Target,
)
from hbshim.amqp1.receiver import Receiver
from hbshim.amqp1.states import LinkState
from hbshim.errors import PayloadError
from tests.amqp1.pair import Pair, opened


def received(pair: Pair, side: int = 1) -> list[bytes]:
    return [each.delivery.payload for each in pair.events[side] if isinstance(each, Received)]


def test_a_link_is_attached_and_detached() -> None:
    pair = opened()
    session, _ = pair.session()
    sender = session.attach_sender("l", Target("a"), properties={"p": 1})
    assert sender.state is LinkState.ATTACH_SENT
    pair.run()
    asked = pair.last(1, AttachRequested).link
    assert asked.remote is not None
    assert (asked.name, asked.remote.target, asked.remote.properties) == (
        "l",
        Target("a"),
        {"p": 1},
    )
    asked.accept(target=Target("b"))
    pair.run()
    assert pair.last(0, Attached).link is sender
    assert sender.remote is not None
    assert sender.remote.target == Target("b")
    error = Error("amqp:resource-deleted", "gone")
    asked.detach(error)
    pair.run()
    assert pair.last(0, Detached) == Detached(sender, error, by_peer=True)
    assert pair.last(1, Detached) == Detached(asked, None, by_peer=False)
    assert sender.state is asked.state is LinkState.ENDED
    sender.detach()
    assert pair.client.data_to_send(0) == b""
    # Its name and number are free again.
    assert session.attach_sender("l", Target("a")).local.handle == sender.local.handle


def test_a_link_is_refused() -> None:
    pair = opened()
    session, _ = pair.session()
    error = Error("amqp:not-found", "no such node")
    links: list[Any] = [
        session.attach_sender("to", Target("nowhere")),
        session.attach_receiver("from", Source("nowhere")),
    ]
    links[1].grant(5)
    pair.run()
    for event in [each for each in pair.events[1] if isinstance(each, AttachRequested)]:
        event.link.refuse(error)
    pair.run()
    assert not [event for event in pair.events[0] if isinstance(event, Attached)]
    ended = [event for event in pair.events[0] if isinstance(event, Detached)]
    assert ended == [Detached(link, error, by_peer=True) for link in links]
    assert not pair.client.closed
    assert not pair.server.closed


def test_a_link_is_given_up_before_it_is_answered() -> None:
    pair = opened()
    session, _ = pair.session()
    sender = session.attach_sender("l", Target("a"))
    sender.detach()
    pair.run()
    assert pair.last(0, Detached) == Detached(sender, None, by_peer=False)
    assert not pair.client.closed
    assert not pair.server.closed


def test_a_message_in_each_direction_and_its_outcome() -> None:
    pair = opened()
    session, _ = pair.session()
    to, to_peer = pair.sender(session, credit=2)
    from_, from_peer = pair.receiver(session, credit=2)
    sent = to.send(b"request")
    assert (to.credit, sent.settled) == (1, False)
    pair.run()
    got = pair.last(1, Received)
    assert (got.link, got.delivery.payload) == (to_peer, b"request")
    assert got.delivery.tag == sent.tag
    to_peer.settle(got.delivery, Accepted())
    pair.run()
    assert pair.last(0, Updated) == Updated(to, sent)
    assert (sent.state, sent.settled) == (Accepted(), True)
    from_peer.send(b"reply")
    pair.run()
    assert pair.last(0, Received).delivery.payload == b"reply"
    assert from_.credit == 1


@pytest.mark.parametrize(
    "outcome",
    [Accepted(), Released(), Rejected(Error("a:b", "c")), Modified(True, True, {"d": 1})],
    ids=str,
)
def test_outcomes_reach_the_sender(outcome: Any) -> None:
    pair = opened()
    session, _ = pair.session()
    sender, receiver = pair.sender(session, credit=1)
    sent = sender.send(b"")
    pair.run()
    receiver.settle(pair.last(1, Received).delivery, outcome)
    pair.run()
    assert (sent.state, sent.settled) == (outcome, True)


def test_an_outcome_that_the_sender_settles() -> None:
    """`accepted` without settling reports that the work has begun."""
    pair = opened()
    session, _ = pair.session()
    sender, receiver = pair.sender(session, credit=1)
    sent = sender.send(b"")
    pair.run()
    got = pair.last(1, Received).delivery
    receiver.update(got, Accepted())
    pair.run()
    assert (sent.state, sent.settled) == (Accepted(), False)
    sender.settle(sent)
    pair.run()
    assert pair.last(1, Updated) == Updated(receiver, got)
    assert got.settled
    pair.clear()
    # Too late, and no mistake.
    receiver.update(got, Modified())
    receiver.settle(got, Modified())
    pair.run()
    assert pair.events == ([], [])


def test_a_sender_that_wants_no_answer_any_more() -> None:
    pair = opened()
    session, _ = pair.session()
    sender, receiver = pair.sender(session, credit=1)
    sent = sender.send(b"")
    sender.settle(sent)
    pair.run()
    got = pair.last(1, Received).delivery
    assert pair.last(1, Updated) == Updated(receiver, got)
    assert (got.settled, got.state) == (True, None)


def test_settled_messages() -> None:
    pair = opened()
    session, _ = pair.session()
    sender, receiver = pair.sender(session, credit=3)
    sent = sender.send(b"x" * 200_000, settled=True)
    assert sent.settled
    pair.run()
    got = pair.last(1, Received).delivery
    assert got.settled
    receiver.settle(got, Accepted())
    assert pair.server.data_to_send(0) == b""


@pytest.mark.parametrize(("mode", "settled"), [(SETTLED, False), (UNSETTLED, True)])
def test_the_settle_mode_of_a_link_is_kept(mode: int, settled: bool) -> None:
    pair = opened()
    session, _ = pair.session()
    sender = session.attach_sender("l", Target("a"), snd_settle_mode=mode)
    pair.run()
    link = pair.last(1, AttachRequested).link
    link.accept()
    assert isinstance(link, Receiver)
    link.grant(1)
    pair.run()
    with pytest.raises(StateError, match="does not allow settled="):
        sender.send(b"", settled=settled)
    assert sender.send(b"").settled is (mode == SETTLED)


def test_messages_wait_for_credit() -> None:
    pair = opened()
    session, _ = pair.session()
    sender, receiver = pair.sender(session)
    with pytest.raises(StateError, match="has no credit; wait for CreditChanged"):
        sender.send(b"")
    receiver.grant(2)
    receiver.grant(1)
    pair.run()
    assert pair.last(0, CreditChanged) == CreditChanged(sender, 3, drain=False)
    for number in range(3):
        sender.send(bytes((number,)))
    with pytest.raises(StateError, match="no credit"):
        sender.send(b"")
    # Credit that was given before these messages arrived does not count twice.
    receiver.grant(1)
    pair.step(1)
    assert sender.credit == 1
    pair.run()
    assert received(pair) == [b"\0", b"\1", b"\2"]
    assert receiver.credit == 1


def test_credit_is_drained() -> None:
    pair = opened()
    session, _ = pair.session()
    sender, receiver = pair.sender(session, credit=10)
    receiver.drain()
    pair.run()
    assert pair.last(0, CreditChanged) == CreditChanged(sender, 10, drain=True)
    sender.send(b"the last one")
    sender.drained()
    with pytest.raises(StateError, match="no credit"):
        sender.send(b"")
    pair.run()
    assert pair.events[1][-1] == Drained(receiver)
    assert received(pair) == [b"the last one"]
    assert sender.credit == receiver.credit == 0
    receiver.grant(1)
    pair.run()
    assert pair.last(0, CreditChanged) == CreditChanged(sender, 1, drain=False)
    sender.send(b"again")
    pair.run()
    assert received(pair) == [b"the last one", b"again"]


@settings(max_examples=50)
@given(
    st.lists(st.integers(0, 5_000), min_size=1, max_size=8),
    st.integers(512, 2_000),
    st.integers(1, 700),
)
def test_messages_of_any_size_arrive_as_they_were_sent(
    sizes: list[int], max_frame_size: int, chunk: int
) -> None:
    pair = opened(max_frame_size=max_frame_size)
    session, _ = pair.session()
    sender, _ = pair.sender(session, credit=len(sizes))
    receiver, peer = pair.receiver(session, credit=len(sizes))
    payloads = [bytes((number,)) * size for number, size in enumerate(sizes)]
    for payload in payloads:
        sender.send(payload)
        peer.send(payload)
    pair.run(chunk)
    assert received(pair, 0) == received(pair, 1) == payloads
    assert receiver.credit == 0


def test_no_frame_is_larger_than_the_peer_allows() -> None:
    pair = opened(max_frame_size=600)
    session, _ = pair.session()
    _, peer = pair.receiver(session, credit=200)
    for size in range(400, 700):
        if not peer.credit:
            break
        peer.send(b"x" * size)
        data = pair.server.data_to_send(0)
        while data:
            end = int.from_bytes(data[:4], "big")
            assert end <= 600
            data = data[end:]


def test_a_message_that_the_receiver_does_not_take() -> None:
    pair = opened()
    _, theirs = pair.session()
    sender = theirs.attach_sender("l", Target("a"))
    pair.run()
    link = pair.last(0, AttachRequested).link
    link.local = link.local._replace(max_message_size=1000)
    link.accept()
    assert isinstance(link, Receiver)
    link.grant(10)
    pair.run()
    with pytest.raises(PayloadError, match="up to 1000 bytes here, and this one has 1001"):
        sender.send(b"x" * 1001)
    sender.send(b"x" * 1000)
    # One that does not care is detached, while the message arrives.
    assert sender.remote is not None
    sender.remote = sender.remote._replace(max_message_size=None)
    sender.send(b"x" * 200_000)
    pair.run()
    assert [len(each) for each in received(pair, 0)] == [1000]
    ended = pair.last(1, Detached)
    assert ended.error is not None
    assert ended.error.condition == "amqp:link:message-size-exceeded"
    assert pair.last(0, Detached).by_peer is False
    assert not pair.client.closed


def test_a_sender_that_ignores_credit_is_detached() -> None:
    pair = opened()
    session, _ = pair.session()
    sender, receiver = pair.sender(session, credit=1)
    sender.credit = 2
    sender.send(b"a")
    sender.send(b"b")
    pair.run()
    assert received(pair) == [b"a"]
    ended = pair.last(0, Detached)
    assert ended.link is sender
    assert ended.error is not None
    assert ended.error.condition == "amqp:link:transfer-limit-exceeded"
    assert receiver.state is LinkState.ENDED


def test_a_message_that_is_rejected_before_it_has_arrived() -> None:
    pair = Pair(Connection("client", max_frame_size=512), Connection("server", server=True))
    pair.run()
    session, _ = pair.session()
    sender, receiver = pair.sender(session, credit=2)
    sent = sender.send(b"x" * 2000)
    data = pair.client.data_to_send(0)
    pair.server.receive_data(data[:600], 0)
    assert receiver.credit == 1
    (arriving,) = [delivery for _, delivery in _incoming(receiver)]
    receiver.settle(arriving, Rejected())
    pair.server.receive_data(data[600:], 0)
    sender.send(b"next")
    pair.run()
    assert sent.state == Rejected()
    assert received(pair) == [b"next"]


def _incoming(receiver: Receiver) -> list[Any]:
    return list(receiver.session._incoming._deliveries.values())  # type: ignore[attr-defined]


def test_names_are_used_once_for_each_direction() -> None:
    pair = opened()
    session, _ = pair.session()
    session.attach_sender("l", Target("a"))
    session.attach_receiver("l", Source("a"))
    with pytest.raises(StateError, match="a link with the name 'l' is attached already"):
        session.attach_sender("l", Target("b"))
    pair.run()
    for event in [each for each in pair.events[1] if isinstance(each, AttachRequested)]:
        event.link.accept()
    pair.run()
    assert len([event for event in pair.events[0] if isinstance(event, Attached)]) == 2
