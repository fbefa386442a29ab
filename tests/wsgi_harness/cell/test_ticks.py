"""Ticks: on time, late, and never."""

from __future__ import annotations

import time

import pytest

from wsgi_harness.cell.ticks import Ticks

INTERVAL = 0.01


class EnoughError(Exception):
    """Ends a tick's loop, which is endless."""


def run(ticks: Ticks, *oversleep: float) -> None:
    """Tick once for each value, each time sleeping that much too long (seconds)."""
    extra = iter(oversleep)

    def sleep(seconds: float) -> None:
        try:
            time.sleep(seconds + next(extra))
        except StopIteration:
            raise EnoughError from None

    with pytest.raises(EnoughError):
        ticks.run(sleep)


def taken(ticks: Ticks) -> list[tuple[float, float]]:
    found = ticks.report()["taken"]
    assert isinstance(found, list)
    return found


def test_every_tick_tells_when_it_was_due_and_when_it_came() -> None:
    before = time.time()
    ticks = Ticks(INTERVAL)
    run(ticks, 0, 0, 0)

    assert len(taken(ticks)) == 3
    for due, came in taken(ticks):
        assert before < due <= came <= time.time() + INTERVAL


def test_a_late_tick_is_noted_once_and_those_missed_meanwhile_are_left_out() -> None:
    ticks = Ticks(INTERVAL)
    run(ticks, 0, 10 * INTERVAL, 0)

    (_, _), (due, came), (next_due, _) = taken(ticks)
    assert came - due >= 10 * INTERVAL
    assert next_due > came - INTERVAL


def test_a_tick_that_never_came_is_still_awaited() -> None:
    ticks = Ticks(INTERVAL)
    time.sleep(3 * INTERVAL)

    report = ticks.report()

    assert report["taken"] == []
    assert isinstance(report["awaited"], float)
    assert isinstance(report["at"], float)
    assert report["at"] - report["awaited"] >= 2 * INTERVAL
