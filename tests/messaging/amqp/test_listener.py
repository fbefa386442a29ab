"""What a listener does with what the broker delivers, refuses and takes back."""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hbshim.errors import (
    ConnectError,
    ConnectionLostError,
    MessagingError,
    OptionError,
    TopologyError,
)
from hbshim.messaging.amqp.connection import FORMAT, Queue
from hbshim.messaging.amqp.incoming import AmqpIncoming
from hbshim.messaging.amqp.listener import AmqpListener
from hbshim.messaging.amqp.topology import Subscription
from hbshim.messaging.consuming import Source
from tests.concurrency import MODEL
from tests.interrupts import interrupt_everywhere
from tests.messaging.amqp.broker_double import FakeConnection, FakeConnector, FakeRetries
from tests.waiting import wait_until

LIMIT = 30.0

_numbers = itertools.count(1)


class Rig:
    """A listener with a topic's queue and a server's own for FANOUT."""

    def __init__(self, *, first: bool = True, later: bool = False) -> None:
        self.topic = f"topic-{uuid.uuid4().hex}"
        self.connector = FakeConnector()
        self.retries = FakeRetries()
        self.errors: list[BaseException] = []
        self.lifetime: float | None = None
        sources = [
            Source(self._own, later=later),
            Source(lambda: self._fanout(next(_numbers)), kept=False),
        ]
        self.listener = AmqpListener(
            self.connector,  # type: ignore[arg-type]
            None,  # type: ignore[arg-type]
            None,  # type: ignore[arg-type]
            sources,
            10,
            acknowledge_first=first,
            retry_delay=0.01,
            retries=self.retries,  # type: ignore[arg-type]
        )
        self.listener.on_error = self.errors.append

    def _own(self) -> Subscription:
        return Subscription(Queue(self.topic, expires=self.lifetime), "exchange", self.topic)

    def _fanout(self, number: int) -> Subscription:
        queue = Queue(f"{self.topic}-fanout-{number}", exclusive=True)
        return Subscription(queue, "exchange-fanout", self.topic)

    def open(self) -> FakeConnection:
        assert self.listener.open(LIMIT)
        return self.connection

    @property
    def connection(self) -> FakeConnection:
        return self.connector.connections[-1]

    @property
    def fanout(self) -> str:
        """The queue for FANOUT, as it is called now."""
        (name,) = (each for each in self.connection.consumers if "fanout" in each)
        return name

    def poll(self, timeout: float | None = 0.05, **how: Any) -> list[AmqpIncoming]:
        return self.listener.poll(timeout, **how)

    def ids(self, timeout: float | None = 0.05, **how: Any) -> list[str]:
        return [incoming.message_id for incoming in self.poll(timeout, **how)]

    def bodies(self) -> list[bytes]:
        return [incoming.payload.body for incoming in self.poll(batch_size=9, batch_timeout=0.05)]

    def again(self) -> FakeConnection:
        """Lose the connection, and wait for the next."""
        self.connection.lose()
        before = len(self.connector.connections)

        def reconnected() -> bool:
            self.poll()
            return len(self.connector.connections) > before and self.topic in (
                self.connection.consumers
            )

        wait_until(reconnected, LIMIT)
        return self.connection


@pytest.fixture
def rigs() -> Iterator[Callable[..., Rig]]:
    made: list[Rig] = []

    def make(**how: Any) -> Rig:
        made.append(Rig(**how))
        return made[-1]

    yield make
    for rig in made:
        rig.listener.close()


def identity() -> str:
    return uuid.uuid4().hex


# -- once or not at all --------------------------------------------------------


def test_a_redelivered_request_that_was_not_begun_is_run(rigs: Callable[..., Rig]) -> None:
    """The mark alone means nothing: the broker sets it for whatever it took back."""
    rig = rigs()
    one = identity()
    rig.open().deliver(rig.topic, one, redelivered=True, expiration=60.0)
    assert rig.ids() == [one]
    assert rig.connection.settled == [("ack", 1)]


