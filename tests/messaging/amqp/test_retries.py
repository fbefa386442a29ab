"""Where a message waits that is to be handled later, and where it ends."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from hbshim.errors import TopologyError
from hbshim.messaging.amqp.connection import Queue
from hbshim.messaging.amqp.options import AmqpOptions
from hbshim.messaging.amqp.retries import Retries, own_headers
from hbshim.protocol.messages import Message

QUEUE = "openstack_notification.events.error"


class Broker:
    """Sender and connection: notes what is stored, and refuses as RabbitMQ does."""

    def __init__(self, *there: Queue, code: int = 406) -> None:
        self.there = {queue.name: queue for queue in there}
        self.code = code
        self.stored: list[Message] = []

    def declare(self, work: Callable[[Any], None], _deadline: float) -> None:
        work(self)

    def declare_queue(self, queue: Queue, _deadline: float) -> None:
        there = self.there.setdefault(queue.name, queue)
        if there.declaration() != queue.declaration():
            raise TopologyError("inequivalent arg", self.code)

    def send_confirmed(self, message: Message, *_how: Any) -> None:
        assert message.routing_key in self.there
        self.stored.append(message)


def retries(broker: Broker, **options: Any) -> Retries:
    return Retries(broker, AmqpOptions(**options))


def message() -> Message:
    return Message(b"{}", "", QUEUE)


@pytest.mark.parametrize("before", [False, True], ids=["classic", "quorum"])
def test_a_waiting_queue_of_the_other_type_is_used(before: bool) -> None:
    """The option `quorum_queues` has changed since it was declared."""
    earlier = Broker()
    retries(earlier, quorum_queues=before).retry(message(), QUEUE, 1)
    broker = Broker(*earlier.there.values())
    assert retries(broker, quorum_queues=not before).retry(message(), QUEUE, 1) == ""
    assert [each.routing_key for each in broker.stored] == [f"{QUEUE}.retry.500"]


def test_a_waiting_queue_that_returns_nothing_is_not_used() -> None:
    broker = Broker(Queue(f"{QUEUE}.retry.500"))
    with pytest.raises(TopologyError):
        retries(broker).retry(message(), QUEUE, 1)
    assert broker.stored == []


@pytest.mark.parametrize(
    "there",
    [Queue("", quorum=True), Queue("", arguments={"x-max-length": 1000})],
    ids=["quorum", "bounded"],
)
def test_a_dead_letter_queue_is_used_as_it_is(there: Queue) -> None:
    """An operator may have declared it; else its messages would be tried for ever."""
    broker = Broker(dataclasses.replace(there, name=f"{QUEUE}.dead"))
    assert retries(broker).retry(message(), QUEUE, 10) == f"{QUEUE}.dead"
    assert len(broker.stored) == 1


def test_a_dead_letter_queue_that_cannot_be_used_is_an_error() -> None:
    """It is exclusive to another connection."""
    broker = Broker(Queue(f"{QUEUE}.dead", quorum=True), code=405)
    with pytest.raises(TopologyError):
        retries(broker).retry(message(), QUEUE, 10)
    assert broker.stored == []


def test_pauses_double_up_to_the_longest_however_many_there_are() -> None:
    broker = Broker()
    waiting = retries(broker, notification_retry_attempts=10**6)
    for attempts in (1, 2, 8, 5000):
        waiting.retry(message(), QUEUE, attempts)
    pauses = [int(each.routing_key.rpartition(".")[2]) for each in broker.stored]
    assert pauses == [500, 1000, 60_000, 60_000]


def test_a_header_whose_name_is_not_utf8_is_left_out() -> None:
    headers: Any = {b"\xff": 1, "mine": 2, "x-death": []}
    assert own_headers(headers) == {"mine": 2}
