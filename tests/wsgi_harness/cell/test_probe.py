"""The latency probe: on time, late, and never."""

from __future__ import annotations

import time

import pytest

from wsgi_harness.cell.probe import Probe

INTERVAL = 0.01


class EnoughError(Exception):
    """Ends a probe's loop, which is endless."""


def run(probe: Probe, *oversleep: float) -> None:
    """Run once for each value, each time sleeping that much too long (seconds)."""
    extra = iter(oversleep)

    def sleep(seconds: float) -> None:
        try:
            time.sleep(seconds + next(extra))
        except StopIteration:
            raise EnoughError from None

    with pytest.raises(EnoughError):
        probe.run(sleep)


def taken(probe: Probe) -> list[tuple[float, float]]:
    found = probe.report()["taken"]
    assert isinstance(found, list)
    return found


def test_every_run_has_when_it_was_due_and_when_it_came() -> None:
    before = time.time()
    probe = Probe(INTERVAL)
    run(probe, 0, 0, 0)

    assert len(taken(probe)) == 3
    for due, came in taken(probe):
        assert before < due <= came <= time.time() + INTERVAL


def test_a_late_run_is_noted_once_and_those_missed_meanwhile_are_left_out() -> None:
    probe = Probe(INTERVAL)
    run(probe, 0, 10 * INTERVAL, 0)

    (_, _), (due, came), (next_due, _) = taken(probe)
    assert came - due >= 10 * INTERVAL
    assert next_due > came - INTERVAL


def test_a_run_that_never_came_is_still_awaited() -> None:
    probe = Probe(INTERVAL)
    time.sleep(3 * INTERVAL)

    report = probe.report()

    assert report["taken"] == []
    assert isinstance(report["awaited"], float)
    assert isinstance(report["at"], float)
    assert report["at"] - report["awaited"] >= 2 * INTERVAL
