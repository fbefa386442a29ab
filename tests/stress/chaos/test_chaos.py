"""A short run for real; and the same faults without hbshim, which must break the invariant."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stress.chaos import report
from tests.stress.chaos.faults import FAULTS
from tests.stress.chaos.plan import Step
from tests.stress.chaos.run import ChaosTestbed, Setting
from wsgi_harness.stack.broker import Broker

# A fleet of processes on two cores.
pytestmark = pytest.mark.alone

T = 1


def chaos(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.stress.chaos", *arguments],
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_the_invariant_holds_for_a_while(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    done = chaos("--seconds", "15", "--seed", "7", "--zones", "2", "--report", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    data = json.loads(file.read_text())
    assert (data["held"], data["seed"], data["violations"]) == (True, 7, [])
    assert data["faults"]
    assert data["totals"]["confirmed"] > 100
    assert "seed 7" in done.stderr
    assert "The invariant held" in done.stdout


@pytest.mark.parametrize("shim", [True, False], ids=["hbshim", "without"])
def test_behind_a_network_gone_silent_it_holds_with_hbshim_alone(
    broker: Broker, shim: bool
) -> None:
    setting = Setting(T, 1, ["zone"], workloads=["idle", "steady"], shim=shim)
    steps = [Step(0.5, FAULTS["swallow"], "zone", 4.0 * T)]
    with ChaosTestbed(setting, broker) as testbed:
        testbed.carry_out(steps)
        outcome = testbed.outcome(steps)
    rules = {violation.rule for violation in outcome.violations}
    if shim:
        assert outcome.violations == []
        assert report.detections(outcome)["swallow"]
    else:
        # Unreported messages, on connections that were not reported dead.
        assert {"lost", "late"} <= rules


def test_the_limits_of_the_command_are_reported() -> None:
    done = chaos("--seconds", "1")
    assert done.returncode == 2
    assert "--seconds" in done.stderr
    done = chaos("--report", "/no/such/place/results.json")
    assert done.returncode == 3
    assert "/no/such/place" in done.stderr


def test_every_fault_is_listed() -> None:
    listed = chaos("--list").stdout
    assert all(name in listed for name in FAULTS)
