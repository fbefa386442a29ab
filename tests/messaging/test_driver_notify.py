"""The contract of the drivers, NOTIFY: what is sent is stored until somebody has handled it."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from hbshim.errors import PayloadError
from hbshim.messaging.amqp.driver import AmqpDriver
from hbshim.messaging.amqp.retries import dead_letter_name
from hbshim.messaging.base import Payload
from hbshim.messaging.notify import (
    PRIORITIES,
    REQUEUE,
    Notification,
    NotificationServer,
    Notifier,
)
from hbshim.messaging.target import Target
from tests.messaging.conftest import LIMIT, unique
from tests.waiting import wait_until

Listen = Callable[..., NotificationServer]


class Endpoint:
    """Notes what comes; `info` gives back, or fails on, what it is told to."""

    def __init__(self) -> None:
        self.got: list[tuple[str, Any]] = []
        self.ids: list[str] = []
        self.once: dict[str, object] = {}

    def info(self, notification: Notification) -> object:
        self._note(notification)
        outcome = self.once.pop(notification.payload, None)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def error(self, notification: Notification) -> None:
        self._note(notification)

    def _note(self, notification: Notification) -> None:
        self.ids.append(notification.message_id)
        self.got.append((notification.priority, notification.payload))

    @property
    def payloads(self) -> list[Any]:
        return [payload for _, payload in self.got]


class Batches:
    """Notes the batches that come."""

    def __init__(self) -> None:
        self.got: list[list[Any]] = []

    def info(self, notifications: Sequence[Notification]) -> None:
        self.got.append([notification.payload for notification in notifications])


@pytest.fixture
def topic() -> str:
    return unique("events")


@pytest.fixture
def notifier(driver: AmqpDriver, topic: str) -> Notifier:
    return Notifier(driver, topic, "service.host", timeout=LIMIT)


@pytest.fixture
def listen(driver: AmqpDriver, topic: str) -> Iterator[Listen]:
    """Start listeners; each is stopped when the test ends."""
    started: list[NotificationServer] = []

    def start(*endpoints: object, **how: Any) -> NotificationServer:
        started.append(NotificationServer(driver, [topic], endpoints, **how))
        assert started[-1].start(LIMIT)
        return started[-1]

    yield start
    for server in started:
        server.stop(LIMIT)


def test_stored_before_anybody_listens(notifier: Notifier, listen: Listen) -> None:
    for number in range(10):
        notifier.info("event", number)
    notifier.error("event", "failed")
    endpoint = Endpoint()
    listen(endpoint)
    wait_until(lambda: len(endpoint.got) == 11, LIMIT)
    assert [payload for kind, payload in endpoint.got if kind == "info"] == list(range(10))
    assert [payload for kind, payload in endpoint.got if kind == "error"] == ["failed"]


def test_each_priority_is_a_topic_of_its_own(
    notifier: Notifier, listen: Listen, topic: str, driver: AmqpDriver
) -> None:
    for priority in PRIORITIES:
        getattr(notifier, priority)("event", priority)
    endpoint = Endpoint()
    listen(endpoint)
    wait_until(lambda: len(endpoint.got) == 2, LIMIT)
    exchange = driver.options.default_notification_exchange
    left = [
        driver._sender.with_connection(
            lambda found, priority=priority: found.connection.delete_queue(
                f"{exchange}.{topic}.{priority}"
            ),
            time.monotonic() + LIMIT,
        )
        for priority in PRIORITIES
        if priority not in ("info", "error")
    ]
    assert left == [1, 1, 1, 1, 1]
    assert sorted(endpoint.payloads) == ["error", "info"]


def test_what_a_notification_tells(notifier: Notifier, listen: Listen) -> None:
    found: list[Notification] = []

    class Whole:
        def warn(self, notification: Notification) -> None:
            found.append(notification)

    listen(Whole())
    notifier.warn("instance.created", {"id": 7})
    wait_until(lambda: found, LIMIT)
    (one,) = found
    assert (one.event_type, one.payload, one.priority) == ("instance.created", {"id": 7}, "warn")
    assert one.publisher_id == "service.host"


def test_requeued(notifier: Notifier, listen: Listen) -> None:
    """Returned, or failed on, it comes again; it is the same, and known as such."""
    errors: list[BaseException] = []
    endpoint = Endpoint()
    endpoint.once = {"again": REQUEUE, "fails": ValueError("once")}
    listen(endpoint, on_error=errors.append)
    for payload in ("again", "fails", "well"):
        notifier.info("event", payload)
    wait_until(lambda: len(endpoint.got) == 5, LIMIT)
    assert sorted(endpoint.payloads) == ["again", "again", "fails", "fails", "well"]
    assert len(set(endpoint.ids)) == 3
    assert [str(error) for error in errors] == ["once"]


class Failing:
    """Fails on "bad", each time."""

    def __init__(self) -> None:
        self.got: list[Any] = []

    def info(self, notification: Notification) -> None:
        self.got.append(notification.payload)
        if notification.payload == "bad":
            raise ValueError("bad")


@pytest.mark.parametrize("quorum", [False, True], ids=["classic", "quorum"])
def test_one_that_always_fails_ends_in_the_dead_letter_queue(
    quorum: bool,
    drivers: Callable[..., AmqpDriver],
    topic: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After so many attempts, not before; the queues in between go by themselves."""
    driver = drivers(
        quorum_queues=quorum, notification_retry_attempts=3, notification_retry_delay=0.05
    )
    endpoint, errors = Failing(), list[BaseException]()
    name = f"{driver.options.default_notification_exchange}.{topic}.info"
    with NotificationServer(driver, [topic], [endpoint], on_error=errors.append):
        notifier = Notifier(driver, topic, "service.host", timeout=LIMIT)
        for payload in ("bad", "good"):
            notifier.info("event", payload)
        wait_until(lambda: "is in the dead-letter queue" in caplog.text, LIMIT)
    assert sorted(endpoint.got) == ["bad", "bad", "bad", "good"]
    assert [str(error) for error in errors] == ["bad"] * 3
    assert deleted(driver, dead_letter_name(name)) == 1
    assert deleted(driver, name) == 0


