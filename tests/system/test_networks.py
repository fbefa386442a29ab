"""Broken networks: how soon it is known, and what is lost; the same without hbshim beside it.

Every row at once: a relay for each kind of fault, and behind each one connections of both
libraries in two concurrency models, which publish seldom, often, with and without confirms, or
only wait for messages. The chaos harness checks its invariant; the expectations are below.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tests.stress.chaos import report
from tests.stress.chaos.faults import FAULTS
from tests.stress.chaos.invariant import SessionResult
from tests.stress.chaos.plan import Step
from tests.stress.chaos.run import ChaosTestbed, Outcome, Setting
from wsgi_harness.stack.broker import Broker
from wsgi_harness.wire.relay import Relay

# A fleet of processes on two cores.
pytestmark = pytest.mark.alone

#: T; the second where a rule is broken at the first. A process that this machine keeps from running
#: for T loses its connections; a fault of the product breaks the rule at both.
SCALES = (2, 5)
WORKLOADS = ["idle", "steady", "confirmed", "listener"]

#: What each fault of a zone does to unprotected connections, at the least: broken rules
#: of the invariant. `lost`: messages vanished unreported; `late`: so was the end of the
#: connection. After a reset, and where the broker can still announce that it closes, even a library
#: alone loses nothing: its next publish fails; but one that is idle learns it late.
WITHOUT: dict[str, set[str]] = {
    "deaf": {"lost", "late"},
    "swallow": {"lost", "late"},
    "vanish": {"lost", "late"},
    # The broker hears nothing, gives up after 2 to 3 T, and its word still reaches the client:
    # in time in one run and late in the next. A control that may survive.
    "deaf-to-client": set(),
    "deaf-to-broker": {"late"},
    "reset": set(),
    "outage": set(),
    # Nothing happened, but for the broker's timeout for clients that send no heartbeat.
    "hiccup": {"false-death"},
}
#: Of which one rule at least is broken: which one depends on when an idle client publishes next.
WITHOUT_ONE_OF = {"reset": {"late", "lost"}, "outage": {"late", "lost"}}
NAT = "nat"


@dataclass
class Run:
    """One testbed's outcome, or why there is none."""

    setting: Setting
    relays: dict[str, Relay]
    steps: list[Step]
    outcome: Outcome | None = None
    error: BaseException | None = None

    def carry_out(self, broker: Broker) -> None:
        try:
            with ChaosTestbed(self.setting, broker, relays=self.relays) as testbed:
                # Not earlier: opening a connection may take longer than T on a busy machine.
                for relay in self.relays.values():
                    relay.forget_idle(self.setting.heartbeat)
                testbed.carry_out(self.steps)
                self.outcome = testbed.outcome(self.steps)
        except BaseException as error:
            self.error = error

    def zone(self, name: str) -> list[SessionResult]:
        if self.error is not None:
            raise self.error
        assert self.outcome is not None
        return [each for each in self.outcome.session_results if each.place.zone == name]

    @property
    def is_clean(self) -> bool:
        """Whether no rule is broken."""
        return self.outcome is not None and not any(
            each.violations for each in self.outcome.session_results
        )


def networks(stack: ExitStack, broker: Broker, t: int, shim: bool) -> Run:
    """A zone for each fault, and one whose middlebox forgets clients that are idle for T."""
    mark = "" if shim else "bare-"
    nat = stack.enter_context(Relay(broker.host, broker.amqp_port))
    steps = [
        Step(1.5 * t, FAULTS[name], mark + name, t * FAULTS[name].lasts[1]) for name in WITHOUT
    ]
    zones = [mark + name for name in [*WITHOUT, NAT]]
    setting = Setting(t, 3, zones, workloads=WORKLOADS, shim=shim)
    return Run(setting, {mark + NAT: nat}, steps)


@pytest.fixture(scope="module")
def runs(broker: Broker) -> Iterator[dict[bool, Run]]:
    """With hbshim and without, side by side."""
    with ExitStack() as stack:
        for t in SCALES:
            found = {shim: networks(stack, broker, t, shim) for shim in (True, False)}
            threads = [
                threading.Thread(target=run.carry_out, args=(broker,)) for run in found.values()
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            if found[True].is_clean:
                break
        yield found


def reported(run: Run, name: str) -> str:
    """What was measured, for the log of the test."""
    session_results = run.zone(name)
    assert run.outcome is not None
    seconds = report.detections(run.outcome).get(name.removeprefix("bare-"), [])
    known = f"{len(seconds)} deaths known after {max(seconds):.2f} s at most" if seconds else ""
    rules = sorted(
        {each.rule for session_result in session_results for each in session_result.violations}
    )
    return f"{name}: {known} {report.totals(session_results)} broken: {rules}"


@pytest.mark.parametrize("fault", WITHOUT)
def test_kept(runs: dict[bool, Run], fault: str) -> None:
    """Every death within its bound; nothing accepted after it lost; with confirms nothing."""
    print(reported(runs[True], fault))  # noqa: T201 - the measurement
    session_results = runs[True].zone(fault)
    assert [text for session_result in session_results for text in session_result.violations] == []
    # Each of them lived through the fault and came back, or never went.
    assert report.totals(session_results)["arrived"] > 0
    deaths = [
        seconds for session_result in session_results for _, seconds in session_result.detections
    ]
    assert (len(deaths) == len(session_results)) == FAULTS[fault].kills


@pytest.mark.parametrize("fault", WITHOUT)
def test_without_hbshim(runs: dict[bool, Run], fault: str) -> None:
    print(reported(runs[False], f"bare-{fault}"))  # noqa: T201 - the measurement
    session_results = runs[False].zone(f"bare-{fault}")
    broken = {each.rule for session_result in session_results for each in session_result.violations}
    assert broken >= WITHOUT[fault]
    assert fault not in WITHOUT_ONE_OF or broken & WITHOUT_ONE_OF[fault]


def test_a_middlebox_that_cuts_connections_idle_for_1_t(runs: dict[bool, Run]) -> None:
    kept = runs[True].zone(NAT)
    assert runs[True].relays[NAT].seen("forgotten") == []
    assert [text for session_result in kept for text in session_result.violations] == []
    assert {session_result.generations for session_result in kept} == {1}


def test_a_middlebox_without_hbshim(runs: dict[bool, Run]) -> None:
    bare = runs[False].zone(f"bare-{NAT}")
    assert runs[False].relays[f"bare-{NAT}"].seen("forgotten")
    assert "lost" in {each.rule for session_result in bare for each in session_result.violations}
