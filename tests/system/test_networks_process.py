"""The process itself stops and continues, or its clock jumps.

A stopped process cannot send heartbeats: after 2 to 3 T the broker closes. Once it continues, it
must know that before its next message is swallowed, also when the broker's goodbye never arrived.
The wall clock must not matter at all: the kernel's ages and the engine's deadlines do not
come from it.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from tests.stress.chaos import report
from tests.stress.chaos.faults import FAULTS, Fault
from tests.stress.chaos.journal import Entry, Journal
from tests.stress.chaos.plan import Step
from tests.stress.chaos.run import ChaosTestbed, Outcome, Setting
from wsgi_harness.stack.broker import Broker

# A fleet of processes on two cores.
pytestmark = [pytest.mark.alone, pytest.mark.extended]

T = 2
SETTING = Setting(
    T, 5, ["plain", "swallowed"], workloads=["idle", "steady", "confirmed", "listener"]
)
STOP = 3.5 * T
HOUR = 3600


def stopped(broker: Broker, setting: Setting) -> Outcome:
    """All applications stop; meanwhile one zone's relay throws away what the broker sends."""
    steps = [Step(0.2, FAULTS["stopped"], name, STOP) for name in setting.processes]
    # Begins once they are stopped, and ends when they have gone on: FIN and RST never arrive.
    steps += [Step(0.5, FAULTS["swallow"], setting.zones[1], STOP + 2 * T + 1)]
    with ChaosTestbed(setting, broker) as testbed:
        testbed.carry_out(steps)
        return testbed.outcome(steps)


def jumped(broker: Broker, setting: Setting) -> Outcome:
    """Every wall clock jumps an hour ahead, then back, and 3 T pass after each."""
    steps = [
        Step(0.2 + 3.0 * T * number, FAULTS[name], process, 0.0)
        for number, name in enumerate(["clock-ahead", "clock-back", "clock-ahead"])
        for process in setting.processes
    ]
    with ChaosTestbed(setting, broker) as testbed:
        testbed.carry_out(steps)
        return testbed.outcome(steps)


@pytest.fixture(scope="module")
def outcomes(broker: Broker) -> dict[str, Outcome]:
    """Everything at once; zones of different names have queues of different names."""
    bare = replace(SETTING, zones=["bare-plain", "bare-swallowed"], shim=False)
    clock = replace(SETTING, zones=["clock"])
    with ThreadPoolExecutor() as pool:
        runs = {
            "kept": pool.submit(stopped, broker, SETTING),
            "bare": pool.submit(stopped, broker, bare),
            "clock": pool.submit(jumped, broker, clock),
        }
        return {name: run.result() for name, run in runs.items()}


def accepted_afterwards(outcome: Outcome, zone: str) -> list[Entry]:
    """Messages that a library took, after the stop, on a connection from before it."""
    places = {place.name for place in outcome.setting.places if place.zone == zone}
    stops = {each.target: each for each in outcome.faults if each.kind.name == "stopped"}
    return [
        entry
        for process, journal in outcome.journals.items()
        for entry in journal.entries
        if entry.name in places
        and entry.kind in ("accepted", "confirmed")
        and entry.began > stops[process].healed
        and entry.generation in generations_before(journal, entry.name, stops[process])
    ]


def generations_before(journal: Journal, name: str, stop: Fault) -> set[int]:
    return {
        entry.generation
        for entry in journal.entries
        if entry.name == name and entry.kind == "up" and entry.at < stop.began
    }


def test_a_stopped_process_knows_before_it_writes(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["kept"]
    known = report.detections(outcome)["stopped"]
    print(f"{len(known)} deaths known {max(known):.2f} s after SIGCONT")  # noqa: T201
    assert outcome.violations == []
    assert len(known) == len(outcome.session_results)
    for zone in outcome.setting.zones:
        assert accepted_afterwards(outcome, zone) == []


def test_without_hbshim_it_writes_into_the_void(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["bare"]
    assert accepted_afterwards(outcome, "bare-swallowed")
    assert "lost" in {violation.rule for violation in outcome.violations}
    # Where the broker's reset arrived, the libraries alone notice: this control survives.
    assert accepted_afterwards(outcome, "bare-plain") == []


def test_a_clock_that_jumps_changes_nothing(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["clock"]
    assert outcome.violations == []
    assert {session_result.generations for session_result in outcome.session_results} == {1}
    for journal in outcome.journals.values():
        assert {0, HOUR} <= journal.jumps, journal.process
        assert journal.counters["heartbeats_sent"] > 0
