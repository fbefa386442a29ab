"""The contract of the drivers, NOTIFY: who gets a notification, and when it is handled again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from hbshim.errors import PayloadError
from hbshim.messaging import (
    REQUEUE,
    Driver,
    Notification,
    NotificationServer,
    Notifier,
    Payload,
    Target,
)
from tests.messaging.conftest import LIMIT, unique
from tests.messaging.contract.laboratory import require_features
from tests.waiting import wait_until

Listen = Callable[..., NotificationServer]


class Endpoint:
    """Notes what arrives; `info` returns or raises, once, what `once` has for a payload."""

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
    """Notes the batches that arrive."""

    def __init__(self) -> None:
        self.got: list[list[Any]] = []

    def info(self, notifications: Sequence[Notification]) -> None:
        self.got.append([notification.payload for notification in notifications])


@pytest.fixture
def topic() -> str:
    return unique("events")


@pytest.fixture
def notifier(driver: Driver, topic: str) -> Notifier:
    return Notifier(driver, topic, "service.host", timeout=LIMIT)


@pytest.fixture
def listen(driver: Driver, topic: str) -> Iterator[Listen]:
    """Start listeners; each is stopped when the test ends."""
    started: list[NotificationServer] = []

    def start(*endpoints: object, **how: Any) -> NotificationServer:
        started.append(NotificationServer(driver, [topic], endpoints, **how))
        assert started[-1].start(LIMIT)
        return started[-1]

    yield start
    for server in started:
        server.stop(LIMIT)


def test_stored_until_a_server_starts(driver: Driver, notifier: Notifier, listen: Listen) -> None:
    require_features(driver, "stores")
    for number in range(10):
        notifier.info("event", number)
    notifier.error("event", "failed")
    endpoint = Endpoint()
    listen(endpoint)
    wait_until(lambda: len(endpoint.got) == 11, LIMIT)
    assert [payload for kind, payload in endpoint.got if kind == "info"] == list(range(10))
    assert [payload for kind, payload in endpoint.got if kind == "error"] == ["failed"]


def test_a_server_gets_the_priorities_that_it_has_methods_for(
    notifier: Notifier, listen: Listen
) -> None:
    endpoint = Endpoint()
    listen(endpoint)
    for priority in ("debug", "info", "audit", "warn", "error", "critical", "sample"):
        getattr(notifier, priority)("event", priority)
    notifier.info("event", "last")
    wait_until(lambda: len(endpoint.got) == 3, LIMIT)
    assert sorted(endpoint.got) == [("error", "error"), ("info", "info"), ("info", "last")]


def test_what_a_notification_contains(notifier: Notifier, listen: Listen) -> None:
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


def test_requeued(driver: Driver, notifier: Notifier, listen: Listen) -> None:
    """One that is returned, or whose handler fails, is handled again, with the same id."""
    require_features(driver, "requeues")
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


class BatchesWithPoison:
    """Fails on each batch with "bad" in it; counts each payload."""

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
def test_one_that_fails_does_not_have_its_batch_repeated(
    outcome: object, drivers: Callable[..., Driver], topic: str
) -> None:
    driver = drivers(notification_retry_attempts=5, notification_retry_delay=0.02)
    require_features(driver, "requeues")
    endpoint = BatchesWithPoison(outcome)
    notifier = Notifier(driver, topic, "service.host", timeout=LIMIT)
    server = NotificationServer(
        driver, [topic], [endpoint], batch_size=6, batch_timeout=LIMIT, on_error=lambda _error: None
    )
    payloads = [0, 1, 2, "bad", 4, 5]
    # All are sent before any is received, so that they are in one batch.
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


def test_batches(driver: Driver, notifier: Notifier, listen: Listen) -> None:
    require_features(driver, "stores")
    for number in range(15):
        notifier.info("event", number)
    batches = Batches()
    listen(batches, batch_size=5, batch_timeout=LIMIT)
    wait_until(lambda: sum(map(len, batches.got)) == 15, LIMIT)
    assert batches.got == [list(range(first, first + 5)) for first in (0, 5, 10)]


def test_batches_as_large_as_the_prefetch(
    driver: Driver, notifier: Notifier, listen: Listen
) -> None:
    batches = Batches()
    listen(batches, batch_size=6, batch_timeout=2 * LIMIT, prefetch=6)
    sent: list[list[int]] = []
    for first in (0, 6, 12):
        # Each is sent when nothing of the one before is held any more.
        sent.append(list(range(first, first + 6)))
        for number in sent[-1]:
            notifier.info("event", number)
        wait_until(lambda: batches.got == sent, LIMIT)


def test_pools(driver: Driver, notifier: Notifier, listen: Listen) -> None:
    """Each pool gets everything, and its members share it."""
    require_features(driver, "pools")
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


def test_what_was_not_handled_goes_to_another_server(
    driver: Driver, notifier: Notifier, listen: Listen
) -> None:
    require_features(driver, "stores")
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


def test_a_message_that_is_no_notification_is_dropped(
    notifier: Notifier, listen: Listen, driver: Driver, topic: str
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
