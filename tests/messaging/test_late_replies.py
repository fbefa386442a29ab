"""The queue for late replies is an optimization: without it, calls are answered all the same."""

from __future__ import annotations

import functools
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

import hbshim
from hbshim.errors import ConnectionLostError, TopologyError
from hbshim.messaging.amqp import caller as caller_module
from hbshim.messaging.amqp.caller import Caller
from hbshim.messaging.amqp.connection import Queue, ignore_channel_closed
from hbshim.messaging.amqp.limits import Limits
from hbshim.messaging.amqp.options import AmqpOptions
from hbshim.messaging.amqp.topology import Topology
from hbshim.messaging.base import Payload
from hbshim.messaging.calling import CallRequest
from hbshim.messaging.steps import run
from hbshim.messaging.target import Target
from hbshim.protocol.messages import DIRECT_REPLY, Delivery, Message
from tests.messaging.amqp.fakes import FakeSender

LIMIT = 20.0

Declare = Callable[[Queue], None]


class Connection:
    """Answers each request at once by direct reply-to; queues are declared by `declare`."""

    name = "broker:5672"
    blocked = False
    on_channel_closed = staticmethod(ignore_channel_closed)

    def __init__(self, declare: Declare) -> None:
        self._declare = declare
        self.is_open = True
        self.dropped: list[str] = []
        self.consumers: dict[str, Any] = {}
        self.cancelled: dict[str, Callable[[str | None], None]] = {}
        self.pending: deque[Callable[[], None]] = deque()

    def declare_queue(self, queue: Queue, deadline: float | None = None) -> None:
        self._declare(queue)

    def declare_exchange(self, name: str, kind: str, deadline: float | None = None) -> None:
        self.check()

    def exchange_exists(self, name: str, deadline: float | None = None) -> bool:
        self.check()
        return True

    def bind(
        self, queue: str, exchange: str, routing_key: str, deadline: float | None = None
    ) -> None:
        self.check()

    def set_prefetch(self, count: int, deadline: float | None = None) -> None:
        self.check()

    def consume(self, queue: str, on_delivery: Any, **how: Any) -> str:
        self.check()
        self.consumers[queue] = on_delivery
        if how.get("on_cancelled"):
            self.cancelled[queue] = how["on_cancelled"]
        return queue

    def publish(
        self, message: Message, timeout: float | None = None, unless: object = None
    ) -> bool:
        self.check()
        reply = Delivery(self, 1, b"{}", "", correlation_id=message.correlation_id, type="result")
        self.pending.append(lambda: self.consumers[DIRECT_REPLY](reply))
        return True

    def drain(self, timeout: float) -> None:
        self.check()
        while self.pending:
            self.pending.popleft()()

    def check(self) -> None:
        if not self.is_open:
            raise ConnectionLostError("lost")

    def wake(self) -> None:
        return None

    def close(self, timeout: float = 1.0) -> None:
        self.is_open = False


class Cluster:
    """Opens connections; `refuse` decides about a queue, by its name."""

    refused = "no host has answered yet"

    def __init__(self) -> None:
        self.limits = Limits()
        self.asked: list[Queue] = []
        self.opened: list[Connection] = []
        self.refuse: Callable[[str], None] = lambda name: None

    def connect(self, timeout: float, attempts: int | None = None) -> Connection:
        connection = Connection(self.declare)
        self.opened.append(connection)
        return connection

    def declare(self, queue: Queue) -> None:
        self.asked.append(queue)
        self.refuse(queue.name)

    @property
    def names(self) -> list[str]:
        return [queue.name for queue in self.asked]


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def calls_over(cluster: Cluster, **options: Any) -> Caller:
    topology = Topology(AmqpOptions(**options))
    return Caller(cluster, FakeSender(cluster.limits), topology)  # type: ignore[arg-type]


