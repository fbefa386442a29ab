"""The faults of a run: repeatable, and never two on one target at once."""

from __future__ import annotations

import itertools

import pytest

from tests.stress.chaos.faults import FAULTS, Effect, Scope
from tests.stress.chaos.plan import Step, draw

ZONES, PROCESSES = ["z1", "z2"], ["native-kombu", "eventlet-pika"]


def plan(seed: int, seconds: float = 300.0) -> list[Step]:
    return draw(seed, seconds, 2, ZONES, PROCESSES)


def test_the_same_seed_gives_the_same_faults_and_another_seed_others() -> None:
    assert plan(5) == plan(5)
    assert plan(5) != plan(6)


def test_a_longer_run_has_every_fault() -> None:
    assert {step.kind.name for step in plan(1, seconds=2000)} == set(FAULTS)


@pytest.mark.parametrize("seed", range(20))
def test_all_end_in_time_and_none_overlaps_on_a_target(seed: int) -> None:
    steps = plan(seed)
    assert steps
    assert max(step.at + step.lasts for step in steps) <= 300
    for first, second in itertools.combinations(steps, 2):
        scopes = {Scope.ZONE, Scope.BROKER}
        meet = first.target == second.target or (
            Scope.BROKER in (first.kind.scope, second.kind.scope)
            and {first.kind.scope, second.kind.scope} <= scopes
        )
        assert not meet or second.at > first.at + first.lasts


def test_what_silences_lasts_longer_than_its_bound() -> None:
    """Otherwise it would not be known whether the death would have been known in time."""
    for kind in FAULTS.values():
        if kind.effect in (Effect.SILENCE, Effect.UNHEARD):
            assert kind.lasts[0] * 2 >= kind.bound(2), kind.name


def test_a_run_too_short_for_any_fault_has_none() -> None:
    assert plan(1, seconds=0.5) == []
