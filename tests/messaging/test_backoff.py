"""Pauses grow, with full jitter; nothing is tried, or slept, past the deadline."""

from __future__ import annotations

import itertools
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from hypothesis.strategies._internal.random import ArtificialRandom
from tenacity import DoSleep

from hbshim.errors import ConnectError, TopologyError
from hbshim.messaging.backoff import TOO_LITTLE, pauses, retrying


class Model:
    """A clock, and a sleep that moves it; every try fails, and takes so long."""

    def __init__(self, takes: float = 0.0) -> None:
        self.now = 100.0
        self.takes = takes
        self.slept: list[Any] = []
        self.tried: list[Any] = []

    def sleep(self, seconds: DoSleep) -> None:
        assert seconds >= 0
        self.slept.append(seconds)
        self.now += seconds

    def attempt(self, succeed_at: int | None = None, error: type[Exception] = ConnectError) -> str:
        self.tried.append(self.now)
        self.now += self.takes
        if len(self.tried) != succeed_at:
            raise error(f"try {len(self.tried)}")
        return "in"

    def run(
        self,
        attempts: int | None,
        delay: float,
        deadline: float | None,
        succeed_at: int | None = None,
        error: type[Exception] = ConnectError,
        **settings: Any,
    ) -> str | None:
        settings = {
            "retry_on": lambda error: isinstance(error, ConnectError),
            "uniform": lambda low, high: high,
            "clock": lambda: self.now,
            "sleep": self.sleep,
            **settings,
        }
        for attempt in retrying(attempts, delay, deadline, **settings):
            with attempt:
                return self.attempt(succeed_at, error)
        raise AssertionError("neither returned nor raised")


def test_the_bound_of_the_pauses_doubles_up_to_the_maximum() -> None:
    both: Any = lambda low, high: (low, high)  # noqa: E731
    bounds: Any = pauses(0.1, 1.0, uniform=both)
    highest = [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert list(itertools.islice(bounds, 6)) == [(0.0, pytest.approx(high)) for high in highest]


def test_a_maximum_below_the_delay_holds() -> None:
    assert next(pauses(5, 1, uniform=lambda low, high: high)) == 1


def test_pauses_do_not_end() -> None:
    assert next(itertools.islice(pauses(0.1), 5000, None)) <= 30


def test_jitter_is_full() -> None:
    drawn = list(itertools.islice(pauses(1.0, 1.0), 500))
    assert min(drawn) < 0.2
    assert max(drawn) > 0.8


def test_success_ends_it() -> None:
    model = Model()
    assert model.run(5, 1, None, succeed_at=3) == "in"
    assert model.slept == [1, 2]


def test_a_first_success_costs_no_pause() -> None:
    model = Model()
    assert model.run(5, 1, None, succeed_at=1) == "in"
    assert model.slept == []


def test_the_last_error_is_raised_as_it_was() -> None:
    model = Model()
    with pytest.raises(ConnectError, match="try 3"):
        model.run(3, 1, None)
    assert model.slept == [1, 2]


def test_one_attempt_is_one() -> None:
    model = Model()
    with pytest.raises(ConnectError, match="try 1"):
        model.run(1, 1, None)
    assert model.slept == []


def test_an_error_that_no_other_try_helps_against_ends_it() -> None:
    model = Model()
    with pytest.raises(TopologyError, match="try 1"):
        model.run(9, 1, None, error=TopologyError)


def test_without_a_number_the_deadline_ends_it() -> None:
    model = Model(takes=0.5)
    with pytest.raises(ConnectError):
        model.run(None, 0.1, 110.0)
    assert len(model.tried) > 3
    assert max(model.tried) < 110.0


def test_a_deadline_that_has_passed_allows_one_try() -> None:
    model = Model()
    with pytest.raises(ConnectError, match="try 1"):
        model.run(9, 1, 50.0)
    assert model.slept == []


@settings(database=None)
@given(
    st.none() | st.integers(1, 20),
    st.floats(0.001, 40),
    st.floats(0, 100),
    st.floats(0, 3),
    st.randoms(use_true_random=False),
)
def test_no_pause_reaches_past_the_deadline(
    attempts: int | None, delay: float, seconds: float, takes: float, dice: ArtificialRandom
) -> None:
    model = Model(takes)
    deadline = model.now + seconds
    with pytest.raises(ConnectError):
        model.run(attempts, delay, deadline, uniform=dice.uniform)
    assert attempts is None or len(model.tried) <= attempts
    assert all(started < deadline for started in model.tried[1:])
    if attempts is None:
        assert deadline - model.now <= TOO_LITTLE + 1e-9


def test_the_programs_own_sleep_is_looked_up_when_it_is_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Model()
    monkeypatch.setattr("time.sleep", model.sleep)
    with pytest.raises(ConnectError):
        model.run(2, 1, None, sleep=None)
    assert model.slept == [1]
