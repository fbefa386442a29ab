"""A broker that is paused, stopped, killed, restarted or out of memory: what is known, and lost.

On a broker of its own; the rows come one after the other, each once all connections are back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest

from tests.stress.chaos import report
from tests.stress.chaos.faults import FAULTS, Effect
from tests.stress.chaos.invariant import SessionResult
from tests.stress.chaos.plan import Step
from tests.stress.chaos.run import ChaosTestbed, Outcome, Setting
from wsgi_harness.engine.engine import Engine
from wsgi_harness.engine.images import Images
from wsgi_harness.stack.stack import Stack, project_name

# A fleet of processes on two cores.
pytestmark = pytest.mark.alone

T = 1
WORKLOADS = ["idle", "steady", "confirmed", "listener"]
#: The alarm lasts for more than 3 T, in which the broker reads nothing. Killed before it is
#: stopped: a broker that is stopped has written all messages to its disk.
FAULT_LIST = ["broker-paused", "alarm", "broker-killed", "broker-stopped"]


@pytest.fixture(scope="module")
def outcomes(engine: Engine, images: Images) -> Iterator[dict[bool, Outcome]]:
    """With hbshim and without, behind relays of their own before one broker."""
    steps = [Step(0.0, FAULTS[name], "", T * FAULTS[name].lasts[0]) for name in FAULT_LIST]
    setting = Setting(T, 4, ["zone"], workloads=WORKLOADS)
    with ExitStack() as on_exit:
        stack = on_exit.enter_context(
            Stack(project_name("networks"), heartbeat=60, prepared=(engine, images))
        )
        kept = on_exit.enter_context(ChaosTestbed(setting, stack.broker, stack))
        control = replace(setting, zones=["bare"], shim=False)
        bare = on_exit.enter_context(ChaosTestbed(control, stack.broker, stack))
        for step in steps:
            kept.carry_out([step])
            for relay in bare.zones.values():
                relay.dial_to(stack.broker.host, stack.broker.amqp_port)
            kept.wait_until_connected()
        bare.faults.extend(kept.faults)
        yield {True: kept.outcome(steps), False: bare.outcome(steps)}


def reported(session_results: list[SessionResult], outcome: Outcome) -> str:
    """What was measured, for the log of the test."""
    worst = {name: f"{max(found):.2f}" for name, found in report.detections(outcome).items()}
    return f"deaths known after {worst} s at most; {report.totals(session_results)}"


def test_kept(outcomes: dict[bool, Outcome]) -> None:
    """Every death within its bound, none in an alarm, every confirmed message there."""
    outcome = outcomes[True]
    print(reported(outcome.session_results, outcome))  # noqa: T201 - the measurement
    assert outcome.violations == []
    assert [fault.kind.name for fault in outcome.faults] == FAULT_LIST


@pytest.mark.parametrize("name", FAULT_LIST)
def test_each_connection_knew_of_each_end(outcomes: dict[bool, Outcome], name: str) -> None:
    outcome = outcomes[True]
    seconds = report.detections(outcome).get(name, [])
    if FAULTS[name].effect is Effect.HARMLESS:
        assert seconds == []
    else:
        assert len(seconds) == len(outcome.session_results)
        assert max(seconds) <= 2 * T + 1


def test_without_hbshim(outcomes: dict[bool, Outcome]) -> None:
    outcome = outcomes[False]
    print(reported(outcome.session_results, outcome))  # noqa: T201 - the measurement
    rules = {violation.rule for violation in outcome.violations}
    # A paused broker is not noticed, and connections die of missed heartbeats in between.
    assert {"late", "false-death"} <= rules
