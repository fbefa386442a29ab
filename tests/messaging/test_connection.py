"""The contract of a connection: the same for every library, in every concurrency model."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import pytest

from hbshim.errors import (
    ConnectionLostError,
    MessagingError,
    PayloadError,
    RejectedError,
    TopologyError,
    UnroutableError,
)
from hbshim.messaging.amqp.connection import Connection, Queue
from hbshim.messaging.hosts import Host
from hbshim.protocol.messages import DIRECT_REPLY, PERSISTENT, Delivery, Message
from tests.messaging.conftest import LIMIT, connect, drain_until, unique
from tests.messaging.connections import Drainer, message
from tests.waiting import wait_until

Opened = Callable[..., Connection]


# -- messages ------------------------------------------------------------------


def test_a_message_arrives_and_is_acknowledged(connection: Connection, opened: Opened) -> None:
    other = opened()
    name = unique("queue")
    connection.declare_queue(Queue(name, expires=60))
    arrived: list[Delivery] = []
    connection.consume(name, arrived.append)
    connection.publish(message(name))
    drain_until(connection, lambda: arrived)
    (delivery,) = arrived
    assert (delivery.body, delivery.routing_key, delivery.redelivered) == (b"body", name, False)
    assert delivery.connection is connection
    connection.acknowledge(delivery.tag)
    connection.close()
    assert other.delete_queue(name) == 0


def test_what_was_not_acknowledged_goes_back(connection: Connection, opened: Opened) -> None:
    other = opened()
    name = unique("queue")
    connection.declare_queue(Queue(name, expires=60))
    arrived: list[Delivery] = []
    connection.consume(name, arrived.append)
    connection.publish(message(name))
    drain_until(connection, lambda: arrived)
    connection.close()
    wait_until(lambda: other.queue_exists(name))
    again: list[Delivery] = []
    other.consume(name, again.append)
    drain_until(other, lambda: again)
    assert again[0].redelivered
    other.delete_queue(name)


def test_requeue(connection: Connection, queue: str) -> None:
    arrived: list[Delivery] = []
    connection.consume(queue, arrived.append)
    connection.publish(message(queue))
    drain_until(connection, lambda: arrived)
    connection.requeue(arrived[0].tag)
    drain_until(connection, lambda: len(arrived) == 2)
    assert (arrived[1].body, arrived[1].redelivered) == (b"body", True)


def test_every_property_arrives_as_it_was_sent(connection: Connection, queue: str) -> None:
    arrived: list[Delivery] = []
    connection.consume(queue, arrived.append)
    sent = message(
        queue,
        content_type="text/plain",
        message_id="an-id",
        correlation_id="a-correlation",
        reply_to="somewhere",
        deadline=time.monotonic() + 12.345,
        delivery_mode=PERSISTENT,
        type="a-type",
        headers={"number": 1, "text": "wörd", "yes": True, "list": [1, "two"], "map": {"a": None}},
    )
    connection.publish(sent)
    drain_until(connection, lambda: arrived)
    (delivery,) = arrived
    for name in ("body", "content_type", "message_id", "correlation_id", "reply_to", "type"):
        assert getattr(delivery, name) == getattr(sent, name), name
    assert delivery.headers == sent.headers
    assert delivery.expiration == pytest.approx(12.345, abs=LIMIT / 10)


def test_a_message_without_properties_has_none(connection: Connection, queue: str) -> None:
    arrived: list[Delivery] = []
    connection.consume(queue, arrived.append)
    connection.publish(message(queue, b""))
    drain_until(connection, lambda: arrived)
    (delivery,) = arrived
    assert delivery.body == b""
    assert delivery.headers == {}
    assert delivery.message_id is delivery.correlation_id is delivery.reply_to is None
    assert delivery.expiration is None
    assert delivery.type is None


def test_a_body_of_many_frames(connection: Connection, queue: str) -> None:
    arrived: list[Delivery] = []
    connection.consume(queue, arrived.append)
    body = os.urandom(1_000_003)
    connection.publish(message(queue, body), LIMIT)
    connection.publish_confirmed(message(queue, body), LIMIT)
    drain_until(connection, lambda: len(arrived) == 2)
    assert [delivery.body == body for delivery in arrived] == [True, True]


def test_direct_reply(connection: Connection, opened: Opened) -> None:
    server = opened()
    name = unique("queue")
    server.declare_queue(Queue(name, expires=60))

    def reply(request: Delivery) -> None:
        assert request.reply_to is not None
        correlation = request.correlation_id
        server.publish(Message(request.body * 2, "", request.reply_to, correlation_id=correlation))

    server.consume(name, reply, acknowledged=False)
    replies: list[Delivery] = []
    connection.consume(DIRECT_REPLY, replies.append, acknowledged=False)
    connection.publish(message(name, b"ab", reply_to=DIRECT_REPLY, correlation_id="number"))
    server.drain(LIMIT)
    drain_until(connection, lambda: replies)
    assert (replies[0].body, replies[0].correlation_id) == (b"abab", "number")
    server.delete_queue(name)


# -- confirms ------------------------------------------------------------------


def test_a_confirmed_message_is_there(connection: Connection, queue: str) -> None:
    connection.publish_confirmed(message(queue), LIMIT)
    assert connection.delete_queue(queue) == 1


def test_unroutable(connection: Connection, queue: str) -> None:
    with pytest.raises(UnroutableError, match="nowhere"):
        connection.publish_confirmed(message("nowhere"), LIMIT)
    connection.publish_confirmed(message(queue), LIMIT)
    with pytest.raises(UnroutableError, match="nowhere"):
        connection.publish_confirmed(message("nowhere"), LIMIT)
    assert connection.delete_queue(queue) == 1


def test_rejected(connection: Connection) -> None:
    name = unique("queue")
    full = {"x-max-length": 1, "x-overflow": "reject-publish"}
    connection.declare_queue(Queue(name, exclusive=True, arguments=full))
    connection.publish_confirmed(message(name), LIMIT)
    with pytest.raises(RejectedError):
        connection.publish_confirmed(message(name), LIMIT)
    assert connection.delete_queue(name) == 1


class InterruptError(BaseException):
    """As a signal handler raises it."""


def test_a_confirm_is_never_taken_for_that_of_another_message(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker counts a message that is out, whatever kept this side from counting it."""
    name = unique("queue")
    full = {"x-max-length": 1, "x-overflow": "reject-publish"}
    connection.declare_queue(Queue(name, exclusive=True, arguments=full))
    with pytest.raises(UnroutableError):
        connection.publish_confirmed(message("nowhere"), LIMIT)

    def interrupted(*_: object) -> None:
        raise InterruptError

    monkeypatch.setattr("hbshim.messaging.amqp.confirms.Confirms.published", interrupted)
    with pytest.raises(InterruptError):
        connection.publish_confirmed(message(name), LIMIT)
    monkeypatch.undo()
    # The next one is refused, as the queue is full by now.
    with pytest.raises((ConnectionLostError, RejectedError)):
        connection.publish_confirmed(message(name), LIMIT)