@pytest.mark.parametrize("expiration", [None, 60.0])
def test_a_request_that_was_begun_here_is_not_run_again(
    rigs: Callable[..., Rig], expiration: float | None
) -> None:
    """Nor by another listener of the process: its acknowledgement was lost on the way."""
    rig, one = rigs(), identity()
    rig.open().deliver(rig.topic, one, expiration=expiration)
    assert rig.ids() == [one]
    rig.again().deliver(rig.topic, one, redelivered=True, expiration=expiration)
    assert rig.ids() == []
    assert rig.connection.settled == [("ack", 1)]
    other = rigs()
    other.topic = rig.topic
    other.listener._consumers[0].subscription = rig.listener._consumers[0].subscription
    other.open().deliver(rig.topic, one, redelivered=True, expiration=expiration)
    assert other.ids() == []


def test_one_fanout_is_run_by_each_server_of_a_process(rigs: Callable[..., Rig]) -> None:
    one = identity()
    for rig in (rigs(), rigs()):
        rig.open()
        rig.connection.deliver(rig.fanout, one, redelivered=True, expiration=60.0)
        assert rig.ids() == [one]


def test_what_cannot_be_acknowledged_first_is_not_begun(rigs: Callable[..., Rig]) -> None:
    """It is the broker's; where it comes again, it is run."""
    rig, one = rigs(), identity()
    connection = rig.open()
    connection.deliver(rig.topic, one, expiration=60.0)
    connection.stale.add(1)
    assert rig.ids() == []
    rig.again().deliver(rig.topic, one, redelivered=True, expiration=60.0)
    assert rig.ids() == [one]


def test_begun_requests_of_a_lost_connection_outlive_many_others(rigs: Callable[..., Rig]) -> None:
    """A broker that does not notice the loss redelivers them minutes later."""
    rig, one = rigs(), identity()
    rig.open().deliver(rig.topic, one, expiration=60.0)
    assert rig.ids() == [one]
    rig.again()
    for number in range(10_001):
        rig.listener._inbox.duplicates.begin_once((rig.topic, str(number), 0), check=False)
    rig.connection.deliver(rig.topic, one, redelivered=True, expiration=60.0)
    assert rig.ids() == []


@pytest.mark.parametrize("first", [True, False])
def test_equal_ids_of_a_plain_client_are_no_reason_to_drop_a_message(
    rigs: Callable[..., Rig], first: bool
) -> None:
    """It may give all its messages the id "1", and no time limit."""
    rig = rigs(first=first)
    connection = rig.open()
    for body in (b"one", b"two", b"two"):
        connection.deliver(rig.topic, "1", body)
    assert rig.bodies() == [b"one", b"two", b"two"]
    # Redelivered, it is another one than those that were begun.
    connection.deliver(rig.topic, "1", b"three", redelivered=True)
    assert rig.bodies() == [b"three"]
    connection.deliver(rig.topic, "1", b"three", redelivered=True)
    assert rig.bodies() == []


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    "properties",
    [{"type": FORMAT}, {"expiration": 60.0, "headers": {"x-hbshim-renewed": True}}],
    ids=["confirm", "renewed"],
)
def test_a_request_that_was_stored_twice_is_run_once(
    rigs: Callable[..., Rig], first: bool, properties: dict[str, Any]
) -> None:
    """The confirm was lost, or the acknowledgement of the copy that was renewed."""
    rig, one = rigs(first=first), identity()
    connection = rig.open()
    connection.deliver(rig.topic, one, **properties)
    connection.deliver(rig.topic, one, **properties)
    (running,) = rig.poll()
    assert rig.ids() == []
    running.acknowledge()
    assert connection.settled == [("ack", 1), ("ack", 2)]


# -- pausing and stopping ------------------------------------------------------


