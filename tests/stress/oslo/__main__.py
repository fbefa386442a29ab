"""``make oslo``: oslo.messaging's own functional suite over hbshim's drivers; see ``--help``."""

from __future__ import annotations

import functools
import sys
from contextlib import ExitStack
from pathlib import Path

import click
from rich.console import Console

from wsgi_harness.report.terminal import (
    ending_well,
    harness_command,
    report_directory,
    result_console,
)

_CTL_LIMIT = 90.0
_RESTART = "40 green callers, broker restarted"
_BLOCKED = "hub blocked for 4 T"


@harness_command(
    passed="each scheme of hbshim passes what oslo.messaging's own passes, and survives",
    failed="one does not",
    not_run="the containers could not be started, or an environment could not be made",
)
@click.option(
    "--scheme", "schemes", multiple=True, help="A scheme of hbshim.  [default: all installed]"
)
@click.option(
    "--oslo-version",
    "versions",
    multiple=True,
    metavar="MAJOR.MINOR",
    help="A line of oslo.messaging.  [default: 17.3 and 18.3]",
)
@click.option(
    "--threads",
    "models",
    type=click.Choice(["green", "native"]),
    multiple=True,
    help="Which threads the suite runs in.  [default: both]",
)
@click.option(
    "--part",
    "parts",
    type=click.Choice(["suite", "failover", "failures"]),
    multiple=True,
    help="The functional suite, its two tests that need three brokers, or the two failures with "
    "their controls.  [default: all]",
)
@click.option(
    "--trials",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="How often each failure is brought about.",
)
@click.option("--subset", is_flag=True, help="Of the suite, one test of each kind.")
@click.option("--only", multiple=True, metavar="TEXT", help="Tests whose names hold this.")
@report_directory("results.json and logs", "build/oslo/report")
def main(
    schemes: tuple[str, ...],
    versions: tuple[str, ...],
    models: tuple[str, ...],
    parts: tuple[str, ...],
    trials: int,
    subset: bool,
    only: tuple[str, ...],
    directory: Path | None,
) -> None:
    """Run oslo.messaging's own functional suite, and two failures, over hbshim's schemes.

    Stock ``rabbit://`` runs beside them, with the same broker and the same versions.
    """
    with ending_well("oslo"):
        held = _run(schemes, versions, models, parts, trials, subset, only, directory)
    sys.exit(0 if held else 1)