def test_confirmed_to_an_exchange_that_is_not_there(connection: Connection, queue: str) -> None:
    with pytest.raises(TopologyError, match="no exchange"):
        connection.publish_confirmed(Message(b"", "not-there", "key"), LIMIT)
    connection.publish_confirmed(message(queue), LIMIT)
    assert connection.delete_queue(queue) == 1


# -- exchanges and queues ------------------------------------------------------


def test_an_exchange_and_a_binding(connection: Connection, queue: str) -> None:
    exchange = "amq.topic"
    connection.declare_exchange(exchange, "topic")
    connection.bind(queue, exchange, "a.#")
    connection.publish_confirmed(Message(b"", exchange, "a.b.c"), LIMIT)
    assert connection.delete_queue(queue) == 1


def test_an_exchange_of_another_type(connection: Connection) -> None:
    with pytest.raises(TopologyError, match="type"):
        connection.declare_exchange("amq.direct", "fanout")
    connection.declare_exchange("amq.direct", "direct")


def test_a_queue_of_other_properties(connection: Connection, queue: str) -> None:
    with pytest.raises(TopologyError, match=queue):
        connection.declare_queue(Queue(queue, exclusive=True, expires=60))
    connection.declare_queue(Queue(queue, exclusive=True))


def test_another_connections_queue(opened: Opened, queue: str) -> None:
    other = opened()
    assert other.queue_exists(queue)
    for use in (
        lambda: other.declare_queue(Queue(queue, exclusive=True)),
        lambda: other.consume(queue, print),
    ):
        with pytest.raises(TopologyError, match="exclusive"):
            use()
    assert other.is_open


