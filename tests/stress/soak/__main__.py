"""``make soak``: memory, descriptors, threads and lateness over hours; ``--help`` shows more."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
from rich.console import Console

from wsgi_harness.report.terminal import (
    ending_well,
    harness_command,
    json_option,
    report_directory,
    result_console,
)

_HOUR = 3600.0


@harness_command(
    passed="nothing is left, and every check was in time",
    failed="something is left, or a check was late",
    not_run="the containers could not be started",
)
@click.option(
    "--hours",
    type=click.FloatRange(min=0.0, min_open=True),
    default=1.0,
    show_default=True,
    help="How long the connections endure; a fraction will do.",
)
@click.option(
    "--cycles",
    type=click.IntRange(min=1),
    default=10_000,
    show_default=True,
    help="Connections that each process opens and closes, before that and once more after it.",
)
@click.option(
    "--connections",
    type=click.IntRange(min=1),
    default=25,
    show_default=True,
    help="Connections of each process that endure.",
)
@click.option(
    "--heartbeat",
    type=click.IntRange(1, 600),
    default=10,
    show_default=True,
    metavar="T",
    help="Heartbeat timeout in seconds.",
)
@click.option("--without-hbshim", is_flag=True, help="What the libraries do by themselves.")
@json_option
@report_directory("index.html and results.json", "build/soak")
def main(
    hours: float,
    cycles: int,
    connections: int,
    heartbeat: int,
    without_hbshim: bool,
    as_json: bool,
    directory: Path | None,
) -> None:
    """Open and close thousands of connections, keep some for hours, and count what is left."""
    with ending_well("soak"):
        held = _run(hours, cycles, connections, heartbeat, not without_hbshim, as_json, directory)
    sys.exit(0 if held else 1)


def _run(
    hours: float,
    cycles: int,
    connections: int,
    heartbeat: int,
    shim: bool,
    as_json: bool,
    directory: Path | None,
) -> bool:
    # Costly, and most of them need the extra `harness`.
    from tests.stress.soak import report
    from tests.stress.soak.run import Setting, run
    from wsgi_harness.paths import build_dir
    from wsgi_harness.report.display import TerminalDisplay
    from wsgi_harness.stack.stack import Stack, project_name

    setting = Setting(hours * _HOUR, cycles, connections, heartbeat, shim=shim)
    directory = directory or build_dir() / "soak"
    directory.mkdir(parents=True, exist_ok=True)
    with TerminalDisplay(Console(stderr=True)) as display:
        with (
            Stack(project_name("soak"), heartbeat=60, progress=display.note) as stack,
            display.stage("soaking", total=setting.limit) as advance,
        ):
            soak_reports = run(setting, stack.broker, advance)
        display.note("drawing the report")
        page = report.write(soak_reports, setting, directory)
    if as_json:
        click.echo(json.dumps(report.as_data(soak_reports, setting)))
    else:
        report.print_soak_reports(result_console(), soak_reports, setting)
        click.echo(f"Report: {page}")
    return not report.complaints(soak_reports, setting)


if __name__ == "__main__":
    main()
