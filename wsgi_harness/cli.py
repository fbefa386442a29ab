"""The command of ``python -m wsgi_harness``, which ``make regression`` runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from wsgi_harness.matrix.scenarios import (
    HEARTBEATS,
    SILENCE,
    Scenario,
    UnknownScenarioError,
    select,
)
from wsgi_harness.report.terminal import (
    ending_well,
    harness_command,
    json_option,
    report_directory,
    result_console,
)


@harness_command(
    passed="every control failed as expected, and every fix passed",
    failed="an expectation was not met: a fix failed, or a control survived",
    not_run="the containers could not be started, or a cell could not be measured",
)
@click.option(
    "--scenario",
    "patterns",
    multiple=True,
    metavar="NAME",
    help="Run only this cell; a name or a glob such as 'hbshim-*-pika'. Repeatable.",
)
@click.option(
    "--heartbeat",
    type=click.IntRange(*HEARTBEATS),
    default=4,
    show_default=True,
    metavar="T",
    help=f"Heartbeat timeout in seconds; the silence lasts {SILENCE} times as long.",
)
@click.option("--rabbitmq-image", metavar="IMAGE", help="Use this image as the broker.")
@json_option
@report_directory("index.html and results.json", "report")
@click.option("--list", "listing", is_flag=True, help="Show every scenario and what is expected.")
def main(
    patterns: Sequence[str],
    heartbeat: int,
    rabbitmq_image: str | None,
    as_json: bool,
    directory: Path | None,
    listing: bool,
) -> None:
    """Reproduce the lost heartbeats under Apache and mod_wsgi, and prove the fix.

    Starts one Apache for each cell of the matrix beside one RabbitMQ, in containers. In each, one
    request opens a connection, nothing happens for a while, and a second request publishes. The
    broker shows which connections are still open.
    """
    try:
        chosen = select(patterns)
    except UnknownScenarioError as error:
        raise click.BadParameter(str(error), param_hint="--scenario") from None
    with ending_well("wsgi_harness"):
        if listing:
            _list(chosen, as_json)
            return
        sys.exit(_run(chosen, heartbeat, rabbitmq_image, as_json, directory or Path("report")))


def _list(chosen: Sequence[Scenario], as_json: bool) -> None:
    from wsgi_harness.report.table import print_scenarios

    if not as_json:
        print_scenarios(result_console(), chosen)
        return
    listed = [
        {"name": each.name, "expected": each.expected, "reason": each.reason} for each in chosen
    ]
    click.echo(json.dumps(listed, indent=2))


def _run(
    chosen: Sequence[Scenario],
    heartbeat: int,
    rabbitmq_image: str | None,
    as_json: bool,
    directory: Path,
) -> int:
    # Slow to import, and most of them need the extra `test`.
    from wsgi_harness.matrix.run import run
    from wsgi_harness.matrix.verdict import exit_code
    from wsgi_harness.report import record, report
    from wsgi_harness.report.display import TerminalDisplay
    from wsgi_harness.report.table import print_verdicts

    report.prepare(directory)
    with TerminalDisplay(Console(stderr=True)) as display:
        results = run(chosen, heartbeat=heartbeat, rabbitmq_image=rabbitmq_image, display=display)
        display.note("drawing the report")
        page = report.write(results, directory)
    if as_json:
        click.echo(json.dumps(record.as_data(results)))
    else:
        print_verdicts(result_console(), results)
        click.echo(f"Report: {page}")
    return exit_code(results.verdicts)
