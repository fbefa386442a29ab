"""``make oslo``: oslo.messaging's own functional suite over hbshim's drivers; see ``--help``."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Console

from wsgi_harness.report.terminal import (
    ending_well,
    harness_command,
    report_directory,
    result_console,
)


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
    from tests.stress.oslo import environments, failures, report
    from tests.stress.oslo.parts import Plan, run_failover, run_failures, run_suite
    from tests.stress.oslo.run import MODELS, Outcome, merged
    from tests.stress.oslo.schemes import ZMQ, ours
    from wsgi_harness.engine.images import prepare
    from wsgi_harness.paths import build_dir
    from wsgi_harness.report.display import TerminalDisplay
    from wsgi_harness.stack.stack import Stack, project_name

    known = (*ours(), ZMQ)
    if unknown := sorted(set(schemes) - set(known)):
        raise click.UsageError(
            f"no scheme of hbshim: {', '.join(unknown)}; there are {', '.join(known)}"
        )
    directory = directory or build_dir() / "oslo" / "report"
    directory.mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    trial_results: dict[str, list[list[failures.TrialResult]]] = {}
    with TerminalDisplay(Console(stderr=True)) as display:
        pythons = {
            version: environments.prepare(version, display.note)
            for version in versions or environments.VERSIONS
        }
        plan = Plan(schemes or known, pythons, models or MODELS, directory, display)
        prepared = prepare(progress=display.note)
        if not parts or "failover" in parts:
            outcomes = run_failover(plan, *prepared)
        with Stack(
            project_name("oslo"), heartbeat=60, progress=display.note, prepared=prepared
        ) as stack:
            if not parts or "suite" in parts:
                found = run_suite(plan, stack, subset=subset, only=only)
                outcomes = merged([*found, *outcomes])
            if not parts or "failures" in parts:
                trial_results = run_failures(plan, stack, trials)
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
