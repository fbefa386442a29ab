"""What a notifier does with several topics, without a broker."""

from __future__ import annotations

import time
from typing import Any

import pytest

from hbshim.errors import DeliveryError, RejectedError
from hbshim.messaging.notify import Notifier
from hbshim.messaging.target import Target


class Driver:
    """Stores what is for a topic that it knows; each takes `seconds`."""

    payload_limit = 1000

    def __init__(self, refused: str = "", seconds: float = 0.0) -> None:
        self.refused, self.seconds = refused, seconds
        self.given: list[float] = []

    def notify(self, target: Target, _payload: Any, _priority: str, timeout: float) -> None:
        self.given.append(timeout)
        time.sleep(self.seconds)
        if target.topic == self.refused:
            raise RejectedError("the queue is full")


def notifier(driver: Driver, timeout: float = 10.0) -> Notifier:
    return Notifier(driver, ["one", "two", "three"], "here", timeout=timeout)  # type: ignore[arg-type]


def test_all_topics_share_one_deadline() -> None:
    driver = Driver(seconds=0.1)
    notifier(driver).info("event", 1)
    first, second, third = driver.given
    assert first <= 10
    assert second <= first - 0.1
    assert third <= second - 0.1


def test_an_error_says_which_topics_have_it() -> None:
    with pytest.raises(RejectedError, match="is full; it is stored for topics 'one', 'two', and"):
        notifier(Driver("three")).info("event", 1)
    with pytest.raises(RejectedError) as caught:
        notifier(Driver("one")).info("event", 1)
    assert str(caught.value) == "the queue is full"


def test_no_time_is_left() -> None:
    driver = Driver(seconds=0.1)
    with pytest.raises(DeliveryError, match="no time was left for topic 'two'; it is stored for"):
        notifier(driver, timeout=0.05).info("event", 1)
    assert len(driver.given) == 1
