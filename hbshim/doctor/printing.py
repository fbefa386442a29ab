"""Prints the report: one row for each check, with its remedy below."""

from __future__ import annotations

from collections import Counter

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hbshim.doctor.findings import Report, Verdict

STYLES: dict[Verdict, str] = {
    "ok": "green",
    "warning": "yellow",
    "problem": "bold red",
    "unknown": "cyan",
    "not-applicable": "dim",
}
REMEDY = "-> "


def print_report(report: Report, console: Console, *, everything: bool = False) -> None:
    """Print `report`.

    Parameters:
        report: the report.
        console: where to print.
        everything: also print checks that do not apply here.
    """
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in report.findings:
        if finding.verdict == "not-applicable" and not everything:
            continue
        style = STYLES[finding.verdict]
        # Text objects, not strings: text from a peer must not be parsed as markup.
        table.add_row(
            Text(finding.verdict, style), Text(finding.check, "bold"), Text(finding.sentence)
        )
        if finding.remedy:
            table.add_row("", "", Text(REMEDY + finding.remedy, style))
    console.print(table)
    console.print(Text(_sum(report)), soft_wrap=False)


def _sum(report: Report) -> str:
    counts = Counter(finding.verdict for finding in report.findings)
    parts = [f"{counts[verdict]} {verdict}" for verdict in STYLES if counts[verdict]]
    return f"\n{len(report.findings)} checks: {', '.join(parts)}."
