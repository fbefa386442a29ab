"""Sessions limit the frames on their way, number what they carry, and end alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from hbshim.amqp1 import serial
from hbshim.amqp1 import session as session_module
from hbshim.amqp1.composites import decode_composite, encode_composite
from hbshim.amqp1.connection import Connection
from hbshim.amqp1.errors import ProtocolError, StateError
from hbshim.amqp1.events import (
    Attached,
    AttachRequested,
    Begun,
    Closed,
    CreditChanged,
    CreditUsed,
    Detached,
    Drained,
    Ended,
    Event,
    Opened,
    Received,
    Updated,
)
from hbshim.amqp1.frames import AMQP, AMQP_HEADER, FrameSplitter, encode_frame
from hbshim.amqp1.performatives import (
    RECEIVER,
    SENDER,
    Accepted,
    Attach,
    Begin,
    Detach,
    Disposition,
    End,
    Error,
    Flow,
    Open,
    Released,
    Source,
    Target,
    Transfer,
)
from hbshim.amqp1.receiver import Receiver
from hbshim.amqp1.sender import Sender
from hbshim.amqp1.session import HANDLE_MAX, INCOMING_WINDOW, Session
from hbshim.amqp1.states import LinkState, SessionState
from tests.amqp1.pair import Pair, opened

NOW = 5.0


class Peer:
    """A connection whose peer is the test.

    Attributes:
        session: begun, on channel 0 of this side and 7 of the peer's.
    """

    def __init__(self, next_outgoing_id: int = 0, window: int = 1000, handle_max: int = 99) -> None:
        self.connection = Connection("c")
        self._splitter = FrameSplitter(1 << 20, expects_header=True)
        self.sends(Open("s"), raw=AMQP_HEADER)
        self.session = self.connection.begin()
        begin = Begin(0, next_outgoing_id, window, 1000, handle_max)
        assert self.sends(begin) == [Begun(self.session)]
        self.sent()

    def sends(self, *performatives: Any, payload: bytes = b"", raw: bytes = b"") -> list[Event]:
        """Have the peer send frames; return the events."""
        frames = [encode_frame(encode_composite(each) + payload, 7) for each in performatives]
        return self.connection.receive_data(raw + b"".join(frames), NOW)

    def sent(self) -> list[Any]:
        """What was sent to the peer: performatives, and the payload behind a transfer."""
        return list(self._decoded())

    def _decoded(self) -> Iterator[Any]:
        for frame in self._splitter.split(self.connection.data_to_send(NOW)):
            if frame.type == AMQP and frame.body:
                performative, end = decode_composite(frame.body)
                yield performative
                if end < len(frame.body):
                    yield frame.body[end:]

    def sender(self, credit: int = 10, handle: int = 3) -> Sender:
        """A sender that the peer has attached with a number of its own."""
        link = self.session.attach_sender("to", Target("a"))
        attach = Attach("to", handle, RECEIVER, source=Source(), target=Target("a"))
        events = self.sends(attach, Flow(0, 1000, 0, 1000, handle, 0, credit))
        assert events == [Attached(link), CreditChanged(link, credit, drain=False)]
        self.sent()
        return link

    def receiver(self, credit: int = 10, handle: int = 4, count: int = 0) -> Receiver:
        link = self.session.attach_receiver("from", Source("a"))
        link.grant(credit)
        attach = Attach(
            "from",
            handle,
            SENDER,
            source=Source("a"),
            target=Target(),
            initial_delivery_count=count,
        )
        assert self.sends(attach) == [Attached(link)]
        self.sent()
        return link


def only(events: list[Event], kind: type[Any]) -> Any:
    (event,) = events
    assert isinstance(event, kind), event
    return event


def test_a_session_begins_and_ends() -> None:
    pair = opened()
    mine, theirs = pair.session()
    assert pair.last(0, Begun).session is mine
    error = Error("a:b", "c")
    theirs.end(error)
    assert theirs.state is SessionState.END_SENT
    theirs.end()
    pair.run()
    assert pair.last(0, Ended) == Ended(mine, error, by_peer=True)
    assert pair.last(1, Ended) == Ended(theirs, None, by_peer=False)
    assert {mine.state, theirs.state} == {SessionState.ENDED}
    mine.end()
    assert pair.client.data_to_send(NOW) == b""
    with pytest.raises(StateError, match="cannot send another frame: <Session 0, ended>"):
        mine.attach_sender("l", Target("a"))


def test_links_end_with_their_session_and_sessions_with_their_connection() -> None:
    pair = opened()
    session, theirs = pair.session()
    sender, _ = pair.sender(session, credit=1)
    session.end()
    assert sender.state is LinkState.ENDED
    with pytest.raises(StateError, match="cannot send flow or transfer: <Sender 'to', ended>"):
        sender.send(b"")
    pair.run()
    session, theirs = pair.session()
    sender, receiver = pair.sender(session, credit=1)
    sent = sender.send(b"")
    pair.run()
    pair.client.receive_data(b"", NOW)
    assert (session.state, sender.state) == (SessionState.ENDED, LinkState.ENDED)
    with pytest.raises(StateError):
        sender.settle(sent)
    pair.server.close()
    assert (theirs.state, receiver.state) == (SessionState.ENDED, LinkState.ENDED)


def test_attach_may_follow_begin_at_once() -> None:
    pair = opened()
    session = pair.client.begin()
    link = session.attach_sender("l", Target("a"))
    pair.run()
    pair.last(1, AttachRequested).link.accept()
    pair.run()
    assert pair.last(0, Attached).link is link


def test_frames_wait_for_the_peers_window() -> None:
    peer = Peer(window=2)
    sender = peer.sender()
    peer.sends(Flow(0, 2, 0, 1000))
    first, second = sender.send(b"x" * 150_000), sender.send(b"y")
    assert [each for each in peer.sent() if isinstance(each, Transfer)] == [
        Transfer(0, 0, first.tag, 0, False, True),
        Transfer(0, more=True),
    ]
    assert (peer.session.queued_frames, first.complete, second.complete) == (2, False, False)
    # Two have arrived, and one more may.
    peer.sends(Flow(2, 1, 0, 1000))
    assert len([each for each in peer.sent() if isinstance(each, Transfer)]) == 1
    assert (first.complete, second.complete) == (True, False)
    # The peer has not seen the third one yet: its window of one is used up.
    peer.sends(Flow(2, 1, 0, 1000))
    assert peer.sent() == []
    peer.sends(Flow(3, 1, 0, 1000))
    (transfer, payload) = peer.sent()
    assert (transfer.delivery_id, payload, second.complete) == (1, b"y", True)


def test_a_delivery_is_settled_behind_its_frames() -> None:
    peer = Peer(window=1)
    sender = peer.sender()
    peer.sends(Flow(0, 1, 0, 1000))
    sent = sender.send(b"x" * 100_000)
    sender.settle(sent)
    assert [type(each) for each in peer.sent()] == [Transfer, bytes]
    peer.sends(Flow(1, 1, 0, 1000))
    transfer, _, disposition = peer.sent()
    assert transfer == Transfer(0)
    assert disposition == Disposition(SENDER, 0, settled=True)


def test_frames_of_a_link_that_is_detached_are_not_sent() -> None:
    peer = Peer(window=1)
    sender = peer.sender()
    peer.sends(Flow(0, 1, 0, 1000))
    sender.send(b"x" * 100_000)
    sender.detach()
    peer.sent()
    peer.sends(Flow(1, 5, 0, 1000))
    assert peer.sent() == []


def test_the_own_window_is_opened_again() -> None:
    peer = Peer()
    receiver = peer.receiver(credit=INCOMING_WINDOW)
    for number in range(INCOMING_WINDOW // 2):
        assert peer.sent() == []
        peer.sends(Transfer(4, number, b"t"), payload=b"x")
    (flow,) = peer.sent()
    assert flow == Flow(INCOMING_WINDOW // 2, INCOMING_WINDOW, 0, flow.outgoing_window)
    assert receiver.credit == INCOMING_WINDOW // 2


def test_a_peer_that_ignores_the_window_loses_its_session() -> None:
    peer = Peer()
    peer.receiver()
    peer.session._incoming_window = 0
    ended = only(peer.sends(Transfer(4, 0, b"t")), Ended)
    assert ended.error.condition == "amqp:session:window-violation"
    assert peer.sent() == [End(ended.error)]
    assert not peer.connection.closed
    # What it sent before it has seen that is ignored.
    assert peer.sends(Transfer(4, 1, b"t")) == []
    assert peer.sends(End()) == []
    assert peer.connection.begin().channel == 1


def test_numbers_wrap_around() -> None:
    """RabbitMQ begins four before the end."""
    peer = Peer(next_outgoing_id=0xFFFFFFFE)
    receiver = peer.receiver(credit=4, count=0xFFFFFFFF)
    ids = [0xFFFFFFFF, 0, 1]
    got = [peer.sends(Transfer(4, id_, b"%d" % id_), payload=b"x") for id_ in ids]
    deliveries = [only(events, Received).delivery for events in got]
    assert [each.id for each in deliveries] == ids
    assert receiver.delivery_count == 2
    receiver.grant(3)
    (flow,) = peer.sent()
    assert (flow.next_incoming_id, flow.delivery_count, flow.link_credit) == (1, 2, 4)
    # A range that wraps around.
    events = peer.sends(Disposition(SENDER, 0xFFFFFFFF, 1, settled=True))
    assert events == [Updated(receiver, each) for each in deliveries]


def test_a_sender_whose_numbers_wrap_around() -> None:
    peer = Peer()
    sender = peer.sender(credit=0)
    peer.session._next_delivery_id = 0xFFFFFFFF
    peer.session._transfers.next_id = 0xFFFFFFFF
    sender.delivery_count = 0xFFFFFFFF
    peer.sends(Flow(0xFFFFFFFF, 10, 0, 10, 3, 0xFFFFFFFF, 3))
    sent = [sender.send(b"") for _ in range(3)]
    assert [each.id for each in sent] == [0xFFFFFFFF, 0, 1]
    peer.sends(Flow(0, 10, 0, 10, 3, 0, 3))
    assert sender.credit == 1
    events = peer.sends(Disposition(RECEIVER, 0xFFFFFFFF, 0, True, Accepted()))
    assert events == [Updated(sender, sent[0]), Updated(sender, sent[1])]
    assert not sent[2].settled


def test_dispositions_of_ranges() -> None:
    peer = Peer()
    sender = peer.sender()
    sent = [sender.send(b"") for _ in range(6)]
    assert len(peer.sends(Disposition(RECEIVER, 1, 2, True, Accepted()))) == 2
    # Those that are settled are skipped, and so are those that never were.
    assert len(peer.sends(Disposition(RECEIVER, 0, 3, True, Released()))) == 2
    assert len(peer.sends(Disposition(RECEIVER, 0, 0x7FFFFFFF, True, Released()))) == 2
    states = [each.state for each in sent]
    assert states == [Released(), Accepted(), Accepted(), Released(), Released(), Released()]
    assert peer.sends(Disposition(RECEIVER, 0, 5, True, Accepted())) == []


def test_an_outcome_twice() -> None:
    peer = Peer()
    sender = peer.sender()
    sent = sender.send(b"")
    assert peer.sends(Disposition(RECEIVER, 0, state=Accepted())) == [Updated(sender, sent)]
    assert not sent.settled
    assert peer.sends(Disposition(RECEIVER, 0, settled=True)) == [Updated(sender, sent)]
    assert (sent.settled, sent.state) == (True, Accepted())


def test_a_message_in_several_frames() -> None:
    peer = Peer()
    receiver = peer.receiver()
    assert peer.sends(Transfer(4, 0, b"t", 5, more=True), payload=b"ab") == []
    assert peer.sends(Transfer(4, more=True), payload=b"") == []
    # The peer may repeat the number, and report at last that it is settled.
    got = only(peer.sends(Transfer(4, 0, settled=True), payload=b"cd"), Received).delivery
    assert (got.payload, got.tag, got.message_format) == (b"abcd", b"t", 5)
    assert got.settled
    assert receiver.credit == 9


def test_a_message_that_the_sender_gives_up() -> None:
    peer = Peer()
    receiver = peer.receiver()
    peer.sends(Transfer(4, 0, b"t", more=True), payload=b"ab")
    assert peer.sends(Transfer(4, aborted=True)) == [CreditUsed(receiver)]
    got = only(peer.sends(Transfer(4, 1, b"t"), payload=b"cd"), Received).delivery
    assert (got.id, got.payload, receiver.credit) == (1, b"cd", 8)


def test_a_state_that_comes_with_the_message() -> None:
    peer = Peer()
    peer.receiver()
    got = only(peer.sends(Transfer(4, 0, b"t", state=Released())), Received).delivery
    assert (got.state, got.settled, repr(got)) == (Released(), False, "<Delivery 0, unsettled>")


def test_a_sender_that_still_has_credit_after_a_flow_of_its_own() -> None:
    """It was sent before the drain arrived."""
    peer = Peer()
    receiver = peer.receiver(credit=5)
    receiver.drain()
    assert peer.sends(Flow(0, 1, 0, 1, 4, 2)) == []
    assert receiver.credit == 3
    assert peer.sends(Flow(0, 1, 0, 1, 4, 5)) == [Drained(receiver)]
    receiver.grant(1)
    drain, credit = peer.sent()
    assert (drain.drain, drain.link_credit) == (True, 5)
    assert (credit.drain, credit.link_credit, credit.delivery_count) == (False, 1, 5)


def test_the_peer_asks_for_an_echo() -> None:
    peer = Peer()
    sender = peer.sender(credit=5)
    peer.sends(Flow(0, 1, 0, 1, echo=True))
    (flow,) = peer.sent()
    assert flow.handle is None
    peer.sends(Flow(0, 1, 0, 1, 3, 0, 7, echo=True))
    (flow,) = peer.sent()
    assert (flow.handle, flow.link_credit) == (sender.local.handle, 7)
    receiver = peer.receiver(credit=5)
    peer.sends(Flow(0, 1, 0, 1, 4, 0, echo=True))
    (flow,) = peer.sent()
    assert (flow.handle, flow.link_credit) == (receiver.local.handle, 5)


#: What ends the session, or the connection, and with which condition.
MISTAKES: dict[str, tuple[list[Any], type[Any], str]] = {
    "a number of a link that is not allowed": (
        [Attach("l", HANDLE_MAX + 1, SENDER, source=Source(), target=Target())],
        Closed,
        "amqp:connection:framing-error",
    ),
    "a number of a link twice": (
        [Attach("l", 3, SENDER, source=Source(), target=Target())],
        Ended,
        "amqp:session:handle-in-use",
    ),
    "an attach twice": (
        [Attach("to", 9, RECEIVER, source=Source(), target=Target())],
        Closed,
        "amqp:illegal-state",
    ),
    "a flow without link": ([Flow(0, 1, 0, 1, 9)], Ended, "amqp:session:unattached-handle"),
    "a detach without link": ([Detach(9)], Ended, "amqp:session:unattached-handle"),
    "a transfer without link": (
        [Transfer(9, 0, b"")],
        Ended,
        "amqp:session:unattached-handle",
    ),
    "a transfer to a sender": ([Transfer(3, 0, b"")], Ended, "amqp:session:unattached-handle"),
    "a delivery without number": ([Transfer(4)], Closed, "amqp:invalid-field"),
    "a delivery twice": (
        [Transfer(4, 0, b"a"), Transfer(4, 0, b"b")],
        Closed,
        "amqp:invalid-field",
    ),
    "a delivery within another": (
        [Transfer(4, 0, b"a", more=True), Transfer(4, 1, b"b")],
        Closed,
        "amqp:invalid-field",
    ),
    "a transfer that was not sent": ([Flow(5, 1, 0, 1)], Closed, "amqp:invalid-field"),
    "a delivery that was not sent": (
        [Flow(0, 1, 0, 1, 3, 5, 1)],
        Closed,
        "amqp:invalid-field",
    ),
    "a range backwards": ([Disposition(RECEIVER, 5, 4)], Closed, "amqp:invalid-field"),
    "the end twice": ([End(), End()], Closed, "amqp:illegal-state"),
    "a session that begins twice": (
        [Begin(None, 0, 1, 1)],
        Closed,
        "amqp:illegal-state",
    ),
}


@pytest.mark.parametrize(("frames", "kind", "condition"), MISTAKES.values(), ids=MISTAKES)
def test_a_peer_that_makes_a_mistake_is_told(
    frames: list[Any], kind: type[Any], condition: str
) -> None:
    peer = Peer()
    peer.sender()
    peer.receiver()
    event: Any = peer.sends(*frames)[-1]
    assert isinstance(event, kind), event
    assert event.error.condition == condition
    sent: Any = peer.sent()[-1]
    assert sent.error == event.error


def test_an_answer_to_a_session_that_has_been_given_up() -> None:
    peer = Peer()
    session = peer.connection.begin()
    session.end()
    answer = encode_frame(encode_composite(Begin(1, 0, 1, 1)), 8)
    assert peer.sends(raw=answer) == []
    again = encode_frame(encode_composite(Begin(1, 0, 1, 1)), 9)
    closed = only(peer.sends(raw=again), Closed)
    assert closed.error.description == "begin: channel 1 waits for no answer"


def test_a_link_that_fails_is_reported_once() -> None:
    peer = Peer()
    peer.receiver(credit=1)
    peer.sends(Transfer(4, 0, b"a"))
    detached = only(peer.sends(Transfer(4, 1, b"b")), Detached)
    assert detached.error.condition == "amqp:link:transfer-limit-exceeded"
    assert peer.sends(Detach(4, True)) == []
    assert peer.session.attach_receiver("from", Source("a")).local.handle == 0


def test_links_are_limited_on_both_sides() -> None:
    peer = Peer(handle_max=1)
    peer.session.attach_sender("a", Target("a"))
    peer.session.attach_sender("b", Target("a"))
    with pytest.raises(StateError, match="has 2 links, and no more are allowed"):
        peer.session.attach_sender("c", Target("a"))
    ended = only(peer.sends(Attach("d", 0, SENDER, source=Source())), Ended)
    assert ended.error.condition == "amqp:resource-limit-exceeded"


def test_a_sender_that_begins_before_it_is_accepted() -> None:
    peer = Peer()
    peer.sends(Attach("l", 0, SENDER, source=Source(), target=Target(), initial_delivery_count=0))
    detached = only(peer.sends(Transfer(0, 0, b"t")), Detached)
    assert detached.error.condition == "amqp:link:transfer-limit-exceeded"
    attach, detach = peer.sent()
    assert (attach.source, attach.target) == (None, None)
    assert detach.error == detached.error


def test_a_receiver_that_gives_credit_before_it_is_accepted() -> None:
    peer = Peer()
    attach = Attach("l", 0, RECEIVER, source=Source("a"), target=Target())
    asked, credit = peer.sends(attach, Flow(0, 10, 0, 10, 0, None, 3))
    assert isinstance(asked, AttachRequested)
    assert credit == CreditChanged(asked.link, 3, drain=False)  # type: ignore[arg-type]
    asked.link.accept()
    assert isinstance(asked.link, Sender)
    asked.link.send(b"x")
    assert [type(each) for each in peer.sent()] == [Attach, Transfer, bytes]


def test_a_link_that_is_given_up_before_it_is_accepted() -> None:
    peer = Peer()
    asked, detached = peer.sends(
        Attach("l", 0, SENDER, source=Source(), target=Target()), Detach(0, True)
    )
    assert isinstance(asked, AttachRequested)
    assert detached == Detached(asked.link, None, by_peer=True)
    assert [type(each) for each in peer.sent()] == [Attach, Detach]


def test_deliveries_of_a_link_that_has_ended_are_forgotten() -> None:
    peer = Peer()
    sender = peer.sender()
    sent = sender.send(b"")
    peer.sends(Detach(3, True))
    assert peer.sends(Disposition(RECEIVER, 0, None, True, Accepted())) == []
    assert not sent.settled


def test_serial_numbers() -> None:
    assert serial.add(0xFFFFFFFF, 2) == 1
    assert serial.add(1, -2) == 0xFFFFFFFF
    assert serial.distance(0xFFFFFFFF, 1, "n") == 2
    with pytest.raises(ProtocolError, match="n 1 lies before 2"):
        serial.distance(2, 1, "n")


def test_a_pair_with_a_window_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The window closes after each frame, and opens again."""
    monkeypatch.setattr(session_module, "INCOMING_WINDOW", 1)
    pair = Pair(Connection("client", max_frame_size=512), Connection("server", server=True))
    pair.run()
    assert pair.last(0, Opened)
    session, _ = pair.session()
    sender, _ = pair.sender(session, credit=3)
    payloads = [b"a" * 5000, b"b", b"c" * 700]
    for payload in payloads:
        sender.send(payload)
    pair.run()
    got = [each.delivery.payload for each in pair.events[1] if isinstance(each, Received)]
    assert got == payloads
    assert isinstance(session, Session)