def test_what_arrives_while_a_consumer_is_cancelled_returns_to_its_queue(
    rigs: Callable[..., Rig],
) -> None:
    """The queue for FANOUT is still there when the listener only pauses."""
    rig = rigs()
    connection = rig.open()
    fanout = rig.fanout
    connection.deliver(rig.topic, identity(), expiration=60.0)
    connection.deliver(rig.topic, identity())
    connection.deliver(fanout, identity(), expiration=60.0)
    connection.on_cancel = lambda tag: tag == rig.topic and connection.deliver(tag, identity())  # type: ignore[assignment]
    rig.listener.pause()
    assert connection.settled == [("nack", tag) for tag in (1, 2, 3, 4)]
    assert rig.ids() == []
    assert sorted(connection.cancelled) == sorted([rig.topic, fanout])
    rig.listener.resume()
    connection.on_cancel = lambda _tag: None
    rig.poll()
    # Messages that came meanwhile wait in the same queue.
    assert set(connection.consumers) == {rig.topic, fanout}


def test_a_listener_that_stops_hands_out_what_no_other_can_get(
    rigs: Callable[..., Rig],
) -> None:
    rig, everywhere = rigs(), identity()
    connection = rig.open()
    connection.deliver(rig.topic, identity(), expiration=60.0)
    connection.deliver(rig.fanout, everywhere, expiration=60.0)
    rig.listener.stop()
    assert connection.settled == [("nack", 1)]
    assert rig.ids() == [everywhere]
    assert rig.listener.poll() == []


def test_a_pause_withdraws_at_once_though_a_poll_was_under_way(
    rigs: Callable[..., Rig],
) -> None:
    rig = rigs()
    connection = rig.open()

    def pause_meanwhile() -> None:
        rig.listener.pause()
        assert connection.cancelled == []

    rig.listener._polling.run(pause_meanwhile)
    # What the thread does that ends its poll; no other poll is needed.
    rig.listener._after_polling()
    assert len(connection.cancelled) == 2


def test_the_end_of_the_prefetch_drain_thread_withdraws(rigs: Callable[..., Rig]) -> None:
    """It was that thread that held the lock, and all that poll are at work."""
    rig = rigs()
    connection = rig.open()
    connection.deliver(rig.topic, identity(), expiration=60.0)
    assert len(rig.poll()) == 1  # this starts the thread
    drained, go_on = threading.Event(), threading.Event()

    def drain(_timeout: float) -> None:
        drained.set()
        assert go_on.wait(LIMIT)

    connection.drain = drain  # type: ignore[assignment]
    assert drained.wait(LIMIT)
    rig.listener.pause()
    assert connection.cancelled == []
    del connection.drain
    go_on.set()
    wait_until(lambda: len(connection.cancelled) == 2, LIMIT)


def test_opening_has_one_deadline(rigs: Callable[..., Rig]) -> None:
    """Of each method that the broker answers; a poll gives it the time of a healthy one."""
    rig = rigs()
    assert rig.listener.open(5.0)
    (deadline,) = {*rig.connection.opening}
    assert deadline is not None
    assert deadline <= time.monotonic() + 5.0
    first = rig.connection
    first.lose()

    def consumes_again() -> bool:
        assert rig.poll(0.05) == []
        return rig.connection is not first and rig.topic in rig.connection.consumers

    wait_until(consumes_again, LIMIT)
    assert {*rig.connection.opening} == {None}


def test_stopping_has_one_deadline(rigs: Callable[..., Rig]) -> None:
    """What cannot be given back in time is left to the broker, with the connection."""
    rig = rigs()
    connection = rig.open()
    connection.deliver(rig.topic, identity())
    slow = threading.Event()

    def on_cancel(_tag: str) -> None:
        slow.wait(connection.deadlines[-1] - time.monotonic())
        connection.lose()
        connection._check()

    connection.on_cancel = on_cancel
    began = time.monotonic()
    rig.listener.stop(0.3)
    rig.listener.close(0.0)
    assert time.monotonic() - began < LIMIT / 2
    assert connection.deadlines
    assert max(connection.deadlines) <= began + 0.3 + 0.1
    assert connection.settled == []


