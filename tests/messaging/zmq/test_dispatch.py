"""Which server a proxy chooses, what waits in it, and what it holds; with a clock of the test's."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hbshim.messaging.zmq.frames import Header, Kind
from hbshim.messaging.zmq.proxy.dispatch_table import DispatchTable, State
from hbshim.messaging.zmq.proxy.held import HeldReplies
from hbshim.messaging.zmq.proxy.request_queue import RequestQueue, Waiting

TOPIC, ONE = b"topic", b"one"


def waiting(left: int = 0, since: float = 0.0, client: bytes = b"c", body: bytes = b"x") -> Waiting:
    return Waiting(client, b"", Header(Kind.CALL, bytes(16), left=left), memoryview(body), since)


@pytest.fixture
def table() -> DispatchTable:
    """Two servers of one topic, each with credit for two requests."""
    made = DispatchTable()
    for name in (b"a", b"b"):
        assert made.hello(name, name * 16, (TOPIC, name), 2) == []
    return made


def chosen(table: DispatchTable, key: bytes = TOPIC, call: bytes = b"1") -> bytes:
    server = table.match(key)
    assert server is not None
    table.hand_over(server, call, b"client")
    return server.routing_id


def test_the_server_that_waited_longest_is_next_while_it_has_credit(table: DispatchTable) -> None:
    assert [chosen(table) for _ in range(4)] == [b"a", b"b", b"a", b"b"]
    assert table.match(TOPIC) is None
    assert table.serves(TOPIC)
    server = table.get(b"b")
    assert server is not None
    assert server.state is State.NO_CREDIT
    server.credit += 1
    assert chosen(table) == b"b"


def test_only_a_server_of_the_key_is_chosen(table: DispatchTable) -> None:
    assert [chosen(table, b"b"), chosen(table, b"b")] == [b"b", b"b"]
    assert table.match(b"b") is None
    assert not table.serves(b"other")


def test_a_server_that_is_not_reached_three_times_is_gone_with_its_calls(
    table: DispatchTable,
) -> None:
    assert chosen(table, b"a", b"call") == b"a"
    server = table.get(b"a")
    assert server is not None
    assert table.unreachable(server) is None
    assert (server.state, chosen(table)) == (State.SUSPECT, b"b")
    table.reachable(server)
    assert server.state is State.READY
    assert [table.unreachable(server) for _ in range(2)] == [None, None]
    assert table.unreachable(server) == [(b"call", b"client")]
    assert table.get(b"a") is None
    assert not table.serves(b"a")
    assert table.serves(TOPIC)


def test_another_incarnation_has_lost_what_the_earlier_one_held(table: DispatchTable) -> None:
    assert chosen(table, b"a", b"call") == b"a"
    assert table.hello(b"a", b"a" * 16, (TOPIC,), 5) == []
    assert table.outstanding == 1
    assert table.hello(b"a", b"z" * 16, (TOPIC, ONE), 5) == [(b"call", b"client")]
    assert table.outstanding == 0
    assert table.serves(ONE)
    assert not table.serves(b"a")


def test_a_server_that_leaves_is_removed_with_its_last_call(table: DispatchTable) -> None:
    assert chosen(table, b"a", b"call") == b"a"
    server = table.get(b"a")
    assert server is not None
    table.bye(server)
    assert server.state is State.DRAINING
    assert not table.serves(b"a")
    assert table.match(b"a") is None
    table.answered(server, b"call")
    assert table.get(b"a") is None


def test_calls_that_no_caller_waits_for_any_more_are_forgotten(table: DispatchTable) -> None:
    server = table.get(b"a")
    assert server is not None
    table.hand_over(server, b"brief", b"client", until=5.0)
    table.hand_over(server, b"other", b"another", until=9.0)
    table.hand_over(server, b"for ever", b"client")
    assert table.calls_of(b"client") == {b"brief", b"for ever"}
    table.drop_late(5.0)
    assert table.calls_of(b"client") == {b"for ever"}
    table.bye(server)
    table.answered(server, b"for ever")
    assert table.get(b"a") is server
    table.drop_late(9.0)
    assert table.get(b"a") is None


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["hello", "new", "credit", "match", "lost", "fine", "bye", "answer"]),
        st.integers(0, 2),
    )
)


@settings(database=None, max_examples=60)
@given(STEPS)
def test_no_order_of_events_loses_a_call_or_ends_it_twice(steps: list[tuple[str, int]]) -> None:
    table, handed, ended = DispatchTable(), set[bytes](), list[bytes]()
    for number, (step, which) in enumerate(steps):
        name = bytes((which,))
        server = table.get(name)
        if step in ("hello", "new"):
            incarnation = b"same" if step == "hello" else number.to_bytes(4, "big")
            ended += [call for call, _ in table.hello(name, incarnation, (TOPIC,), 2)]
        elif step == "match" and (found := table.match(TOPIC)) is not None:
            assert found.state is State.READY
            call = number.to_bytes(4, "big")
            table.hand_over(found, call, b"client")
            handed.add(call)
        elif server is None:
            continue
        elif step == "credit":
            server.credit += 1
        elif step == "lost":
            ended += [call for call, _ in table.unreachable(server) or []]
        elif step == "fine":
            table.reachable(server)
        elif step == "bye":
            table.bye(server)
        elif step == "answer" and server.outstanding:
            call = next(iter(server.outstanding))
            table.answered(server, call)
            ended.append(call)
    held = [call for server in table.servers for call in server.outstanding]
    assert sorted(ended + held) == sorted(handed)
    assert table.outstanding == len(held)
    for server in table.servers:
        table.remove(server)
    assert table.match(TOPIC) is None


# -- what waits ----------------------------------------------------------------


def test_requests_wait_in_order_up_to_the_limits() -> None:
    first, second = waiting(body=b"xx"), waiting(body=b"yy")
    queue = RequestQueue(most=2, most_bytes=first.size + second.size)
    assert queue.put(TOPIC, first)
    assert not queue.put(ONE, waiting(body=b"zzz"))
    assert queue.put(TOPIC, second)
    assert not queue.put(TOPIC, waiting(body=b""))
    assert (len(queue), queue.size) == (2, first.size + second.size)
    assert queue.take(TOPIC, 0.0) is first
    queue.put_back(TOPIC, first)
    assert [queue.take(TOPIC, 0.0) for _ in range(3)] == [first, second, None]
    assert (len(queue), queue.size, queue.waits(TOPIC)) == (0, 0, False)


def test_what_is_late_is_dropped_and_counted() -> None:
    queue = RequestQueue(10, 10_000)
    for each in (waiting(left=100), waiting(left=5000), waiting()):
        assert queue.put(TOPIC, each)
    assert queue.put(ONE, waiting(left=100))
    queue.drop_expired(1.0)
    assert (len(queue), queue.expired, queue.waits(ONE)) == (2, 2, False)
    assert queue.size == 2 * waiting().size
    taken = queue.take(TOPIC, 6.0)
    assert taken is not None
    assert taken.header.left == 0
    assert queue.expired == 3
    assert waiting(left=5000).left(2.0) == 3000


def test_calls_are_taken_out_and_casts_stay() -> None:
    queue = RequestQueue(10, 10_000)
    call, cast = waiting(), waiting(client=b"")
    assert queue.put(TOPIC, call)
    assert queue.put(TOPIC, cast)
    assert queue.take_calls(TOPIC) == [call]
    assert queue.take_calls(ONE) == []
    assert (len(queue), queue.size) == (1, cast.size)
    assert queue.take_calls(TOPIC) == []
    assert queue.take(TOPIC, 0.0) is cast


# -- what is held --------------------------------------------------------------


def test_replies_are_held_for_a_time_and_up_to_a_limit() -> None:
    held, sent = HeldReplies(most_bytes=1000), list[list[bytes]]()

    def send(message: list[bytes]) -> bool:
        if message == [b"refused"]:
            return False
        sent.append(message)
        return True

    held.put(b"a", [b"one"], 10.0)
    held.put(b"a", [b"2"], 15.0)
    held.put(b"b", [b"too long" * 50], 15.0)
    assert (len(held), held.dropped, held.holds(b"b")) == (2, 1, False)
    held.drop_late(11.0)
    held.put(b"a", [b"refused"], 15.0)
    held.send(b"a", send)
    assert (sent, held.dropped, len(held)) == ([[b"2"]], 2, 1)
    held.put(b"b", [b"fits." * 20], 15.0)
    held.drop_late(20.0)
    held.send(b"b", send)
    assert (len(held), sent, held.holds(b"b"), held.dropped) == (0, [[b"2"]], False, 4)
