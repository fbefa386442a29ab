"""Each side is kept alive by what the other asks for; the two times are independent."""

from __future__ import annotations

import pytest

from hbshim.amqp1.composites import encode_composite
from hbshim.amqp1.connection import Connection
from hbshim.amqp1.events import Closed, Opened, Origin
from hbshim.amqp1.frames import AMQP_HEADER, EMPTY_FRAME, encode_frame
from hbshim.amqp1.idle import NEVER, IdleEvent, IdleTimes, idle_times
from hbshim.amqp1.performatives import Error, Open
from tests.amqp1.pair import Pair


@pytest.mark.parametrize(
    ("ours", "theirs", "times"),
    [
        (None, None, IdleTimes(None, None)),
        (5000, 2000, IdleTimes(2.0, 10.0)),
        (None, 2000, IdleTimes(2.0, None)),
        # Without a wish of the peer: for what lies between.
        (5000, None, IdleTimes(5.0, 10.0)),
        (5000, 0, IdleTimes(5.0, 10.0)),
        (5000, NEVER, IdleTimes(5.0, 10.0)),
        (0, NEVER, IdleTimes(None, None)),
        (5000, 500, IdleTimes(0.5, 10.0)),
    ],
)
def test_each_side_has_its_own_time(ours: int | None, theirs: int | None, times: IdleTimes) -> None:
    assert idle_times(ours, theirs) == times


@pytest.mark.parametrize(
    ("sent_ago", "received_ago", "event"),
    [
        (0.9, 9.9, IdleEvent.FRESH),
        (1.0, 9.9, IdleEvent.DUE),
        (0.0, 10.0, IdleEvent.SILENT),
        (5.0, 10.0, IdleEvent.SILENT),
    ],
)
def test_the_edges_of_both_times(sent_ago: float, received_ago: float, event: IdleEvent) -> None:
    assert IdleTimes(2.0, 10.0).classify(sent_ago, received_ago) is event


def test_without_times_nothing_happens() -> None:
    times = IdleTimes(None, None)
    assert times.classify(1e9, 1e9) is IdleEvent.FRESH
    assert times.next_check(1e9, 1e9) is None


def test_the_next_check_is_when_something_may_apply() -> None:
    times = IdleTimes(2.0, 10.0)
    assert times.next_check(0.25, 3.0) == pytest.approx(0.75)
    assert times.next_check(0.25, 9.5) == pytest.approx(0.5)
    assert times.next_check(7.0, 3.0) == 0.0
    assert IdleTimes(None, 10.0).next_check(7.0, 3.0) == pytest.approx(7.0)


def idle_pair(client: float | None, server: float | None) -> Pair:
    pair = Pair(
        Connection("client", idle_timeout=client),
        Connection("server", server=True, idle_timeout=server),
    )
    pair.run()
    pair.clear()
    return pair


def test_idle_connections_stay_open_while_both_sides_are_checked() -> None:
    pair = idle_pair(2, 6)
    ends = pair.now + 60
    while pair.now < ends:
        pauses = [side.next_check(pair.now) for side in (pair.client, pair.server)]
        pair.now += min(pause for pause in pauses if pause is not None)
        for side, connection in enumerate((pair.client, pair.server)):
            pair.events[side].extend(connection.check(pair.now))
        pair.run()
    assert pair.events == ([], [])
    # The client sends for the server's 6 s, the server for the client's 2 s.
    empty = [data.count(EMPTY_FRAME) for data in pair.sent]
    assert empty == [20, 60]


def test_no_empty_frame_while_there_is_traffic() -> None:
    pair = idle_pair(None, 2)
    session, _ = pair.session()
    sender, _ = pair.sender(session, credit=100)
    for _ in range(40):
        pair.now += 0.5
        sender.send(b"x")
        assert pair.client.check(pair.now) == []
        pair.run()
    assert EMPTY_FRAME not in pair.sent[0]


def test_what_waits_to_be_sent_is_traffic() -> None:
    pair = idle_pair(None, 2)
    pair.now += 10
    pair.client.begin()
    pair.client.check(pair.now)
    assert EMPTY_FRAME not in pair.client.data_to_send(pair.now)


def test_a_silent_peer_is_dead_after_twice_what_this_side_asked_for() -> None:
    pair = idle_pair(2, None)
    assert pair.client.check(pair.now + 3.9) == []
    (event,) = pair.client.check(pair.now + 4.0)
    assert isinstance(event, Closed)
    assert event.error is not None
    assert event.error.condition == "amqp:resource-limit-exceeded"
    assert event.error.description == "local-idle-timeout expired: nothing arrived in 4 s"
    assert event.origin is Origin.LOCAL
    assert pair.client.next_check(pair.now + 5) is None
    assert pair.client.check(pair.now + 50) == []
    pair.run()
    assert pair.events[1] == [Closed(event.error, Origin.PEER)]


def test_a_peer_that_was_asked_for_nothing_may_be_silent() -> None:
    """With one time for both sides it would be cut."""
    pair = idle_pair(None, 2)
    assert pair.client.check(pair.now + 1e6) == []
    assert pair.client.data_to_send(pair.now + 1e6) == EMPTY_FRAME


def test_nothing_is_checked_before_the_connection_is_open() -> None:
    connection = Connection("c", idle_timeout=1)
    connection.data_to_send(0.0)
    assert connection.next_check(100.0) is None
    assert connection.check(100.0) == []


@pytest.mark.parametrize(("theirs", "kept"), [(100, True), (99, False)])
def test_a_time_that_cannot_be_kept_is_refused(theirs: int, kept: bool) -> None:
    connection = Connection("c")
    data = AMQP_HEADER + encode_frame(encode_composite(Open("s", idle_time_out=theirs)))
    (event,) = connection.receive_data(data, 0.0)
    assert isinstance(event, Opened) is kept
    if not kept:
        assert isinstance(event, Closed)
        assert event.error == Error(
            "amqp:not-allowed", "an idle-time-out of 99 ms is too short to be kept"
        )
