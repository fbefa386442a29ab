"""CALL without a broker: deadlines, and what one caller may do to another."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from hbshim.errors import (
    BrokerBlockedError,
    CallTimeoutError,
    ConnectionLostError,
    OptionError,
    PayloadError,
)
from hbshim.messaging import role, waiting
from hbshim.messaging.amqp import caller as module
from hbshim.messaging.amqp.caller import Caller
from hbshim.messaging.amqp.limits import ACCEPTED
from hbshim.messaging.amqp.options import AmqpOptions
from hbshim.messaging.amqp.topology import Topology
from hbshim.messaging.base import Payload, Reply
from hbshim.messaging.calling import CallRequest
from hbshim.messaging.steps import run
from hbshim.messaging.target import Target
from hbshim.protocol.messages import DIRECT_REPLY
from tests.messaging.amqp.fakes import Clock, FakeConnection, FakeConnector, FakeSender
from tests.waiting import wait_until

#: Seconds for what takes none; the machine may be busy.
LIMIT = 30.0

TARGET = Target("topic")


def caller_over(connector: FakeConnector) -> Caller:
    topology = Topology(AmqpOptions())
    return Caller(connector, FakeSender(connector.limits), topology)  # type: ignore[arg-type]


def call(
    caller: Caller,
    timeout: float = LIMIT,
    *,
    target: Target = TARGET,
    payload: bytes = b"null",
    **named: Any,
) -> Reply:
    # Of the module, for a test may have replaced its clock.
    began = module.time.monotonic()  # type: ignore[attr-defined]
    request = CallRequest(target, Payload(payload), timeout, began=began, **named)
    return run(caller.call_steps(request))


class Calling(threading.Thread):
    """A call in a thread of its own."""

    def __init__(self, caller: Caller, **named: Any) -> None:
        super().__init__(daemon=True)
        self.outcome: Any = None
        self._call: Callable[[], Reply] = lambda: call(caller, **named)
        self.start()

    def run(self) -> None:
        try:
            self.outcome = self._call()
        except Exception as error:
            self.outcome = error


def sent(connector: FakeConnector, count: int) -> FakeConnection:
    """The connection, as soon as it has sent so many requests."""
    wait_until(lambda: connector.opened and len(connector.opened[-1].published) >= count, LIMIT)
    return connector.opened[-1]


def test_the_rest_of_the_time_is_computed_after_connecting(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(waiting, "time", clock)
    monkeypatch.setattr(role, "time", clock)
    connector = FakeConnector()
    caller = caller_over(connector)

    def lose_the_first(_timeout: float) -> None:
        clock.now += 1
        connector.opened[0].lose()

    def slow_to_connect(deadline: float) -> None:
        clock.now += 6 if connector.opened else 0
        assert clock.now < deadline

    def in_vain(timeout: float) -> None:
        clock.now += timeout

    opened = connector.connect
    connector.before = slow_to_connect

    def connect(deadline: float, attempts: int | None = None) -> FakeConnection:
        connection = opened(deadline, attempts)
        connection.on_drain = in_vain if len(connector.opened) > 1 else lose_the_first
        return connection

    monkeypatch.setattr(connector, "connect", connect)
    began = clock.now
    with pytest.raises(CallTimeoutError):
        call(caller, timeout=10)
    assert len(connector.opened) == 2
    assert clock.now - began == pytest.approx(10)


def test_a_broker_that_does_not_answer_on_a_new_connection_in_time_is_a_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of the call that connects, whether its request was sent already or not."""

    def no_answer(*_arguments: Any, **_named: Any) -> None:
        raise BrokerBlockedError("the broker did not open a channel in time")

    monkeypatch.setattr(FakeConnection, "consume", no_answer)
    connector = FakeConnector()
    with pytest.raises(CallTimeoutError, match="did not open a channel"):
        call(caller_over(connector))
    assert [each.is_open for each in connector.opened] == [False]


