"""What `make oslo` found: two tables in the terminal, and the same as data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.stress.oslo import failures, run
from tests.stress.oslo.failures import TrialResult
from tests.stress.oslo.run import Outcome
from tests.stress.oslo.suite import PACKAGE

#: Rises when a field changes its meaning.
FORMAT = 1


def short(test: str) -> str:
    """Return a test's name without the package that all of them share."""
    return test.removeprefix(f"{PACKAGE}.")


def _second(test: str) -> str:
    return f"({short(test)})"


def print_outcomes(console: Console, outcomes: Sequence[Outcome]) -> None:
    """Print a line for each scheme, version and concurrency model."""
    table = Table(title="oslo.messaging's functional suite")
    for column in ("version", "threads", "scheme"):
        table.add_column(column)
    for column in ("passed", "failed", "skipped", "seconds"):
        table.add_column(column, justify="right")
    table.add_column("failures, and what passed at its second try", overflow="fold")
    for each in outcomes:
        counts = (str(each.count(outcome)) for outcome in ("passed", "failed", "skipped"))
        table.add_row(
            each.cell.version,
            each.cell.model,
            f"{each.cell.scheme}://",
            *counts,
            f"{each.seconds:.0f}",
            "\n".join([*map(short, each.failures()), *map(_second, each.repeated)]),
        )
    console.print(table)


def print_trials(console: Console, title: str, trials: Sequence[Sequence[TrialResult]]) -> None:
    """Print a line for each target of a failure: in how many trials it survived."""
    table = Table(title=title)
    for column in ("version", "scheme", "in_pthread"):
        table.add_column(column)
    table.add_column("survived", justify="right")
    table.add_column("s until well again", justify="right")
    table.add_column("what became of it", overflow="fold")
    for target in dict.fromkeys(trial_result.target for trial in trials for trial_result in trial):
        trial_results = [
            trial_result
            for trial in trials
            for trial_result in trial
            if trial_result.target == target
        ]
        after = [
            trial_result.after for trial_result in trial_results if trial_result.after is not None
        ]
        table.add_row(
            target.version,
            f"{target.scheme}://{' (control)' if target.control else ''}",
            target.in_pthread or "",
            f"{sum(each.survived for each in trial_results)} of {len(trial_results)}",
            f"{min(after):.1f} to {max(after):.1f}" if after else "",
            "\n".join(dict.fromkeys(trial_result.what for trial_result in trial_results)),
        )
    console.print(table)


def as_data(
    outcomes: Sequence[Outcome],
    trial_results: dict[str, list[list[TrialResult]]],
    complaints: Sequence[str],
) -> dict[str, Any]:
    """Return everything as JSON takes it."""
    return {
        "format": FORMAT,
        "held": not complaints,
        "complaints": list(complaints),
        "suite": [
            {
                "scheme": each.cell.scheme,
                "version": each.cell.version,
                "model": each.cell.model,
                "seconds": each.seconds,
                "repeated": list(map(short, each.repeated)),
                "tests": {short(name): outcome for name, outcome in each.tests.items()},
                "texts": {short(name): text for name, text in each.texts.items() if text},
            }
            for each in outcomes
        ],
        "failures": {
            title: [[failures.as_data(trial_result) for trial_result in trial] for trial in trials]
            for title, trials in trial_results.items()
        },
    }


def write(data: dict[str, Any], directory: Path) -> Path:
    """Write the data down and return where."""
    path = directory / "results.json"
    path.write_text(json.dumps(data, indent=1), encoding="utf-8")
    return path


def complaints(
    outcomes: Sequence[Outcome], trial_results: dict[str, list[list[TrialResult]]]
) -> list[str]:
    """Return everything that must not be."""
    found = run.complaints(outcomes)
    for title, trials in trial_results.items():
        found += [f"{title}: {text}" for trial in trials for text in failures.complaints(trial)]
    return found
