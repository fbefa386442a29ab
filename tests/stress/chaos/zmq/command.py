"""``make chaos ARGS="--driver hbzmq"``: faults at random where messages travel over ZeroMQ."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.messaging.zmq.machines import SETUP
from tests.stress.chaos.zmq.faults import SENDS
from tests.stress.chaos.zmq.plan import Step, draw
from tests.stress.chaos.zmq.run import Outcome, Setting, Testbed
from wsgi_harness.engine.images import prepare
from wsgi_harness.report.display import TerminalDisplay

#: Rises when a field changes its meaning.
FORMAT = 1

_SHOWN = 20


def run(
    setting: Setting, seconds: float, names: Sequence[str], logs: Path, display: TerminalDisplay
) -> Outcome:
    """Run faults for so many seconds; return what became of the messages.

    Parameters:
        names: of the faults to choose from; empty: all that can be made here.
        logs: where journals go.
    """
    kinds = [kind for kind in setting.kinds if not names or kind.name in names]
    steps = draw(
        setting.seed, seconds, setting.heartbeat, setting.host_names, setting.clients, kinds
    )
    logs.mkdir(exist_ok=True, parents=True)
    for earlier in (*logs.glob("*.log"), *logs.glob("*.jsonl")):
        earlier.unlink()
    engine, images = prepare(progress=display.note)
    display.note(f"seed {setting.seed}: {len(steps)} faults, machines are {SETUP}")
    with Testbed(setting, engine, images, logs) as testbed:
        with display.stage("faults", total=max(len(steps), 1)) as advance:

            def reported(step: Step) -> None:
                display.note(f"{step.at:6.1f} s  {step.kind.name} {step.target} {step.lasts:.1f} s")
                advance(steps.index(step) + 1)

            testbed.carry_out(steps, reported)
        display.note("all is well again; waiting for the last messages")
        return testbed.outcome()


def as_data(outcome: Outcome) -> dict[str, Any]:
    """The outcome as JSON takes it."""
    result = outcome.result
    return {
        "format": FORMAT,
        "held": not result.violations,
        "seed": outcome.setting.seed,
        "heartbeat": outcome.setting.heartbeat,
        "machines": SETUP,
        "faults": dict(Counter(fault.kind.name for fault in outcome.faults)),
        "totals": {f"{what}: {how}": n for (what, how), n in sorted(result.totals.items())},
        "missing": result.missing,
        "counted": result.counted,
        "copies": result.copies,
        "slowest_beyond_timeout": result.slowest,
        "violations": [dataclasses.asdict(each) for each in result.violations],
    }


def print_outcome(console: Console, outcome: Outcome) -> None:
    """Print what became of each kind of message, and each breach of the invariant."""
    result = outcome.result
    table = Table(title="\nMessages", title_justify="left", title_style="bold", box=None)
    for header in ("kind", "how it ended", "messages"):
        table.add_column(header, justify="right" if header == "messages" else "left")
    for what in SENDS:
        for (kind, how), number in result.totals.most_common():
            if kind == what:
                table.add_row(what, how, str(number))
    console.print(table)
    for violation in result.violations[:_SHOWN]:
        console.print(f"{violation.rule}: {violation.id}: {violation.text}", markup=False)
    if len(result.violations) > _SHOWN:
        console.print(f"... and {len(result.violations) - _SHOWN} more, see the JSON file")
    console.print(summary(outcome), style="bold", highlight=False)


def summary(outcome: Outcome) -> str:
    """One sentence about the whole run."""
    result = outcome.result
    seed = outcome.setting.seed
    sent = sum(result.totals.values())
    if result.violations:
        rules = Counter(each.rule for each in result.violations)
        listed = ", ".join(f"{rule} {times}" for rule, times in rules.most_common())
        return f"The invariant did NOT hold (seed {seed}): {listed}; {sent} messages."
    return (
        f"The invariant held (seed {seed}): {len(outcome.faults)} faults, {sent} messages; every "
        f"one ended once and in time, nothing ran twice; {result.missing} of those that nothing "
        f"acknowledges were lost, each near a fault that may lose it, or counted."
    )


def dump(outcome: Outcome, path: Path) -> None:
    """Write the outcome to a file; OSError when that cannot be."""
    path.write_text(json.dumps(as_data(outcome), indent=1) + "\n", encoding="utf-8")