@pytest.mark.parametrize("ends", ["returns", "raises"])
def test_a_callback_does_not_keep_the_replies_of_others(ends: str) -> None:
    connector = FakeConnector()
    caller = caller_over(connector)
    inside, release = threading.Event(), threading.Event()

    def on_reply(_reply: Reply) -> None:
        inside.set()
        assert release.wait(LIMIT)
        if ends == "raises":
            raise ValueError("the application's own")

    first = Calling(caller, on_reply=on_reply)
    connection = sent(connector, 1)
    others = [Calling(caller) for _ in range(3)]
    sent(connector, 4)
    request, *rest = connection.published
    connection.deliver(request, kind="progress")
    assert inside.wait(LIMIT)
    try:
        for each in rest:
            connection.deliver(each)
        for other in others:
            other.join(LIMIT)
        assert [other.outcome and other.outcome.kind for other in others] == ["result"] * 3
        assert first.is_alive()
    finally:
        release.set()
        connection.deliver(request)
    first.join(LIMIT)
    if ends == "raises":
        assert isinstance(first.outcome, ValueError)
    else:
        assert first.outcome.kind == "result"
    assert not caller._role._waiting
    assert not caller._calls._calls


def test_a_callback_may_call() -> None:
    connector = FakeConnector()
    caller = caller_over(connector)
    inner: list[Reply] = []
    first = Calling(caller, on_reply=lambda _reply: inner.append(call(caller)))
    connection = sent(connector, 1)
    connection.deliver(connection.published[0], kind="progress")
    sent(connector, 2)
    connection.deliver(connection.published[1])
    wait_until(lambda: inner, LIMIT)
    connection.deliver(connection.published[0])
    first.join(LIMIT)
    assert first.outcome.kind == "result"


def test_a_request_says_how_much_time_is_left_when_it_is_sent() -> None:
    connector = FakeConnector()
    caller = caller_over(connector)
    calling = Calling(caller)
    connection = sent(connector, 1)
    message = connection.published[0]
    first = int(message.expiration_text() or "0")
    assert 0 < first <= LIMIT * 1000
    wait_until(lambda: int(message.expiration_text() or "0") < first, LIMIT)
    message.deadline = time.monotonic() - 1
    assert message.expiration_text() == "0"
    connection.deliver(message)
    calling.join(LIMIT)
    assert calling.outcome.kind == "result"


def test_a_short_timeout_does_not_close_the_shared_connection() -> None:
    """The pooled connection of the one whose time is over is closed; no other."""
    connector = FakeConnector()
    caller = caller_over(connector)
    first = Calling(caller)
    connection = sent(connector, 1)

    def not_answered(*_arguments: Any) -> bool:
        raise ConnectionLostError("fake: the broker did not answer in time")

    caller._sender.connection.queue_exists = not_answered  # type: ignore[attr-defined]
    with pytest.raises(CallTimeoutError, match="did not answer"):
        call(caller, timeout=0.2, mandatory=True)
    assert connection.is_open
    # Not asked over the connection that others wait on, nor is its reader disturbed.
    assert connection.declared.count("queue_exists") == 0
    connection.deliver(connection.published[0])
    first.join(LIMIT)
    assert first.outcome.kind == "result"
    assert len(connector.opened) == 1


def test_what_might_close_the_channel_is_sent_over_another_connection() -> None:
    connector = FakeConnector()
    caller = caller_over(connector)
    large = b"x" * (ACCEPTED + 1)
    outcome: list[Reply] = []
    thread = threading.Thread(
        target=lambda: outcome.append(call(caller, payload=large)), daemon=True
    )
    thread.start()
    confirmed = caller._sender.confirmed  # type: ignore[attr-defined]
    wait_until(lambda: confirmed, LIMIT)
    (message,) = confirmed
    assert not connector.opened[0].published
    assert message.reply_to != DIRECT_REPLY
    assert message.reply_to in connector.opened[0].consumers
    connector.opened[0].deliver(message)
    thread.join(LIMIT)
    assert outcome[0].kind == "result"


