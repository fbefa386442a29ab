"""The verdicts as a table in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from wsgi_harness.matrix.run import Results
from wsgi_harness.matrix.scenarios import DEPLOYMENTS, SCENARIOS, Deployment, Scenario
from wsgi_harness.matrix.verdict import Outcome, Verdict, exit_code
from wsgi_harness.observe.observation import Observation, Probe

_STYLES = {
    Outcome.PASS: "bold green",
    Outcome.EXPECTED_FAILURE: "green",
    Outcome.WARNED_FAILURE: "green",
    Outcome.AS_EXPECTED: "green",
    Outcome.FAIL: "bold white on red",
    Outcome.UNEXPECTED: "bold black on yellow",
    Outcome.INCONCLUSIVE: "bold black on yellow",
}


# Width of the whole table in columns; a narrower terminal gets it without the probes.
_WIDE = 100


def print_verdicts(console: Console, results: Results) -> None:
    """Print a row for each cell, what contradicts the expectations, and a summary."""
    console.print(f"{results.broker}, T = {results.heartbeat} s", style="bold")
    for deployment in DEPLOYMENTS:
        rows = [
            row
            for row in zip(results.scenarios, results.observations, results.verdicts, strict=True)
            if row[0].deployment is deployment
        ]
        if rows:
            console.print(_table_of(deployment, rows, wide=console.width >= _WIDE))
    _print_reasons(console, results.verdicts)
    console.print(summary(results), style="bold", highlight=False)


def _table_of(
    deployment: Deployment, rows: Sequence[tuple[Scenario, Observation, Verdict]], *, wide: bool
) -> Table:
    table = _titled(deployment, gap=2 if wide else 1)
    table.add_column("cell", no_wrap=True)
    table.add_column("connection")
    table.add_column("failed\nreq.", justify="right")
    table.add_column("lost\nmsg.", justify="right")
    if wide:
        table.add_column("lateness, s\ngreen  native", justify="right", no_wrap=True)
    table.add_column("verdict")
    for scenario, seen, verdict in rows:
        late = [f"{_seconds(seen.green)}  {_seconds(seen.native)}"] if wide else []
        table.add_row(
            scenario.name,
            verdict.seen,
            str(seen.failed_requests),
            str(seen.messages.lost),
            *late,
            Text(verdict.outcome.value, style=_STYLES[verdict.outcome]),
        )
    return table


def _titled(deployment: Deployment, gap: int) -> Table:
    return Table(
        title=f"\n{deployment.title}",
        title_justify="left",
        title_style="bold",
        box=None,
        padding=(0, gap, 0, 0),
        pad_edge=False,
        header_style="underline",
    )


def _print_reasons(console: Console, verdicts: Sequence[Verdict]) -> None:
    for verdict in verdicts:
        for reason in verdict.why:
            console.print(f"{verdict.outcome.value}: {verdict.scenario}: {reason}", markup=False)
        if not verdict.outcome.ok:
            for note in verdict.notes:
                console.print(f"  note: {note}", markup=False)


def summary(results: Results) -> str:
    """Return one sentence about the whole run."""
    outcomes = [verdict.outcome for verdict in results.verdicts]
    if exit_code(results.verdicts) != 0:
        unmet = sum(not outcome.ok for outcome in outcomes)
        return f"{unmet} of {len(outcomes)} expectations were not met."
    parts = [f"Every expectation was met in {_cells(len(outcomes))}."]
    if died := outcomes.count(Outcome.EXPECTED_FAILURE):
        parts.append(f"Without hbshim, connections were lost in {_cells(died)}, as expected.")
    if kept := outcomes.count(Outcome.PASS):
        parts.append(f"With hbshim, no connection, request or message was lost in {_cells(kept)}.")
    return " ".join(parts)


def _cells(number: int) -> str:
    return f"{number} cell{'' if number == 1 else 's'}"


def print_scenarios(console: Console, scenarios: Sequence[Scenario] = SCENARIOS) -> None:
    """Print every scenario, the expected result, and the reason."""
    for deployment in DEPLOYMENTS:
        listed = [scenario for scenario in scenarios if scenario.deployment is deployment]
        if not listed:
            continue
        table = _titled(deployment, gap=2)
        table.add_column("scenario", no_wrap=True)
        for header in ("expected", "what runs in the cell", "why that is expected"):
            table.add_column(header)
        for each in listed:
            table.add_row(each.name, each.expected, each.method.what, each.reason)
        console.print(table)


def _seconds(probe: Probe | None) -> str:
    return f"{'?' if probe is None else format(probe.worst, '.2f'):>6}"