def test_closing_does_not_wait_for_a_poll_that_hangs(rigs: Callable[..., Rig]) -> None:
    """As one does in name resolution; it closes what it opened when it returns."""
    rig = rigs()
    resolved, hangs = threading.Event(), threading.Event()

    def connect(_deadline: float, attempts: int | None = None) -> FakeConnection:
        hangs.set()
        assert resolved.wait(LIMIT)
        rig.connector.connections.append(FakeConnection())
        return rig.connector.connections[-1]

    rig.connector.connect = connect
    polling = threading.Thread(target=rig.listener.poll)
    polling.start()
    assert hangs.wait(LIMIT)
    began = time.monotonic()
    rig.listener.stop(0.1)
    rig.listener.close(0.1)
    assert time.monotonic() - began < LIMIT / 2
    resolved.set()
    polling.join(LIMIT)
    assert not polling.is_alive()
    assert rig.connection.closed_after is not None


# -- queues that are refused, connections that are lost ------------------------


def locked(queue: Queue) -> None:
    if "fanout" in queue.name:
        raise TopologyError("the broker refused: RESOURCE_LOCKED", 405)


def test_a_queue_for_fanout_that_is_refused_does_not_prevent_service(
    rigs: Callable[..., Rig],
) -> None:
    """It is tried again apart, with another name, and over the same connection."""
    rig = rigs()
    tried: list[str] = []

    def refuse(queue: Queue) -> None:
        tried.append(queue.name)
        if len(tried) < 8:
            locked(queue)

    rig.connector.prepare = lambda connection: setattr(connection, "on_declare", refuse)
    connection = rig.open()
    one = identity()
    connection.deliver(rig.topic, one, expiration=60.0)
    assert rig.ids() == [one]
    wait_until(lambda: rig.poll() == [] and len(connection.consumers) == 2, LIMIT)
    names = [name for name in tried if "fanout" in name]
    assert len(set(names)) == len(names)
    assert len(rig.connector.connections) == 1
    assert [getattr(error, "code", None) for error in rig.errors] == [405] * len(rig.errors) != []


def test_a_queue_of_another_type_is_an_error_at_the_start(rigs: Callable[..., Rig]) -> None:
    rig = rigs()

    def refuse(queue: Queue) -> None:
        if queue.name == rig.topic:
            raise TopologyError("inequivalent arg 'x-queue-type' for queue", 406)

    rig.connector.prepare = lambda connection: setattr(connection, "on_declare", refuse)
    for _ in range(2):
        with pytest.raises(TopologyError, match="x-queue-type"):
            rig.listener.open(LIMIT)
        assert rig.connection.closed_after is not None


@pytest.mark.parametrize(
    ("current", "expected"),
    [
        ("none", {}),
        ("'30001'", {"x-expires": 30001}),
        ("the value '30001' of type 'signedint'", {"x-expires": 30001}),
    ],
)
def test_a_queue_with_another_lifetime_keeps_it(
    rigs: Callable[..., Rig], current: str, expected: dict[str, object]
) -> None:
    """Only its lifetime may differ: the broker is asked again, with the one that it has."""
    rig = rigs()
    error = f"inequivalent arg 'x-expires' for queue 'q' in vhost '/': but current is {current}"

    def refuse(queue: Queue) -> None:
        if queue.name == rig.topic and queue.declaration() != expected:
            raise TopologyError(error, 406)

    rig.lifetime = 60.0
    rig.connector.prepare = lambda connection: setattr(connection, "on_declare", refuse)
    assert rig.topic in rig.open().consumers