def test_the_brokers_limit_is_taken_from_its_error() -> None:
    connector = FakeConnector()
    caller = caller_over(connector)
    text = "PRECONDITION_FAILED - message size 101 is larger than configured max size 100"
    connector.limits.refused(406, text, set())
    with pytest.raises(PayloadError, match="max_message_size is 100"):
        call(caller, payload=b"x" * 101)
    assert not connector.opened
    assert connector.limits.known(100, "")


def test_a_driver_that_is_closed_while_it_connects_keeps_no_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connector = FakeConnector()
    caller = caller_over(connector)
    connect = connector.connect

    def closed_meanwhile(*given: Any, **named: Any) -> Any:
        caller.close()
        return connect(*given, **named)

    monkeypatch.setattr(connector, "connect", closed_meanwhile)
    with pytest.raises(ConnectionLostError, match="closed"):
        call(caller)
    assert not connector.opened[-1].is_open


@pytest.mark.parametrize("timeout", [float("nan"), "5", None, 1j])
def test_a_timeout_that_is_none(timeout: Any) -> None:
    with pytest.raises(OptionError, match="number of seconds"):
        call(caller_over(FakeConnector()), timeout)


def test_a_timeout_far_below_zero() -> None:
    with pytest.raises(CallTimeoutError, match="within 0 s"):
        call(caller_over(FakeConnector()), -(10**400))


@pytest.mark.parametrize("sent_already", [False, True], ids=["before the request", "after it"])
def test_a_late_queue_that_is_not_answered_costs_the_connection_and_not_the_call(
    sent_already: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of a blocked broker would mean that the request was not sent."""
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(waiting, "time", clock)
    monkeypatch.setattr(role, "time", clock)
    connector = FakeConnector()
    caller = caller_over(connector)
    consume = FakeConnection.consume

    def consume_or_wait(connection: FakeConnection, queue: str, *given: Any, **named: Any) -> str:
        first = connection is connector.opened[0]
        if first and queue != DIRECT_REPLY and (not sent_already or connection.published):
            clock.now = named["deadline"]
            raise BrokerBlockedError("the broker does not answer in time")
        return consume(connection, queue, *given, **named)

    def drain(connection: FakeConnection, timeout: float) -> None:
        if connection is connector.opened[0]:
            caller._on_late_cancelled(connection)
        else:
            clock.now += timeout

    monkeypatch.setattr(FakeConnection, "consume", consume_or_wait)
    monkeypatch.setattr(FakeConnection, "drain", drain)
    began = clock.now
    with pytest.raises(CallTimeoutError, match="it was sent, but not answered"):
        call(caller, timeout=20)
    assert clock.now - began == pytest.approx(20)
    assert [len(each.published) for each in connector.opened] == [sent_already, not sent_already]


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_calls_are_notified_of_the_end_before_the_connection_is_closed(
    error: type[BaseException] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To close it takes time, and may be interrupted."""
    connector = FakeConnector()
    caller = caller_over(connector)
    waits = Calling(caller)
    sent(connector, 1)

    def close(connection: FakeConnection, _timeout: float = 1.0) -> None:
        connection.wake()
        waits.join(LIMIT)
        if error is not None:
            raise error

    monkeypatch.setattr(FakeConnection, "close", close)
    with pytest.raises(error) if error is not None else contextlib.nullcontext():
        caller.close()
    assert isinstance(waits.outcome, ConnectionLostError)


def test_a_call_whose_message_cannot_be_made_is_forgotten() -> None:
    caller = caller_over(FakeConnector())
    for _ in range(3):
        with pytest.raises(OptionError):
            call(caller, target=Target("\ud800"))
    assert not caller._calls._calls


@pytest.mark.parametrize("make", [Topology.rpc, Topology.results])
def test_none_is_no_lifetime_of_a_queue(make: Any) -> None:
    with pytest.raises(OptionError, match="DEFAULT"):
        make(Topology(AmqpOptions()), TARGET if make is Topology.rpc else "id", None)