def test_whether_a_queue_is_there(connection: Connection) -> None:
    name = unique("queue")
    assert not connection.queue_exists(name)
    connection.declare_queue(Queue(name, exclusive=True))
    assert connection.queue_exists(name)
    assert connection.delete_queue(name) == 0
    assert not connection.queue_exists(name)
    assert connection.delete_queue(name) == 0


@pytest.mark.parametrize("missing", ["queue", "exchange"])
def test_binding_what_is_not_there(connection: Connection, queue: str, missing: str) -> None:
    with pytest.raises(TopologyError, match="not-there"):
        if missing == "queue":
            connection.bind("not-there", "amq.direct", "key")
        else:
            connection.bind(queue, "not-there", "key")
    connection.bind(queue, "amq.direct", "key")


def test_deleting_a_queue_that_is_needed(connection: Connection, queue: str) -> None:
    connection.publish_confirmed(message(queue), LIMIT)
    with pytest.raises(TopologyError, match=queue):
        connection.delete_queue(queue, if_empty=True)
    arrived: list[Delivery] = []
    connection.consume(queue, arrived.append)
    with pytest.raises(TopologyError, match=queue):
        connection.delete_queue(queue, if_unused=True)
    drain_until(connection, lambda: arrived)


def test_a_quorum_queue(connection: Connection) -> None:
    name = unique("quorum")
    connection.declare_queue(Queue(name, quorum=True))
    connection.publish_confirmed(message(name), LIMIT)
    assert connection.delete_queue(name) == 1


def test_a_name_that_is_too_long(connection: Connection) -> None:
    with pytest.raises(MessagingError, match="255"):
        connection.declare_queue(Queue("q" * 256, exclusive=True))
    with pytest.raises(MessagingError, match="255"):
        connection.publish(message("q" * 256))
    assert not connection.queue_exists(unique("queue"))


def test_a_header_that_amqp_has_no_type_for(connection: Connection, queue: str) -> None:
    with pytest.raises(PayloadError, match="headers"):
        connection.publish(message(queue, headers={"odd": object()}))
    connection.publish_confirmed(message(queue), LIMIT)
    assert connection.delete_queue(queue) == 1


# -- consumers -----------------------------------------------------------------


def test_a_prefetch_count_is_kept(connection: Connection, queue: str) -> None:
    connection.set_prefetch(2)
    arrived: list[Delivery] = []
    for _ in range(5):
        connection.publish_confirmed(message(queue), LIMIT)
    connection.consume(queue, arrived.append)
    drain_until(connection, lambda: len(arrived) >= 2)
    # What the broker sent before it answered has arrived with the answer.
    assert connection.queue_exists(queue)
    connection.drain(0)
    assert len(arrived) == 2
    for delivery in arrived[:]:
        connection.acknowledge(delivery.tag)
    drain_until(connection, lambda: len(arrived) == 4)


def test_a_consumer_of_priority_goes_first(
    connection: Connection, opened: Opened, queue: str
) -> None:
    arrived: list[str] = []
    connection.consume(queue, lambda _: arrived.append("usual"), acknowledged=False)
    connection.consume(queue, lambda _: arrived.append("first"), acknowledged=False, priority=5)
    for _ in range(4):
        connection.publish(message(queue))
    drain_until(connection, lambda: len(arrived) == 4)
    assert arrived == ["first"] * 4


def test_a_cancelled_consumer_gets_nothing_more(connection: Connection, queue: str) -> None:
    arrived: list[Delivery] = []
    tag = connection.consume(queue, arrived.append)
    connection.publish(message(queue))
    drain_until(connection, lambda: arrived)
    connection.cancel(tag)
    connection.cancel(tag)
    connection.acknowledge(arrived[0].tag)
    connection.publish_confirmed(message(queue), LIMIT)
    connection.drain(0)
    assert len(arrived) == 1
    assert connection.delete_queue(queue) == 1


def test_a_consumer_that_is_stopped_reports_when_nothing_comes_any_more(
    connection: Connection, opened: Opened, queue: str
) -> None:
    """What the broker delivered until then can be given back."""
    seen: list[str] = []

    def on_delivery(delivery: Delivery) -> None:
        seen.append("delivery")
        connection.requeue(delivery.tag)

    for number in range(3):
        connection.publish_confirmed(message(queue, b"%d" % number), LIMIT)
        tag = connection.start_consumer(queue, on_delivery, on_cancelled=lambda _reason: None)
        connection.stop_consumer(tag, lambda: seen.append("stopped"))
        drain_until(connection, lambda number=number: seen.count("stopped") == number + 1)  # type: ignore[misc]
        assert seen[-1] == "stopped"
    connection.stop_consumer(tag)
    # Nothing is lost: what was delivered is requeued, by the consumer or behind its end.
    bodies: set[bytes] = set()
    connection.consume(queue, lambda delivery: bodies.add(delivery.body))
    drain_until(connection, lambda: bodies == {b"0", b"1", b"2"})