def call(caller: Caller, timeout: float = LIMIT) -> str:
    request = CallRequest(Target("topic"), Payload(b"{}", "application/json"), timeout)
    return run(caller.call_steps(request)).kind


def refusing(code: int, *, names: int = 10**6) -> Callable[[str], None]:
    """Refuse the first names that are asked for."""
    refused: set[str] = set()

    def refuse(name: str) -> None:
        if len(refused) < names or name in refused:
            refused.add(name)
            raise TopologyError(f"refused ({code})", code)

    return refuse


@pytest.mark.parametrize("code", [404, 405, 406])
def test_a_queue_that_cannot_be_had_gets_another_name(cluster: Cluster, code: int) -> None:
    cluster.refuse = refusing(code, names=1)
    caller = calls_over(cluster)
    assert call(caller) == "result"
    first, second = dict.fromkeys(cluster.names)
    assert first != second
    assert second in cluster.opened[0].consumers


def test_another_name_has_the_same_address(cluster: Cluster) -> None:
    """What was sent to a client before finds the queue that it has now."""
    topology = Topology(AmqpOptions())
    one, two = topology.replies("client"), topology.replies("client", 1)
    assert one.queue.name != two.queue.name
    assert (one.exchange, one.routing_key) == (two.exchange, two.routing_key)


@pytest.mark.parametrize("code", [403, 404, 406])
def test_without_any_queue_calls_are_answered(
    cluster: Cluster, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    hbshim.take_events()
    cluster.refuse = refusing(code)
    caller = calls_over(cluster)
    with caplog.at_level(logging.WARNING, "hbshim.messaging"):
        assert [call(caller) for _ in range(3)] == ["result"] * 3
    assert len(cluster.opened) == 1
    assert cluster.opened[0].is_open
    (event,) = [each for each in hbshim.take_events() if each.kind == "reply-queue-refused"]
    assert str(code) in event.detail
    assert str(code) in caplog.text


def test_a_broker_that_does_not_answer_is_asked_once(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caller_module, "LATE_LIMIT", 0.1)

    def hang(name: str) -> None:
        time.sleep(0.1)
        cluster.opened[-1].is_open = False
        raise ConnectionLostError("no answer in time")

    cluster.refuse = hang
    caller = calls_over(cluster)
    assert call(caller) == "result"
    assert len(cluster.opened) == 2
    assert len(cluster.asked) == 1
    # The next connection asks again, for another queue.
    cluster.refuse = lambda name: None
    cluster.opened[-1].is_open = False
    assert call(caller) == "result"
    assert len(set(cluster.names)) == 2


def test_a_queue_whose_node_dies_is_replaced(cluster: Cluster) -> None:
    caller = calls_over(cluster)
    assert call(caller) == "result"
    (name,) = cluster.names
    cluster.refuse = refusing(404, names=1)
    # The broker ends the consumer alone: the connection goes on.
    cluster.opened[0].pending.append(functools.partial(cluster.opened[0].cancelled[name], None))
    assert call(caller) == "result"
    assert call(caller) == "result"
    assert len(cluster.opened) == 1
    first, again, other = cluster.names
    assert first == again != other
    assert other in cluster.opened[0].consumers


def test_a_connection_that_is_lost_meanwhile_keeps_the_name(cluster: Cluster) -> None:
    """The queue of that name may hold a reply already."""

    def lose(name: str) -> None:
        cluster.refuse = lambda name: None
        cluster.opened[-1].is_open = False
        raise ConnectionLostError("closed by the broker")

    cluster.refuse = lose
    assert call(calls_over(cluster)) == "result"
    assert len(cluster.opened) == 2
    assert len(set(cluster.names)) == 1


@pytest.mark.parametrize("quorum", [True, False])
def test_it_is_replicated_as_the_others_are(cluster: Cluster, quorum: bool) -> None:
    assert call(calls_over(cluster, quorum_queues=quorum)) == "result"
    assert [queue.quorum for queue in cluster.asked] == [quorum]
