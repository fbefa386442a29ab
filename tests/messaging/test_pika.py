"""What only the connection over pika does; what every connection does is in test_connection.py."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from hbshim.errors import ConnectionLostError
from hbshim.heartbeat.guard import IDLE_BEFORE_CHECK
from hbshim.messaging import pika
from hbshim.messaging.amqp.connection import METHOD_TIMEOUT, Queue
from hbshim.messaging.amqp.session import Session
from hbshim.messaging.hosts import Host
from hbshim.protocol.messages import Delivery
from tests.messaging.conftest import LIMIT, drain_until, unique
from tests.messaging.connections import Drainer, message
from tests.waiting import wait_until
from wsgi_harness.stack.broker import Broker
from wsgi_harness.wire.relay import Relay


@pytest.fixture
def library() -> str:
    return "pika"


def test_questions_while_another_thread_drains(connection: Session, queue: str) -> None:
    """A reader of an answer that another waits for notifies it, whenever that one last checked."""
    stopped = threading.Event()

    def drain() -> None:
        while not stopped.is_set():
            connection.drain(LIMIT)

    thread = threading.Thread(target=drain, daemon=True)
    thread.start()
    longest = 0.0
    for _ in range(100):
        began = time.monotonic()
        connection.publish_confirmed(message(queue), LIMIT)
        assert connection.queue_exists(queue)
        longest = max(longest, time.monotonic() - began)
    stopped.set()
    connection.wake()
    thread.join(LIMIT)
    assert not thread.is_alive()
    # One that was not notified would have checked again when its time was up.
    assert longest < METHOD_TIMEOUT / 2
    assert connection.delete_queue(queue) == 100


def test_whether_there_is_need_to_wait_is_asked_when_nobody_can_read(
    connection: Session,
) -> None:
    """Else another thread might read the answer in between, and wait on."""
    below, asked = connection._stream, []
    drainer = Drainer(connection)
    wait_until(lambda: below._reading)

    def enough() -> bool:
        asked.append(below.lock._is_owned())  # type: ignore[attr-defined]
        return True

    began = time.monotonic()
    below.receive(LIMIT, enough)
    assert time.monotonic() - began < LIMIT / 2
    assert asked == [True]
    connection.wake()
    assert drainer.ends()


def test_what_is_asked_for_and_not_there_is_no_warning_in_the_log(
    connection: Session, caplog: pytest.LogCaptureFixture
) -> None:
    """pika has one for each channel that the broker closes; here the caller has the answer."""
    with caplog.at_level(logging.WARNING):
        assert not connection.queue_exists(unique("queue"))
    assert caplog.records == []


@pytest.mark.parametrize("frame_max", [8192, 131072, 1 << 20])
def test_any_frame_size(opened: Callable[..., Session], host: Host, frame_max: int) -> None:
    """pika knows none above its own greatest, and RabbitMQ 4 none below 8192."""
    connection = opened(host, frame_max=frame_max)
    name, body = unique("queue"), os.urandom(300_001)
    connection.declare_queue(Queue(name, exclusive=True))
    arrived: list[Delivery] = []
    connection.consume(name, arrived.append)
    connection.publish(message(name, body))
    drain_until(connection, lambda: arrived)
    assert arrived[0].body == body


def test_without_heartbeats_a_peer_that_is_gone_is_noticed_all_the_same(
    opened: Callable[..., Session],
    host: Host,
    broker: Broker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As with a broker that is configured for none, and leaves the choice to it."""

    def without_heartbeats(*arguments: Any, **keywords: Any) -> Any:
        parameters = make_parameters(*arguments, **keywords)
        parameters.heartbeat = 0
        return parameters

    make_parameters = pika.parameters  # type: ignore[attr-defined]
    monkeypatch.setattr(pika, "parameters", without_heartbeats)
    with Relay(broker.host, broker.amqp_port) as relay:
        connection = opened(replace(host, hostname="127.0.0.1", port=relay.port))
        assert connection._stream.library.heartbeat_timeout == 0
        assert not connection.queue_exists(unique("queue"))
        time.sleep(2 * IDLE_BEFORE_CHECK)
        relay.stop()
        wait_until(lambda: relay.seen("closed"), LIMIT)
        with pytest.raises(ConnectionLostError):
            connection.publish(message("nowhere"))
    assert not connection.is_open