def test_a_queue_deleted_under_its_consumer(
    connection: Connection, opened: Opened, queue: str
) -> None:
    name = unique("queue")
    connection.declare_queue(Queue(name, expires=60))
    cancelled: list[str] = []
    connection.consume(name, print, on_cancelled=lambda _reason: cancelled.append(name))
    connection.consume(queue, print, on_cancelled=lambda _reason: cancelled.append(queue))
    opened().delete_queue(name)
    drain_until(connection, lambda: cancelled)
    assert cancelled == [name]


def test_an_error_leaves_the_consumers_alone(connection: Connection, queue: str) -> None:
    arrived: list[Delivery] = []
    connection.consume(queue, arrived.append, on_cancelled=lambda _reason: pytest.fail("cancelled"))
    for refused in (
        lambda: connection.consume("not-there", print),
        lambda: connection.declare_exchange("amq.direct", "fanout"),
        lambda: connection.bind(queue, "not-there", "key"),
    ):
        with pytest.raises(TopologyError):
            refused()
    connection.publish(message(queue))
    drain_until(connection, lambda: arrived)
    connection.acknowledge(arrived[0].tag)
    assert connection.is_open


def test_publishing_to_an_exchange_that_is_not_there_ends_the_consumers(
    connection: Connection, queue: str
) -> None:
    """The broker closes the channel; the connection goes on, and old tags are known as such."""
    cancelled: list[bool] = []
    arrived: list[Delivery] = []
    connection.consume(queue, arrived.append, on_cancelled=lambda _reason: cancelled.append(True))
    connection.publish(message(queue))
    drain_until(connection, lambda: arrived)
    connection.publish(Message(b"", "not-there", "key"))
    drain_until(connection, lambda: cancelled)
    connection.consume(queue, arrived.append)
    drain_until(connection, lambda: len(arrived) == 2)
    assert arrived[1].redelivered
    connection.acknowledge(arrived[0].tag)
    connection.acknowledge(arrived[1].tag)
    connection.publish(message(queue))
    drain_until(connection, lambda: len(arrived) == 3)
    assert not arrived[2].redelivered
    assert connection.is_open


def test_a_consumer_without_a_callback_does_not_end_unnoticed(
    connection: Connection, queue: str
) -> None:
    connection.consume(queue, print)
    connection.publish(Message(b"", "not-there", "key"))
    with pytest.raises(ConnectionLostError):
        drain_until(connection, lambda: False)
    assert not connection.is_open


def test_publishing_to_an_exchange_that_is_not_there_does_not_stop_a_publisher(
    connection: Connection, queue: str
) -> None:
    connection.publish(Message(b"", "not-there", "key"))
    for _ in range(20):
        connection.publish(message(queue))
        # The broker's answer means that it has seen to what was sent before.
        assert connection.queue_exists(queue)
    connection.publish_confirmed(message(queue), LIMIT)
    # Those that it took for the closed channel are gone, as are all that nothing waits for.
    assert connection.delete_queue(queue) > 1


def test_an_error_of_a_consumers_function_is_raised_and_nothing_is_lost(
    connection: Connection, queue: str
) -> None:
    arrived: list[Delivery] = []

    def consumer(delivery: Delivery) -> None:
        arrived.append(delivery)
        if len(arrived) == 1:
            raise RuntimeError("of the consumer")

    connection.consume(queue, consumer)
    for _ in range(3):
        connection.publish(message(queue))
    with pytest.raises(RuntimeError, match="of the consumer"):
        drain_until(connection, lambda: False)
    drain_until(connection, lambda: len(arrived) == 3)


def test_a_consumers_function_may_use_the_connection(connection: Connection, queue: str) -> None:
    further = unique("queue")
    arrived: list[Delivery] = []

    def consumer(delivery: Delivery) -> None:
        connection.acknowledge(delivery.tag)
        connection.declare_queue(Queue(further, exclusive=True))
        connection.publish_confirmed(message(further), LIMIT)
        connection.consume(further, arrived.append)

    connection.consume(queue, consumer)
    connection.publish(message(queue))
    drain_until(connection, lambda: arrived)
    assert arrived[0].routing_key == further