def test_each_connection_has_its_own_name_for_the_exclusive_queue(
    rigs: Callable[..., Rig],
) -> None:
    """The broker may not know yet that the connection which owns the old one has ended."""
    rig = rigs()
    rig.open()
    names = [rig.fanout]
    for _ in range(3):
        rig.again()
        names.append(rig.fanout)
    assert len(set(names)) == 4
    assert rig.listener.reconnects == 3


def test_pauses_grow_where_the_broker_drops_each_connection(rigs: Callable[..., Rig]) -> None:
    rig = rigs()

    def drop(_queue: Queue) -> None:
        rig.connection.lose()
        rig.connection._check()

    rig.connector.prepare = lambda connection: setattr(connection, "on_declare", drop)
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        rig.poll(0.05)
    # 0.05 s, doubled each time, halved at most: six pauses are longer than 1.5 s.
    assert 2 <= rig.connector.asked <= 7
    assert {type(error) for error in rig.errors} == {ConnectionLostError}
    rig.connector.prepare = lambda _connection: None
    wait_until(lambda: rig.poll(0.05) == [] and rig.topic in rig.connection.consumers, LIMIT)
    assert rig.listener._backoff.failures
    rig.connection.deliver(rig.topic, identity())
    assert len(rig.poll(LIMIT)) == 1
    assert not rig.listener._backoff.failures


def test_an_error_that_no_attempt_can_cure_pauses_too(rigs: Callable[..., Rig]) -> None:
    """Whatever it is: a file for TLS that is not there just now, refused credentials."""
    rig = rigs()
    rig.connector.errors = [OptionError("no file"), ConnectError("no such user", final=True)]
    with pytest.raises(OptionError):
        rig.poll(LIMIT)
    with pytest.raises(ConnectError):
        rig.poll(LIMIT)
    assert rig.listener.open(LIMIT)


def test_a_deleted_queue_is_declared_again_over_the_same_connection(
    rigs: Callable[..., Rig],
) -> None:
    rig = rigs()
    connection = rig.open()
    connection.delete(rig.topic)
    wait_until(lambda: rig.poll(0.05) == [] and rig.topic in connection.consumers, LIMIT)
    assert connection.declared.count(rig.topic) == 2
    assert len(rig.connector.connections) == 1


def test_no_queue_is_an_error() -> None:
    with pytest.raises(OptionError, match="no queue"):
        AmqpListener(
            None,  # type: ignore[arg-type]
            None,  # type: ignore[arg-type]
            None,  # type: ignore[arg-type]
            [],
            1,
            acknowledge_first=True,
            retry_delay=0.1,
            retries=None,  # type: ignore[arg-type]
        )


# -- acknowledged at the end ---------------------------------------------------


def test_what_is_running_is_not_begun_again_when_the_broker_takes_it_back(
    rigs: Callable[..., Rig],
) -> None:
    """RabbitMQ's consumer_timeout: it closes the channel, and delivers the request again."""
    rig, one, waits = rigs(first=False), identity(), identity()
    connection = rig.open()
    connection.deliver(rig.topic, one)
    (running,) = rig.poll()
    connection.deliver(rig.topic, waits)
    connection.close_channel("closed by the broker: delivery acknowledgement timed out (406)")
    wait_until(lambda: rig.poll(0.05) == [] and rig.topic in connection.consumers, LIMIT)
    (error,) = rig.errors
    assert isinstance(error, MessagingError)
    assert "consumer_timeout" in str(error)
    connection.deliver(rig.topic, one, redelivered=True)
    connection.deliver(rig.topic, waits, redelivered=True)
    assert rig.ids(batch_size=5) == [waits]
    assert running.acknowledge()
    # Not the tag of the closed channel, but the latest.
    assert connection.settled == [("ack", 3)]