def deleted(driver: AmqpDriver, name: str) -> int:
    """How many messages go with a queue."""
    return driver._sender.with_connection(
        lambda sending: sending.connection.delete_queue(name), time.monotonic() + LIMIT
    )


class BatchesWithPoison:
    """Fails on each batch with "bad" in it; counts what it gets."""

    def __init__(self, outcome: object) -> None:
        self.got: Counter[Any] = Counter()
        self._outcome = outcome

    def info(self, notifications: Sequence[Notification]) -> object:
        payloads = [notification.payload for notification in notifications]
        self.got.update(payloads)
        if "bad" not in payloads:
            return None
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome


@pytest.mark.parametrize("outcome", [REQUEUE, ValueError("bad")], ids=["requeue", "raise"])
def test_one_that_fails_does_not_have_its_batch_repeated_again_and_again(
    outcome: object, drivers: Callable[..., AmqpDriver], topic: str
) -> None:
    driver = drivers(notification_retry_attempts=5, notification_retry_delay=0.02)
    endpoint = BatchesWithPoison(outcome)
    notifier = Notifier(driver, topic, "service.host", timeout=LIMIT)
    server = NotificationServer(
        driver, [topic], [endpoint], batch_size=10, batch_timeout=0.5, on_error=lambda _error: None
    )
    payloads = [0, 1, 2, "bad", 4, 5]
    # They are there first, so that they come in one batch.
    server.start(LIMIT)
    server.pause()
    for payload in payloads:
        notifier.info("event", payload)
    server.resume()
    wait_until(lambda: endpoint.got["bad"] == 5, LIMIT)
    assert server.stop(LIMIT)
    assert {payload: endpoint.got[payload] for payload in payloads} == {
        payload: 5 if payload == "bad" else 2 for payload in payloads
    }


def test_batches(notifier: Notifier, listen: Listen) -> None:
    for number in range(12):
        notifier.info("event", number)
    batches = Batches()
    listen(batches, batch_size=5, batch_timeout=1)
    wait_until(lambda: sum(map(len, batches.got)) == 12, LIMIT)
    assert list(itertools.chain(*batches.got)) == list(range(12))
    assert max(map(len, batches.got)) == 5


def test_pools(notifier: Notifier, listen: Listen) -> None:
    """Each pool gets everything, and its members share it."""
    alone, first, second = Endpoint(), Endpoint(), Endpoint()
    listen(alone, pool="a")
    listen(first, pool="b")
    listen(second, pool="b")
    for number in range(30):
        notifier.info("event", number)
    wait_until(lambda: len(alone.got) == len(first.got) + len(second.got) == 30, LIMIT)
    assert sorted(first.payloads + second.payloads) == sorted(alone.payloads) == list(range(30))
    assert first.got
    assert second.got


def test_what_was_not_handled_comes_to_another(notifier: Notifier, listen: Listen) -> None:
    endpoint = Endpoint()
    first = listen(endpoint, prefetch=5)
    first.pause()
    for number in range(5):
        notifier.info("event", number)
    assert first.stop(LIMIT)
    handled = len(endpoint.got)
    listen(endpoint)
    wait_until(lambda: len(endpoint.got) == 5, LIMIT)
    assert handled == 0
    assert sorted(endpoint.payloads) == list(range(5))


def test_what_is_no_notification_does_not_come_for_ever(
    notifier: Notifier, listen: Listen, driver: AmqpDriver, topic: str
) -> None:
    errors: list[BaseException] = []
    endpoint = Endpoint()
    listen(endpoint, on_error=errors.append)
    for body in (b"no JSON", b"[]", b"{}"):
        driver.notify(Target(topic), Payload(body), "info", LIMIT)
    notifier.info("event", "last")
    wait_until(lambda: endpoint.got, LIMIT)
    assert [type(error) for error in errors] == [PayloadError] * 3


def test_what_cannot_be_sent(notifier: Notifier) -> None:
    with pytest.raises(PayloadError, match="priority"):
        notifier.notify("loud", "event", 1)
    with pytest.raises(PayloadError, match="encoded"):
        notifier.info("event", object())