def _run(
    schemes: tuple[str, ...],
    versions: tuple[str, ...],
    models: tuple[str, ...],
    parts: tuple[str, ...],
    trials: int,
    subset: bool,
    only: tuple[str, ...],
    directory: Path | None,
) -> bool:
    # Costly, and most of them need the extra `harness`.
    from tests.messaging.zmq.nodes import Node
    from tests.stress.oslo import environments, failover, failures, report
    from tests.stress.oslo.run import (
        MODELS,
        STOCK_DRIVERS,
        SUBSET,
        Cell,
        Outcome,
        merged,
        repeat,
        run,
    )
    from tests.stress.oslo.schemes import AMQP1, STOCK, ZMQ, ours
    from wsgi_harness.engine.images import prepare
    from wsgi_harness.paths import build_dir
    from wsgi_harness.report.display import TerminalDisplay
    from wsgi_harness.stack.cluster import Cluster
    from wsgi_harness.stack.stack import BROKER, Stack, project_name

    known = (*ours(), ZMQ)
    if unknown := sorted(set(schemes) - set(known)):
        raise click.UsageError(
            f"no scheme of hbshim: {', '.join(unknown)}; there are {', '.join(known)}"
        )
    chosen = schemes or known
    over_broker = tuple(scheme for scheme in chosen if scheme != ZMQ)
    # Over AMQP 1.0 the broker sets T; the regression has cells for that.
    with_t = tuple(scheme for scheme in over_broker if scheme != AMQP1)
    directory = directory or build_dir() / "oslo" / "report"
    directory.mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    trial_results: dict[str, list[list[failures.TrialResult]]] = {}
    with TerminalDisplay(Console(stderr=True)) as display:
        pythons = {
            version: environments.prepare(version, display.note)
            for version in versions or environments.VERSIONS
        }
        prepared = engine, images = prepare(progress=display.note)
        if not parts or "failover" in parts:
            project = project_name("oslo-cluster")
            with Cluster(project, engine, images.rabbitmq, progress=display.note) as cluster:
                needed = [
                    (version, model, scheme)
                    for version in pythons
                    for model in models or MODELS
                    for scheme in STOCK_DRIVERS
                    if scheme in (STOCK, *over_broker)
                ]
                with display.stage("the suite on a cluster", total=len(needed)) as advance:
                    for number, (version, model, scheme) in enumerate(needed, 1):
                        one = Cell(scheme, version, model, pythons[version], cluster.url())
                        outcomes += failover.run(cluster, one, directory / "failover")
                        advance(number)
            outcomes = merged(outcomes)
        with (
            Stack(
                project_name("oslo"), heartbeat=60, progress=display.note, prepared=prepared
            ) as stack,
            ExitStack() as hosts,
        ):
            # The cookie that lets the tool in lies in this directory.
            inside = ["env", "HOME=/var/lib/rabbitmq", "rabbitmqctl"]

            def control(*arguments: str) -> None:
                stack.exec(BROKER, [*inside, *arguments], timeout=_CTL_LIMIT)

            def cell(version: str, model: str, scheme: str) -> Cell:
                if scheme == ZMQ:
                    node = Node()
                    hosts.callback(node.close)
                    node.start(whole=True)
                    local = (("HBSHIM_ZMQ_RPC_ZMQ_IPC_DIR", node.ipc),)
                    return Cell(scheme, version, model, pythons[version], node.url, options=local)
                vhost = f"{version}-{model}-{scheme}"
                control("add_vhost", vhost)
                control("set_permissions", "-p", vhost, stack.broker.user, ".*", ".*", ".*")
                amqp_url = stack.broker.amqp_url(vhost=vhost)
                return Cell(scheme, version, model, pythons[version], amqp_url)

            if not parts or "suite" in parts:
                cells = [
                    cell(version, model, scheme)
                    for version in pythons
                    for model in models or MODELS
                    for scheme in (STOCK, *chosen)
                ]
                with display.stage("the functional suite", total=3 * len(cells)) as advance:
                    ended = iter(range(1, 3 * len(cells) + 1))
                    found = run(
                        cells,
                        directory / "suite",
                        only=[*(SUBSET if subset else ()), *only],
                        done=lambda: advance(next(ended)),
                    )
                found = [repeat(each, directory / "suite") for each in found]
                outcomes = merged([*found, *outcomes])
            if not parts or "failures" in parts:
                restarted = functools.partial(
                    failures.restart,
                    failures.restart_targets(with_t, pythons),
                    stack.broker,
                    control,
                    directory / "restart",
                )
                blocked = functools.partial(
                    failures.blocked,
                    failures.blocked_targets(with_t, pythons),
                    stack.broker,
                    directory / "blocked",
                )
                for title, bring_about in ((_RESTART, restarted), (_BLOCKED, blocked)):
                    trial_results[title] = []
                    with display.stage(title, total=trials) as advance:
                        for number in range(1, trials + 1):
                            trial_results[title].append(bring_about())
                            advance(number)
    console = result_console()
    if outcomes:
        report.print_outcomes(console, outcomes)
    for title, of_trials in trial_results.items():
        report.print_trials(console, title, of_trials)
    complaints = report.complaints(outcomes, trial_results)
    for text in complaints:
        click.echo(f"- {text}")
    click.echo(
        f"Results: {report.write(report.as_data(outcomes, trial_results, complaints), directory)}"
    )
    return not complaints


if __name__ == "__main__":
    main()