# -- waiting, and other threads ------------------------------------------------


def test_draining_takes_no_longer_than_it_may(connection: Connection) -> None:
    began = time.monotonic()
    connection.drain(0)
    connection.drain(0.1)
    assert 0.1 <= time.monotonic() - began < LIMIT


def test_waking_from_another_thread(connection: Connection) -> None:
    drainer = Drainer(connection)
    connection.wake()
    assert drainer.ends()


def test_a_wake_up_survives_a_question_to_the_broker(connection: Connection, queue: str) -> None:
    connection.wake()
    assert connection.queue_exists(queue)
    began = time.monotonic()
    connection.drain(LIMIT)
    assert time.monotonic() - began < LIMIT / 2


def test_publishing_and_acknowledging_while_another_thread_drains(
    connection: Connection, queue: str
) -> None:
    count = 200
    arrived: list[Delivery] = []
    stopped = threading.Event()

    def drain() -> None:
        while not stopped.is_set():
            connection.drain(LIMIT)

    def publish() -> None:
        for _ in range(count):
            connection.publish(message(queue, b"x" * 3000))

    connection.set_prefetch(10)
    connection.consume(queue, arrived.append)
    threads = [threading.Thread(target=publish) for _ in range(3)]
    threads.append(threading.Thread(target=drain))
    for thread in threads:
        thread.start()
    settled = 0

    def all_settled() -> bool:
        nonlocal settled
        while settled < len(arrived):
            connection.acknowledge(arrived[settled].tag)
            settled += 1
        return settled == 3 * count

    wait_until(all_settled, 2 * LIMIT)
    stopped.set()
    connection.wake()
    for thread in threads:
        thread.join(LIMIT)
        assert not thread.is_alive()
    assert {delivery.body for delivery in arrived} == {b"x" * 3000}
    assert not any(delivery.redelivered for delivery in arrived)


def test_closing_while_another_thread_drains(connection: Connection) -> None:
    drainer = Drainer(connection)
    connection.publish(message("nowhere"))
    connection.close()
    assert drainer.ends()
    assert drainer.error is None or isinstance(drainer.error, ConnectionLostError)
    assert not connection.is_open


# -- both libraries ------------------------------------------------------------


def errors_and_events(library: str, host: Host) -> list[str]:
    """What a connection over `library` says of everything that can go wrong, in order."""
    connection = connect(library, host)
    name = f"the-same-name-over-both-libraries-{os.getpid()}"
    connection.declare_queue(Queue(name, exclusive=True))
    attempts: list[Callable[[], object]] = [
        lambda: connection.declare_queue(Queue(name, exclusive=True, expires=60)),
        lambda: connection.declare_queue(Queue("q" * 256)),
        lambda: connection.declare_queue(Queue("q", arguments={"odd": 1j})),
        lambda: connection.declare_exchange("amq.direct", "fanout"),
        lambda: connection.bind(name, "not-there", "key"),
        lambda: connection.consume("not-there", print),
        lambda: connection.publish(message("q" * 256)),
        lambda: connection.publish(message(name, headers={"odd": 1j})),
        lambda: connection.publish(message(name, headers={"k" * 256: 1})),
        lambda: connection.publish_confirmed(message("nowhere"), LIMIT),
        lambda: connection.publish_confirmed(Message(b"", "not-there", "key"), LIMIT),
    ]
    said: list[str] = []
    for attempt in attempts:
        with pytest.raises(MessagingError) as caught:
            attempt()
        said.append(f"{type(caught.value).__name__}: {caught.value}")
    closed: list[str] = []
    connection.on_channel_closed = lambda code, text: closed.append(f"{code} {text}")
    connection.consume(name, print, on_cancelled=lambda reason: closed.append(str(reason)))
    connection.publish(Message(b"", "not-there", "key"))
    drain_until(connection, lambda: len(closed) == 2)
    connection.close()
    with pytest.raises(ConnectionLostError) as lost:
        connection.publish(message(name))
    return [*said, *closed, str(lost.value)]


def test_both_libraries_report_the_same(host: Host) -> None:
    over_pika, over_kombu = (errors_and_events(library, host) for library in ("pika", "kombu"))
    assert over_pika == over_kombu
