"""Nodes of a cluster die, stop, and are cut off under load; the service goes on.

Every load runs at the same time, so that all of them meet the same faults, oslo.messaging's
own driver among them as the control: its figures are printed beside the others.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.waiting import wait_until
from wsgi_harness.stack.cluster import NODES, Cluster

pytestmark = [pytest.mark.alone, pytest.mark.slow]

PROGRAM = Path(__file__).with_name("load.py")
CHECKOUT = Path(__file__).parent.parent.parent

#: Faults of each kind; `make cluster` sets more.
ROUNDS = int(os.environ.get("HBSHIM_CLUSTER_ROUNDS", "1"))

#: Seconds from a node's death until every call is answered again.
RECOVERED_WITHIN = 10.0
#: The same for a partition: the nodes notice it after 8 to 10 s (`net_ticktime`).
NOTICED_WITHIN = 12.0
#: Seconds for which every call must be answered, and how many there must be.
CHECKED = 3.0
ENOUGH = 5
READY_LIMIT = 90.0
#: The fault after which every node has been there again, and so every queue.
EACH_RESTARTED = "each restarted"
END_LIMIT = 120.0


class Load(NamedTuple):
    """One kind of service under load."""

    api: str
    scheme: str
    quorum: bool = True

    @property
    def name(self) -> str:
        return f"{self.api}-{self.scheme}-{'quorum' if self.quorum else 'classic'}"


REPLICATED = [
    Load("own", "hbpika"),
    Load("own", "hbkombu"),
    Load("oslo", "hbpika"),
    Load("oslo", "hbkombu"),
]
CLASSIC = [Load("own", "hbpika", quorum=False), Load("own", "hbkombu", quorum=False)]
CONTROL = Load("oslo", "rabbit")
EVERY = [*REPLICATED, *CLASSIC, CONTROL]


class Call(NamedTuple):
    """When a call began and ended (`time.time()`), and its error."""

    began: float
    ended: float
    error: str


@dataclass
class Fault:
    """What was done to a node.

    Attributes:
        at: `time.time()` when it was done.
        judged: from when to when every call must be answered.
    """

    name: str
    at: float
    checked: tuple[float, float]


@dataclass
class Story:
    """What was done, and what became of each load."""

    faults: list[Fault] = field(default_factory=list)
    services: dict[Load, Service] = field(default_factory=dict)
    outcomes: dict[Load, dict[str, Any]] = field(default_factory=dict)

    def calls(self, load: Load, since: float, until: float) -> list[Call]:
        """Return the calls that began and ended in this time."""
        calls = self.services[load].calls
        return [call for call in calls if since <= call.began and call.ended <= until]

    def recovery(self, load: Load, fault: Fault) -> float | None:
        """Return after how many seconds a call was answered that was begun after a fault."""
        calls = self.calls(load, fault.at, float("inf"))
        return min((call.ended - fault.at for call in calls if not call.error), default=None)

    def report(self) -> str:
        """Return the figures of every load, a line each."""
        lines = []
        for load, outcome in self.outcomes.items():
            calls = self.services[load].calls
            failed = sum(bool(call.error) for call in calls)
            after = ", ".join(
                f"{fault.name} {'never' if seconds is None else f'{seconds:.1f} s'}"
                for fault in self.faults
                for seconds in [self.recovery(load, fault)]
            )
            lines.append(
                f"{load.name}: {len(calls)} calls, {failed} failed; "
                f"{outcome['confirmed']} notifications confirmed, {len(outcome['missing'])} lost, "
                f"{outcome['twice']} twice, {len(outcome['failed'])} refused; "
                f"first answer after: {after}"
            )
        return "\n".join(lines)


class Service:
    """A load that runs in a process of its own."""

    def __init__(self, load: Load, cluster: Cluster, directory: Path) -> None:
        self.load = load
        self.topic = f"{load.name}-{os.getpid()}"
        query: dict[str, object] = {}
        if load.scheme != "rabbit":
            query = {"hosts_shuffle": "false", "notification_persistence": "true"}
            query["quorum_queues"] = str(load.quorum).lower()
        # Clients and servers begin at different nodes.
        urls = [cluster.url(load.scheme, first=node, **query) for node in NODES[:2]]
        self._errors = directory / f"{load.name}.log"
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", PROGRAM, *load[:2], self.topic, *urls],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
            )
        self.calls: list[Call] = []
        self._outcome: dict[str, Any] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            if isinstance(said, list):
                self.calls.append(Call(*said))
            else:
                self._outcome = said

    def await_ready(self) -> None:
        """Return when a call is answered."""
        wait_until(lambda: self.calls or self._process.poll() is not None, READY_LIMIT)
        assert self.calls, f"{self.load.name}: {self._errors.read_text()[-3000:]}"

    def is_steady(self, since: float) -> bool:
        """Return whether every call that ended since then was answered, and there were some."""
        calls = [call for call in self.calls[-1000:] if call.ended >= since]
        return len(calls) >= ENOUGH and not any(call.error for call in calls)

    def end(self) -> dict[str, Any]:
        """Stop the load, and return what became of its notifications."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._reader.join(END_LIMIT)
        assert self._outcome, f"{self.load.name}: {self._errors.read_text()[-3000:]}"
        return self._outcome

    def kill(self) -> None:
        with self._process:
            self._process.kill()