def test_a_closed_channel_is_reported_while_the_poll_goes_on(rigs: Callable[..., Rig]) -> None:
    """Once for all of its consumers, and without the lock, for a callback may take its time."""
    rig = rigs(first=False)
    connection = rig.open()
    free: list[bool] = []

    def on_error(_error: BaseException) -> None:
        free.append(not rig.listener._polling.occupied)

    rig.listener.on_error = on_error
    polling = threading.Thread(target=rig.listener.poll)
    polling.start()
    connection.close_channel("closed by the broker: delivery acknowledgement timed out (406)")
    wait_until(lambda: free, LIMIT)
    wait_until(lambda: len(connection.consumers) == 2, LIMIT)
    assert polling.is_alive()
    rig.listener.stop()
    polling.join(LIMIT)
    assert free == [True]


def test_what_is_finished_is_acknowledged_when_it_is_redelivered(
    rigs: Callable[..., Rig],
) -> None:
    rig, one = rigs(first=False), identity()
    connection = rig.open()
    connection.deliver(rig.topic, one)
    (running,) = rig.poll()
    connection.close_channel("closed by the broker: delivery acknowledgement timed out (406)")
    assert not running.acknowledge()
    wait_until(lambda: rig.poll(0.05) == [] and rig.topic in connection.consumers, LIMIT)
    connection.deliver(rig.topic, one, redelivered=True)
    assert rig.ids() == []
    assert connection.settled == [("ack", 2)]


@pytest.mark.parametrize("how", ["acknowledge", "requeue"])
def test_each_copy_of_a_running_message_is_settled(rigs: Callable[..., Rig], how: str) -> None:
    """Else it would occupy the prefetch until the connection ends."""
    rig, one = rigs(first=False), identity()
    connection = rig.open()
    connection.deliver(rig.topic, one)
    (running,) = rig.poll()
    for _ in range(2):
        connection.deliver(rig.topic, one, redelivered=True)
    assert rig.ids() == []
    getattr(running, how)()
    assert sorted(tag for _, tag in connection.settled) == [1, 2, 3]


def test_what_is_given_back_may_be_begun_again(rigs: Callable[..., Rig]) -> None:
    """The thread that worked on it was killed."""
    rig, one = rigs(first=False), identity()
    connection = rig.open()
    connection.deliver(rig.topic, one)
    (running,) = rig.poll()
    running.return_to_queue()
    connection.deliver(rig.topic, one, redelivered=True)
    (again,) = rig.poll()
    assert again.acknowledge()
    assert connection.settled == [("nack", 1), ("ack", 2)]


