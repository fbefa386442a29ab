"""The two failures of oslo.messaging's own heartbeats, once; `make oslo` brings them about five
times, with oslo.messaging 17.3 as well, whose service hangs after the restart."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.stress.oslo import failures
from tests.stress.oslo.failures import Target, TrialResult
from tests.stress.oslo.schemes import STOCK, over_0_9_1
from wsgi_harness.stack.broker import Broker

NEWEST = {"18.3": Path(sys.executable)}


def test_a_hub_that_stands_still_for_4_t(broker: Broker, tmp_path: Path) -> None:
    """Stock loses its connections: the control."""
    trial_results = failures.blocked(
        failures.blocked_targets(over_0_9_1(), NEWEST), broker, tmp_path
    )
    assert [
        trial_result.target.scheme for trial_result in trial_results if not trial_result.survived
    ] == [STOCK], trial_results


@pytest.mark.extended
def test_40_green_callers_through_a_broker_restart(
    own_broker: Broker, rabbitmqctl: Callable[..., None], tmp_path: Path
) -> None:
    """With the option on, which hung 17.3."""
    targets = [Target(scheme, "18.3", Path(sys.executable), "true") for scheme in over_0_9_1()]
    trial_results = failures.restart(targets, own_broker, rabbitmqctl, tmp_path, outage=3.0)
    assert all(trial_result.survived for trial_result in trial_results), trial_results


def test_a_control_that_survives_is_a_complaint() -> None:
    stock = Target(STOCK, "17.3", Path(sys.executable), "true", control=True)
    mine = Target("hbrabbit", "17.3", Path(sys.executable), "true")
    hung, well = TrialResult(stock, False, "hangs"), TrialResult(stock, True, "all answered")
    assert failures.complaints([TrialResult(mine, True, "all answered"), hung]) == []
    assert failures.complaints([TrialResult(mine, True, "all answered"), well])
    assert failures.complaints([TrialResult(mine, False, "hangs"), hung])
