"""The parts of ``make oslo``: the suite on a cluster, the suite on one broker, and the failures."""

from __future__ import annotations

import functools
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.messaging.zmq.nodes import Node
from tests.stress.oslo import failover, failures
from tests.stress.oslo.run import STOCK_DRIVERS, SUBSET, Cell, Outcome, merged, repeat, run
from tests.stress.oslo.schemes import AMQP1, STOCK, ZMQ
from wsgi_harness.engine.engine import Engine
from wsgi_harness.engine.images import Images
from wsgi_harness.report.display import TerminalDisplay
from wsgi_harness.stack.cluster import Cluster
from wsgi_harness.stack.stack import BROKER, Stack, project_name

_CTL_LIMIT = 90.0
_RESTART = "40 green callers, broker restarted"
_BLOCKED = "hub blocked for 4 T"


@dataclass(frozen=True)
class Plan:
    """What is to be run.

    Attributes:
        schemes: of hbshim.
        pythons: an interpreter for each line of oslo.messaging.
        models: the threads that the suite runs in.
        directory: for results and logs.
        display: shows what is being done.
    """

    schemes: tuple[str, ...]
    pythons: dict[str, Path]
    models: tuple[str, ...]
    directory: Path
    display: TerminalDisplay

    @property
    def over_broker(self) -> tuple[str, ...]:
        return tuple(scheme for scheme in self.schemes if scheme != ZMQ)

    @property
    def with_t(self) -> tuple[str, ...]:
        """Over AMQP 1.0 the broker sets T; the regression has cells for that."""
        return tuple(scheme for scheme in self.over_broker if scheme != AMQP1)


def run_failover(plan: Plan, engine: Engine, images: Images) -> list[Outcome]:
    """Run the two tests of the suite that need three brokers."""
    outcomes: list[Outcome] = []
    needed = [
        (version, model, scheme)
        for version in plan.pythons
        for model in plan.models
        for scheme in STOCK_DRIVERS
        if scheme in (STOCK, *plan.over_broker)
    ]
    with (
        Cluster(
            project_name("oslo-cluster"), engine, images.rabbitmq, progress=plan.display.note
        ) as cluster,
        plan.display.stage("the suite on a cluster", total=len(needed)) as advance,
    ):
        for number, (version, model, scheme) in enumerate(needed, 1):
            one = Cell(scheme, version, model, plan.pythons[version], cluster.url())
            outcomes += failover.run(cluster, one, plan.directory / "failover")
            advance(number)
    return merged(outcomes)


def run_suite(plan: Plan, stack: Stack, *, subset: bool, only: tuple[str, ...]) -> list[Outcome]:
    """Run the suite with each scheme, and once more what failed.

    Parameters:
        subset: one test of each kind.
        only: parts of the names of the tests to run; empty for all.
    """
    with ExitStack() as hosts:
        cells = [
            _cell(plan, stack, hosts, version, model, scheme)
            for version in plan.pythons
            for model in plan.models
            for scheme in (STOCK, *plan.schemes)
        ]
        total = 3 * len(cells)
        with plan.display.stage("the functional suite", total=total) as advance:
            ended = iter(range(1, total + 1))
            found = run(
                cells,
                plan.directory / "suite",
                only=[*(SUBSET if subset else ()), *only],
                done=lambda: advance(next(ended)),
            )
        return [repeat(each, plan.directory / "suite") for each in found]


def run_failures(
    plan: Plan, stack: Stack, trials: int
) -> dict[str, list[list[failures.TrialResult]]]:
    """Bring about each of the two failures `trials` times."""
    restarted = functools.partial(
        failures.restart,
        failures.restart_targets(plan.with_t, plan.pythons),
        stack.broker,
        functools.partial(_control, stack),
        plan.directory / "restart",
    )
    blocked = functools.partial(
        failures.blocked,
        failures.blocked_targets(plan.with_t, plan.pythons),
        stack.broker,
        plan.directory / "blocked",
    )
    results: dict[str, list[list[failures.TrialResult]]] = {}
    for title, bring_about in ((_RESTART, restarted), (_BLOCKED, blocked)):
        results[title] = []
        with plan.display.stage(title, total=trials) as advance:
            for number in range(1, trials + 1):
                results[title].append(bring_about())
                advance(number)
    return results


def _cell(
    plan: Plan, stack: Stack, hosts: ExitStack, version: str, model: str, scheme: str
) -> Cell:
    if scheme == ZMQ:
        node = Node()
        hosts.callback(node.close)
        node.start(whole=True)
        local = (("HBSHIM_ZMQ_RPC_ZMQ_IPC_DIR", node.ipc),)
        return Cell(scheme, version, model, plan.pythons[version], node.url, options=local)
    vhost = f"{version}-{model}-{scheme}"
    _control(stack, "add_vhost", vhost)
    _control(stack, "set_permissions", "-p", vhost, stack.broker.user, ".*", ".*", ".*")
    amqp_url = stack.broker.amqp_url(vhost=vhost)
    return Cell(scheme, version, model, plan.pythons[version], amqp_url)


def _control(stack: Stack, *arguments: str) -> None:
    # The cookie that lets the tool in lies in this directory.
    inside = ["env", "HOME=/var/lib/rabbitmq", "rabbitmqctl"]
    stack.exec(BROKER, [*inside, *arguments], timeout=_CTL_LIMIT)