def test_a_request_is_handed_out_where_no_thread_can_be_started(
    rigs: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is acknowledged then, or would be in no one's hands."""

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    rig, one = rigs(), identity()
    connection = rig.open()
    connection.deliver(rig.topic, one, expiration=60.0)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert rig.ids() == [one]
    assert [str(error) for error in rig.errors] == ["can't start new thread"]


# -- handled later -------------------------------------------------------------


def test_what_is_requeued_is_stored_for_later(rigs: Callable[..., Rig]) -> None:
    rig, one = rigs(first=False, later=True), identity()
    connection = rig.open()
    connection.deliver(rig.topic, one, headers={"x-hbshim-attempts": 2, "x-death": []})
    (incoming,) = rig.poll()
    assert incoming.attempts == 2
    incoming.requeue()
    ((message, queue, attempts),) = rig.retries.stored
    assert (message.message_id, queue, attempts) == (one, rig.topic, 3)
    assert "x-death" not in (message.headers or {})
    assert connection.settled == [("ack", 1)]
    # It is handled again, here or elsewhere.
    connection.deliver(rig.topic, one, redelivered=True)
    assert rig.ids() == [one]


@pytest.mark.parametrize("lost", ["before", "after"])
def test_what_is_to_be_handled_again_is_not_taken_for_done(
    rigs: Callable[..., Rig], lost: str
) -> None:
    """Its new copy waits here, not begun, when a connection is lost, and is redelivered."""
    rig, one = rigs(first=False, later=True), identity()
    rig.open().deliver(rig.topic, one)
    (incoming,) = rig.poll()
    if lost == "before":
        rig.again()
        incoming.requeue()
    else:
        incoming.requeue()
        rig.again()
    assert len(rig.retries.stored) == 1
    rig.connection.deliver(rig.topic, one, redelivered=True, headers={"x-hbshim-attempts": 1})
    (again,) = rig.poll()
    assert again.acknowledge()
    # From now on it is done.
    rig.again().deliver(rig.topic, one, redelivered=True)
    assert rig.ids() == []


def test_what_cannot_be_stored_for_later_returns_to_its_queue_after_a_pause(
    rigs: Callable[..., Rig],
) -> None:
    rig = rigs(first=False, later=True)
    rig.retries.error = TopologyError("no permission", 403)
    connection = rig.open()
    connection.deliver(rig.topic, identity())
    (incoming,) = rig.poll()
    began = time.monotonic()
    incoming.requeue()
    assert time.monotonic() - began > 0.9
    assert connection.settled == [("nack", 1)]


def test_what_a_quorum_queue_would_drop_is_held_until_it_can_be_stored(
    rigs: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """RabbitMQ 4 drops a message without a word when it is requeued after 20 deliveries."""
    monkeypatch.setattr("hbshim.messaging.amqp.retries.SHORTEST_HOLD", 0.02)
    rig, one = rigs(first=False, later=True), identity()
    rig.retries.error = TopologyError("no permission", 403)
    connection = rig.open()
    connection.deliver(rig.topic, one, redelivered=True, headers={"x-delivery-count": 5})
    (incoming,) = rig.poll()
    incoming.requeue()
    # Others are handled meanwhile.
    other = identity()
    connection.deliver(rig.topic, other)
    wait_until(lambda: rig.ids() == [other], LIMIT)
    assert rig.ids(0.1) == []
    assert connection.settled == []
    rig.retries.error = None
    wait_until(lambda: rig.poll() == [] and connection.settled, LIMIT)
    assert connection.settled == [("ack", 1)]
    ((message, _queue, attempts),) = rig.retries.stored
    assert (message.message_id, attempts) == (one, 1)
    assert rig.retries.held.left() == float("inf")


def test_what_is_held_is_the_brokers_once_its_connection_is_lost(
    rigs: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hbshim.messaging.amqp.retries.SHORTEST_HOLD", 0.02)
    rig = rigs(first=False, later=True)
    rig.retries.error = TopologyError("no permission", 403)
    headers = {"x-delivery-count": 5}
    rig.open().deliver(rig.topic, identity(), redelivered=True, headers=headers)
    (incoming,) = rig.poll()
    incoming.requeue()
    rig.again()
    rig.retries.error = None
    wait_until(lambda: rig.poll() == [] and rig.retries.held.left() == float("inf"), LIMIT)
    assert rig.retries.stored == []


def test_one_that_failed_before_is_alone_in_its_batch(rigs: Callable[..., Rig]) -> None:
    rig = rigs(first=False, later=True)
    connection = rig.open()
    ids = [identity() for _ in range(5)]
    for number, each in enumerate(ids):
        headers = {"x-hbshim-attempts": 1} if number == 2 else {}
        connection.deliver(rig.topic, each, headers=headers)
    batches = [rig.ids(batch_size=5, batch_timeout=0.05) for _ in range(3)]
    assert batches == [ids[:2], ids[2:3], ids[3:]]


def interrupted(rig: Rig, error: BaseException) -> str:
    """Have `error` end a poll that has begun a batch; return the id of the batch's message."""
    one, connection = identity(), rig.open()
    connection.deliver(rig.topic, one)
    drain = connection.drain

    drains = itertools.count()

    def drain_or_fail(timeout: float) -> None:
        if next(drains) == 1:
            raise error
        drain(timeout)

    setattr(connection, "drain", drain_or_fail)  # noqa: B010
    with pytest.raises(type(error)):
        rig.poll(LIMIT, batch_size=5, batch_timeout=LIMIT)
    return one


class GreenTimeout(BaseException):
    """What a green library raises in a thread that waits."""


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("error", [ConnectError("no such user", final=True), GreenTimeout()])
def test_the_begun_batch_of_a_poll_that_fails_is_that_of_the_next(
    rigs: Callable[..., Rig], error: BaseException, first: bool
) -> None:
    """The broker redelivers what is not acknowledged, and it would be taken for running."""
    rig = rigs(first=first)
    one = interrupted(rig, error)
    rig.connection.deliver(rig.topic, one, redelivered=True)
    assert rig.ids(None, batch_size=5, batch_timeout=LIMIT) == [one]
    assert rig.ids() == []


def test_a_begun_batch_that_is_not_polled_again_returns_to_its_queue(
    rigs: Callable[..., Rig],
) -> None:
    rig = rigs(first=False)
    one = interrupted(rig, GreenTimeout())
    rig.listener.close()
    assert rig.connection.settled == [("nack", 1)]
    other = rigs(first=False)
    other.topic = rig.topic
    other.listener._consumers[0].subscription = rig.listener._consumers[0].source.subscription()
    other.open().deliver(rig.topic, one, redelivered=True)
    assert other.ids() == [one]


@pytest.mark.skipif(MODEL != "native", reason="a signal handler of Python's own")
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("redelivered", [True, False])
def test_a_message_whose_start_is_interrupted_is_handed_out_by_the_next_poll(
    rigs: Callable[..., Rig], first: bool, redelivered: bool
) -> None:
    """Unsettled and forgotten, it would take a place of the prefetch for as long as it lasts."""
    rig = rigs(first=first)
    connection, ids = rig.open(), [""]

    def deliver() -> None:
        ids.append(identity())
        connection.deliver(rig.topic, ids[-1], redelivered=redelivered)
        connection.drain(0)

    def after() -> None:
        found = [*rig.poll(0.0), *rig.poll(0.0)]
        if found or not (first and redelivered):
            (one,) = found
            assert one.message_id == ids[-1]
            one.acknowledge()
        # Of one that may have been begun, at most once is kept: then it is settled.
        assert ("ack", len(ids) - 1) in connection.settled
        deliver()

    deliver()
    assert interrupt_everywhere(lambda: rig.poll(LIMIT), after)


@pytest.mark.skipif(MODEL != "native", reason="a signal handler of Python's own")
def test_a_message_whose_start_is_interrupted_may_return_to_its_queue(
    rigs: Callable[..., Rig],
) -> None:
    rig = rigs(first=False)
    connection, ids = rig.open(), [""]

    def deliver() -> None:
        ids.append(identity())
        connection.deliver(rig.topic, ids[-1], redelivered=True)
        connection.drain(0)

    def after() -> None:
        number = len(rig.listener._begun)
        rig.listener._begun.clear()
        rig.listener._inbox.return_to_queue(stopped=False)
        if not number:
            assert connection.settled[-1][0] == "nack"
            connection.deliver(rig.topic, ids[-1], redelivered=True)
            assert rig.ids() == [ids[-1]]
        deliver()

    deliver()
    assert interrupt_everywhere(lambda: rig.poll(LIMIT), after)


def test_a_quorum_queue_does_not_drop_what_was_requeued_often(rigs: Callable[..., Rig]) -> None:
    """It counts, and RabbitMQ 4 drops a message after 20: a new copy is counted anew."""
    rig, one, other = rigs(), identity(), identity()
    connection = rig.open()
    for identity_, count in ((one, 5), (other, 4)):
        headers = {"x-delivery-count": count}
        connection.deliver(rig.topic, identity_, redelivered=True, headers=headers)
    assert rig.ids() == [other]
    assert rig.retries.renewed == [one]
    assert connection.settled == [("ack", 1), ("ack", 2)]
