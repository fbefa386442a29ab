"""What a soak gave: a page with a plot, the same as data, and a table in the terminal."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from tests.stress.soak.run import Setting, SoakReport
from wsgi_harness.report.plots import BLUE, GREEN, ORANGE, PURPLE, STYLE, VERMILLION, as_svg

#: Rises when a field changes its meaning.
FORMAT = 1
_MEBIBYTE = 1024 * 1024
#: Colour and line style together, so that neither alone has to be distinguished.
_LINES = ((BLUE, "-"), (ORANGE, "--"), (GREEN, "-."), (PURPLE, ":"), (VERMILLION, "-"))

_PANELS: tuple[tuple[str, Callable[[dict[str, Any]], float]], ...] = (
    ("resident memory, MiB", lambda sample: sample["resident"] / _MEBIBYTE),
    ("descriptors", lambda sample: sample["descriptors"]),
    ("threads", lambda sample: sample["threads"]),
    ("latest look, ms late", lambda sample: 1000 * sample["lateness"]),
)

_PAGE = Template(
    """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>hbshim soak: $headline</title>
<style>
  body { font: 16px/1.5 system-ui, "DejaVu Sans", Verdana, Arial, sans-serif; color: #1a1a1a;
         background: #fff; max-width: 64rem; margin: 2rem auto; padding: 0 1.25rem; }
  .headline { font-size: 1.1rem; padding: .7rem 1rem; border-left: 8px solid; }
  .ok { border-color: #009E73; background: #e9f6f2; }
  .bad { border-color: #000; background: #fdf3d5; }
  table { border-collapse: collapse; font-size: .9rem; } td, th { padding: .2rem .8rem;
         text-align: right; } td:first-child, th:first-child { text-align: left; }
  svg { display: block; width: 100%; height: auto; }
</style>
</head>
<body>
<h1>hbshim soak</h1>
<p>$facts</p>
<p class="headline $tone">$headline</p>
$complaints
<figure role="img" aria-label="Memory, descriptors, threads and lateness over time">$plot</figure>
<h2>At rest</h2>
$table
<p>The same as data: <a href="results.json">results.json</a>.</p>
</body>
</html>
"""
)


def complaints(soak_reports: Sequence[SoakReport], setting: Setting) -> list[str]:
    """Everything that must not be, each with its target's name."""
    return [
        f"{soak_report.name}: {text}"
        for soak_report in soak_reports
        for text in soak_report.complaints(setting)
    ]


def as_data(soak_reports: Sequence[SoakReport], setting: Setting) -> dict[str, Any]:
    """The outcome as JSON takes it; times in seconds, memory in bytes."""
    found = complaints(soak_reports, setting)
    return {
        "format": FORMAT,
        "held": not found,
        "complaints": found,
        "heartbeat": setting.heartbeat,
        "cycles": setting.cycles,
        "seconds": setting.seconds,
        "connections": setting.connections,
        "hbshim": setting.shim,
        "targets": {
            soak_report.name: {
                "censuses": soak_report.censuses,
                "growth_in_cycles": soak_report.growth_in_cycles,
                "growth_in_endurance": soak_report.growth_in_endurance,
                "samples": soak_report.samples,
            }
            for soak_report in soak_reports
        },
    }


def write(soak_reports: Sequence[SoakReport], setting: Setting, directory: Path) -> Path:
    """Write results.json and index.html; return the page. OSError when that cannot be."""
    data = json.dumps(as_data(soak_reports, setting)) + "\n"
    (directory / "results.json").write_text(data, encoding="utf-8")
    page = directory / "index.html"
    page.write_text(render(soak_reports, setting), encoding="utf-8")
    return page


def render(soak_reports: Sequence[SoakReport], setting: Setting) -> str:
    """The page."""
    found = complaints(soak_reports, setting)
    listed = "".join(f"<li>{escape(text)}</li>" for text in found)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
        for row in _rows(soak_reports)
    )
    headers = "".join(f"<th>{escape(header)}</th>" for header in _HEADERS)
    return _PAGE.substitute(
        headline=escape(summary(soak_reports, setting)),
        tone="bad" if found else "ok",
        facts=escape(_facts(setting)),
        complaints=f"<ul>{listed}</ul>" if found else "",
        plot=plot(soak_reports),
        table=f"<table><tr>{headers}</tr>{rows}</table>",
    )


def plot(soak_reports: Sequence[SoakReport]) -> str:
    """Memory, descriptors, threads and lateness over time, a line for each target, as SVG."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 9.0), layout="constrained")
        axes = figure.subplots(len(_PANELS), 1, sharex=True)
        for panel, (title, value) in zip(axes, _PANELS, strict=True):
            for soak_report, (colour, style) in zip(
                soak_reports, _LINES * len(soak_reports), strict=False
            ):
                times = [sample["at"] / 60 for sample in soak_report.samples]
                values = [value(sample) for sample in soak_report.samples]
                panel.plot(
                    times, values, style, color=colour, linewidth=1.3, label=soak_report.name
                )
            panel.set_ylabel(title)
            panel.set_ylim(bottom=0)
            panel.grid(axis="y", color="#dddddd", linewidth=0.8)
        axes[-1].set_xlabel("minutes")
        figure.legend(*axes[0].get_legend_handles_labels(), ncols=4, loc="outside upper center")
        return as_svg(figure)


def print_soak_reports(
    console: Console, soak_reports: Sequence[SoakReport], setting: Setting
) -> None:
    """Print what each target held at rest, and what must not be."""
    table = Table(title=_facts(setting), title_justify="left", box=None)
    for header in _HEADERS:
        table.add_column(header, justify="left" if header == _HEADERS[0] else "right")
    for row in _rows(soak_reports):
        table.add_row(*row)
    console.print(table)
    for text in complaints(soak_reports, setting):
        console.print(text, markup=False)
    console.print(summary(soak_reports, setting), style="bold", highlight=False)


def summary(soak_reports: Sequence[SoakReport], setting: Setting) -> str:
    """One sentence about the whole run."""
    found = complaints(soak_reports, setting)
    if found:
        return f"{len(found)} complaint{'s' if len(found) > 1 else ''}."
    cycles = 2 * setting.cycles * len(soak_reports)
    return (
        f"After {cycles} connections opened and closed, nothing remains in "
        f"{len(soak_reports)} processes."
    )


def _facts(setting: Setting) -> str:
    return (
        f"{'With' if setting.shim else 'Without'} hbshim; T = {setting.heartbeat} s; in each "
        f"process {setting.cycles} cycles, {setting.seconds:.0f} s with {setting.connections} "
        f"connections, {setting.cycles} cycles"
    )


_HEADERS = ("target", "at rest after", "MiB", "descriptors", "threads", "remaining")


def _rows(soak_reports: Sequence[SoakReport]) -> list[list[str]]:
    return [
        [
            soak_report.name,
            phase,
            f"{census['resident'] / _MEBIBYTE:.1f}",
            str(census["descriptors"]),
            str(census["threads"]),
            ", ".join(f"{count} {what}" for what, count in census["left_over"].items())
            or "nothing",
        ]
        for soak_report in soak_reports
        for phase, census in soak_report.censuses.items()
    ]
