"""What a run gave: a table in the terminal, and the same as data."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.stress.chaos.faults import FAULTS
from tests.stress.chaos.invariant import SessionResult
from tests.stress.chaos.run import Outcome

#: Rises when a field changes its meaning.
FORMAT = 1
_SHOWN = 20
_COUNTS = ("accepted", "confirmed", "refused", "arrived", "excused", "generations", "truly_silent")


def totals(session_results: list[SessionResult]) -> dict[str, int]:
    """Messages and connections of these sessions."""
    return {
        name: sum(getattr(session_result, name) for session_result in session_results)
        for name in _COUNTS
    }


def detections(outcome: Outcome) -> dict[str, list[float]]:
    """For each kind of fault, after how many seconds each dead connection was known to be dead."""
    found: dict[str, list[float]] = {}
    for session_result in outcome.session_results:
        for kind, seconds in session_result.detections:
            found.setdefault(kind, []).append(seconds)
    return found


def as_data(outcome: Outcome) -> dict[str, Any]:
    """The outcome as JSON takes it; times in seconds, `at` since the first fault's beginning."""
    setting = outcome.setting
    origin = min((fault.began for fault in outcome.faults), default=0.0)
    return {
        "format": FORMAT,
        "held": not outcome.violations,
        "seed": setting.seed,
        "heartbeat": setting.heartbeat,
        "hbshim": setting.shim,
        "sessions": len(outcome.session_results),
        "totals": totals(outcome.session_results),
        "faults": [
            {
                "kind": fault.kind.name,
                "target": fault.target,
                "at": fault.began - origin,
                "lasted": fault.healed - fault.began,
            }
            for fault in outcome.faults
        ],
        "detections": {
            kind: {"count": len(seconds), "worst": max(seconds), "bound": _bound(outcome, kind)}
            for kind, seconds in detections(outcome).items()
        },
        "lateness": {name: journal.lateness for name, journal in outcome.journals.items()},
        "counters": {name: journal.counters for name, journal in outcome.journals.items()},
        "violations": [dataclasses.asdict(violation) for violation in outcome.violations],
    }


def write(outcome: Outcome, path: Path) -> None:
    """Write the data to a file; OSError when that cannot be."""
    path.write_text(json.dumps(as_data(outcome), indent=1) + "\n", encoding="utf-8")


def print_outcome(console: Console, outcome: Outcome) -> None:
    """Print what became of faults, connections and messages, and each breach of the invariant."""
    console.print(_faults(outcome))
    console.print(_messages(outcome))
    for violation in outcome.violations[:_SHOWN]:
        console.print(f"{violation.rule}: {violation.name}: {violation.text}", markup=False)
    if len(outcome.violations) > _SHOWN:
        console.print(f"... and {len(outcome.violations) - _SHOWN} more, see the JSON file")
    console.print(summary(outcome), style="bold", highlight=False)


def summary(outcome: Outcome) -> str:
    """One sentence about the whole run."""
    count = totals(outcome.session_results)
    what = (
        f"{len(outcome.faults)} faults, {len(outcome.session_results)} sessions, "
        f"{count['generations']} connections, {count['arrived']} messages arrived"
    )
    if not outcome.violations:
        return (
            f"The invariant held (seed {outcome.setting.seed}): {what}; {count['confirmed']} "
            f"confirmed, none of them lost; {count['excused']} lost of {count['accepted']} sent "
            "without confirms, all on connections reported dead in time."
        )
    rules = Counter(violation.rule for violation in outcome.violations)
    listed = ", ".join(f"{rule} {times}" for rule, times in rules.most_common())
    return f"The invariant did NOT hold (seed {outcome.setting.seed}): {listed}; {what}."


def _table(title: str, *headers: str) -> Table:
    table = Table(title=f"\n{title}", title_justify="left", title_style="bold", box=None)
    table.add_column(headers[0], no_wrap=True)
    for header in headers[1:]:
        table.add_column(header, justify="right")
    return table


def _bound(outcome: Outcome, kind: str) -> float:
    return FAULTS[kind].bound(outcome.setting.heartbeat)


def _faults(outcome: Outcome) -> Table:
    happened = Counter(fault.kind.name for fault in outcome.faults)
    known = detections(outcome)
    table = _table("Faults", "fault", "times", "deaths known", "worst, s", "allowed, s")
    for name, kind in FAULTS.items():
        if name not in happened:
            continue
        seconds = known.get(name, [])
        cells = [str(len(seconds)), f"{max(seconds):.2f}" if seconds else ""]
        allowed = f"{_bound(outcome, name):.2f}" if kind.kills else "none may die"
        table.add_row(name, str(happened[name]), *cells, allowed)
    return table


def _messages(outcome: Outcome) -> Table:
    headers = ("confirmed", "lost", "accepted", "lost, reported", "refused", "connections")
    table = _table("Messages and connections", "application", *headers)
    for process in outcome.setting.processes:
        session_results = [
            each for each in outcome.session_results if each.place.process == process
        ]
        count = totals(session_results)
        rules = [
            each.rule for session_result in session_results for each in session_result.violations
        ]
        row = [count["confirmed"], rules.count("lost"), count["accepted"], count["excused"]]
        row += [count["refused"], count["generations"]]
        table.add_row(process, *map(str, row))
    return table
