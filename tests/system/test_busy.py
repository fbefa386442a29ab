"""A busy application: no heartbeat is late by more than T/8, and nothing dies that should live.

Measured twice: by the engine's own record of how late its checks were, and on the wire, where the
relay notes when each heartbeat of an idle connection went by. On a machine that other programs
keep busy, a native thread that has nothing else to do comes late, too; how late is measured in
the same process, and is not held against hbshim.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from tests.stress.chaos.faults import FAULTS
from tests.stress.chaos.plan import Step
from tests.stress.chaos.run import ChaosTestbed, Outcome, Setting
from wsgi_harness.stack.broker import Broker
from wsgi_harness.wire.relay import Relay

# A fleet of processes on two cores.
pytestmark = pytest.mark.alone

T = 4
LATE = T / 8
LASTS = 3 * T
WORKLOADS = ["listener", "idle", "steady", "confirmed"]

ROWS = {
    "computing": Setting(T, 6, ["busy"], models=["native"], workloads=WORKLOADS),
    "hub-blocked": Setting(T, 7, ["blocked"], models=["eventlet", "gevent"], workloads=WORKLOADS),
    # Many threads, each on a connection of its own; green ones in the second concurrency model.
    "many": Setting(
        T,
        8,
        [f"many{number}" for number in range(8)],
        workloads=["steady", "confirmed", "listener"],
    ),
    # A smaller T, so that the time is long enough for the broker's own timeout to end.
    "bare": Setting(T // 2, 9, ["bare"], models=["native"], workloads=WORKLOADS, shim=False),
}


class Row:
    """One testbed, while it lasted."""

    def __init__(self, name: str, broker: Broker) -> None:
        self.setting = ROWS[name]
        what = FAULTS["hub-blocked" if name == "hub-blocked" else "computing"]
        # Many threads keep their process busy by themselves, until the very end.
        begins = LASTS if name == "many" else 0.0
        self.steps = [
            Step(begins, what, process, LASTS - begins) for process in self.setting.processes
        ]
        self.broker = broker

    def run(self) -> Row:
        with ChaosTestbed(self.setting, self.broker) as testbed:
            testbed.carry_out(self.steps)
            self.relays: list[Relay] = list(testbed.zones.values())
            self.outcome: Outcome = testbed.outcome(self.steps)
        return self

    def latest_check(self) -> float:
        """Seconds that the latest check was late by."""
        return max(
            late
            for journal in self.outcome.journals.values()
            for worker, late in journal.lateness.items()
            if worker != "idle"
        )

    def starved(self) -> float:
        """Seconds that a thread with nothing to do was late by, in any of the processes."""
        return max(journal.lateness["idle"] for journal in self.outcome.journals.values())

    def latest_heartbeat(self) -> float:
        """Seconds beyond T/2 between two heartbeats with nothing in between, at the relays."""
        late = [0.0]
        for relay in self.relays:
            heartbeats = relay.seen("heartbeat", "client")
            for connection in {heartbeat.connection for heartbeat in heartbeats}:
                own = [heartbeat for heartbeat in heartbeats if heartbeat.connection == connection]
                late += [
                    after.at - before.at - T / 2
                    for before, after in pairwise(own)
                    if after.frames == before.frames + 1
                ]
        return max(late)


@pytest.fixture(scope="module")
def rows(broker: Broker) -> dict[str, Row]:
    """All at once."""
    with ThreadPoolExecutor() as pool:
        return dict(zip(ROWS, pool.map(lambda name: Row(name, broker).run(), ROWS), strict=True))


@pytest.mark.parametrize("name", [name for name, setting in ROWS.items() if setting.shim])
def test_no_heartbeat_is_late_and_no_connection_dies(rows: dict[str, Row], name: str) -> None:
    row = rows[name]
    checks, heartbeats, machine = row.latest_check(), row.latest_heartbeat(), row.starved()
    print(  # noqa: T201 - the measurement
        f"{name}: checks late by {checks:.3f} s, heartbeats by {heartbeats:.3f} s at most, "
        f"T/8 = {LATE} s; the machine by {machine:.3f} s"
    )
    assert row.outcome.violations == []
    assert {session_result.generations for session_result in row.outcome.session_results} == {1}
    assert sum(len(relay.seen("heartbeat", "client")) for relay in row.relays) > 0
    assert checks - machine <= LATE
    assert heartbeats - machine <= LATE


def test_without_hbshim_connections_die(rows: dict[str, Row]) -> None:
    assert "false-death" in {violation.rule for violation in rows["bare"].outcome.violations}