def most_used(cluster: Cluster) -> str:
    """Return the node that most connections are to."""
    for node in NODES:
        try:
            found = cluster.node(node).management.connections()
        except OSError:
            continue
        return Counter(each["node"] for each in found).most_common(1)[0][0].removeprefix("rabbit@")
    raise AssertionError("no node answers")


def check_recovery(story: Story, name: str, do: Callable[[], object], within: float) -> None:
    """Do something to the cluster, and wait until every load has recovered, or time is up."""
    do()
    at = time.time()
    everyone = name == EACH_RESTARTED or not story.faults
    loads = [*REPLICATED, *CLASSIC] if everyone else REPLICATED
    while (now := time.time()) < at + within + CHECKED:
        since = now - CHECKED
        if since > at and all(story.services[load].is_steady(since) for load in loads):
            break
        time.sleep(0.1)
    story.faults.append(Fault(name, at, (now - CHECKED, now)))


def fail_nodes(cluster: Cluster, queue: str, story: Story) -> None:
    """Make each kind of fault, and check the recovery from it.

    Parameters:
        queue: whose leader is a victim.
    """
    for _ in range(ROUNDS):
        victim = most_used(cluster) if story.faults else NODES[0]
        kill = functools.partial(cluster.kill, victim)
        check_recovery(story, "client's node killed", kill, RECOVERED_WITHIN)
        cluster.start(victim)

        victim = cluster.home(queue)
        kill = functools.partial(cluster.kill, victim)
        check_recovery(story, "leader's node killed", kill, RECOVERED_WITHIN)
        cluster.start(victim)

        victim = most_used(cluster)
        stop = functools.partial(cluster.stop, victim)
        check_recovery(story, "node stopped", stop, RECOVERED_WITHIN)
        cluster.start(victim)

        victim = most_used(cluster)
        cut_off = functools.partial(cluster.partition, victim)
        check_recovery(story, "node cut off", cut_off, NOTICED_WITHIN + RECOVERED_WITHIN)
        cluster.heal(victim)

        def restart_each() -> None:
            for node in NODES:
                cluster.restart(node)

        check_recovery(story, EACH_RESTARTED, restart_each, RECOVERED_WITHIN)


@pytest.fixture(scope="module")
def story(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """All loads, through all faults."""
    reported = Story()
    directory = tmp_path_factory.mktemp("loads")
    services = reported.services
    try:
        for load in EVERY:
            services[load] = Service(load, cluster, directory)
        for service in services.values():
            service.await_ready()
        fail_nodes(cluster, f"openstack_rpc.{services[REPLICATED[0]].topic}", reported)
        reported.outcomes = {load: service.end() for load, service in services.items()}
    finally:
        for service in services.values():
            service.kill()
    sys.stderr.write(f"\n{reported.report()}\n")
    return reported


@pytest.mark.parametrize("load", REPLICATED, ids=lambda load: load.name)
def test_calls_are_answered_soon_after_every_fault(story: Story, load: Load) -> None:
    for fault in story.faults:
        checked = story.calls(load, *fault.checked)
        assert checked, f"{fault.name}: no calls\n{story.report()}"
        errors = Counter(call.error for call in checked if call.error)
        assert not errors, f"{fault.name}: {errors}\n{story.report()}"


@pytest.mark.parametrize("load", CLASSIC, ids=lambda load: load.name)
def test_without_replication_the_loss_of_a_clients_node_alone_is_survived(
    story: Story, load: Load
) -> None:
    """The queues are on the server's node. While that one is dead, so are they."""
    for fault in (story.faults[0], story.faults[-1]):
        checked = story.calls(load, *fault.checked)
        assert checked, f"{fault.name}: no calls\n{story.report()}"
        errors = Counter(call.error for call in checked if call.error)
        assert not errors, f"{fault.name}: {errors}\n{story.report()}"


@pytest.mark.parametrize("load", [*REPLICATED, *CLASSIC], ids=lambda load: load.name)
def test_no_confirmed_notification_is_lost(story: Story, load: Load) -> None:
    outcome = story.outcomes[load]
    assert outcome["confirmed"] > 0
    assert not outcome["missing"], story.report()


def test_the_control_works(story: Story) -> None:
    assert any(not call.error for call in story.services[CONTROL].calls), story.report()
