"""Writes the report: index.html for people, results.json for programs, and overview.svg."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from wsgi_harness.errors import HarnessError
from wsgi_harness.matrix.run import Results
from wsgi_harness.matrix.scenarios import (
    DEPLOYMENTS,
    MESSAGES,
    METHODS,
    PROBES,
    SILENCE,
    Scenario,
)
from wsgi_harness.matrix.verdict import Verdict, exit_code
from wsgi_harness.observe.observation import Observation
from wsgi_harness.report import overview, plots, record
from wsgi_harness.report.page import CELL, PAGE
from wsgi_harness.report.table import summary

Row = tuple[Scenario, Observation, Verdict]


class ReportError(HarnessError):
    """The report cannot be written to the requested directory."""


def prepare(directory: Path) -> None:
    """Create the report's directory, so that a wrong path is reported before the run.

    Raises:
        ReportError: it cannot be created or written to.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / "results.json"
        probe.touch()
    except OSError as error:
        raise ReportError(
            f"cannot write a report to {directory} ({error.strerror}); name another with --report"
        ) from None


def write(results: Results, directory: Path) -> Path:
    """Write the files and return the page's path.

    Raises:
        ReportError: they cannot be written.
    """
    prepare(directory)
    data = json.dumps(record.as_data(results), indent=1)
    (directory / "results.json").write_text(data + "\n", encoding="utf-8")
    (directory / "overview.svg").write_text(_picture(results), encoding="utf-8")
    page = directory / "index.html"
    page.write_text(render(results), encoding="utf-8")
    return page


def _picture(results: Results) -> str:
    """Draw the connections of the first setup, in which the controls fail, for use elsewhere."""
    pairs = zip(results.scenarios, results.observations, strict=True)
    shown = [pair for pair in pairs if pair[0].deployment is DEPLOYMENTS[0]]
    return overview.overview(
        [scenario for scenario, _ in shown], [seen for _, seen in shown], results.heartbeat
    )


def render(results: Results) -> str:
    """Return the page."""
    rows = list(zip(results.scenarios, results.observations, results.verdicts, strict=True))
    return PAGE.substitute(
        headline=escape(summary(results)),
        tone="ok" if exit_code(results.verdicts) == 0 else "bad",
        facts=escape(_facts(results)),
        findings=_findings(results.verdicts),
        silence=SILENCE * results.heartbeat,
        factor=SILENCE,
        messages=MESSAGES,
        probes=PROBES,
        grid=_grid(rows),
        legend=plots.legend(),
        overview=overview.overview(results.scenarios, results.observations, results.heartbeat),
        cells="".join(_cell(*row, results.heartbeat) for row in rows),
    )


def _facts(results: Results) -> str:
    began = record.as_data(results)["began"]
    took = sum(results.durations.values())
    return (
        f"{began} · {results.broker} · T = {results.heartbeat} s · "
        f"{len(results.scenarios)} cells side by side in {took:.0f} s · {results.engine}"
    )


def _findings(verdicts: tuple[Verdict, ...]) -> str:
    found = [
        f"<li><b>{verdict.outcome.value}</b> "
        f'<a href="#{verdict.scenario}">{verdict.scenario}</a>: {escape(why)}</li>'
        for verdict in verdicts
        for why in verdict.why
    ]
    return f"<ul>{''.join(found)}</ul>" if found else ""


def _grid(rows: list[Row]) -> str:
    """Return the table: strategies in rows, setups and libraries in columns."""
    over_amqp1 = [row for row in rows if row[0].deployment.protocol == "1.0"]
    by_driver = [row for row in rows if row[0].deployment.oslo and row not in over_amqp1]
    by_hand = [row for row in rows if row not in over_amqp1 and row not in by_driver]
    parts = (
        ("", by_hand),
        ("<h3>With oslo.messaging, by the scheme of the transport's URL</h3>", by_driver),
        ("<h3>Over AMQP 1.0</h3>", over_amqp1),
    )
    return "".join(title + _table(part) for title, part in parts if part)


def _table(rows: list[Row]) -> str:
    found = {(row[0].method.key, row[0].deployment.key, row[0].library): row for row in rows}
    deployments = [
        deployment for deployment in DEPLOYMENTS if any(key[1] == deployment.key for key in found)
    ]
    methods = [method for method in METHODS if any(key[0] == method.key for key in found)]
    columns = [
        (deployment, library) for deployment in deployments for library in deployment.libraries
    ]
    head = "".join(
        f'<th colspan="{len(deployment.libraries)}">{escape(deployment.title)}</th>'
        for deployment in deployments
    )
    libraries = "".join(f"<th>{library}</th>" for _, library in columns)
    controls = [row[0].method for row in rows if row[0].is_control]
    lines = [f"<tr><th></th>{head}</tr>", f"<tr><th>keepalive</th>{libraries}</tr>"]
    for title, inside in (
        ("without hbshim", [method for method in methods if method in controls]),
        ("with hbshim", [method for method in methods if method not in controls]),
    ):
        if inside:
            lines.append(f'<tr class="group"><th>{title}</th></tr>')
        for method in inside:
            fields = "".join(
                _field(found.get((method.key, deployment.key, library)))
                for deployment, library in columns
            )
            title = f'<th title="{escape(method.what)}">{escape(method.title)}</th>'
            lines.append(f"<tr>{title}{fields}</tr>")
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def _field(row: Row | None) -> str:
    if row is None:
        return '<td class="none">–</td>'
    scenario, seen, verdict = row
    text = f"{escape(_symbol(seen))}<small>{escape(verdict.outcome.value)}</small>"
    return f'<td class="{_classes(seen, verdict)}"><a href="#{scenario.name}">{text}</a></td>'


def _symbol(seen: Observation) -> str:
    if seen.problems:
        return "? not measured"
    return "✔ alive" if seen.survived else "✘ closed"


def _classes(seen: Observation, verdict: Verdict) -> str:
    state = "alive" if seen.survived else "closed"
    classes = ["unknown" if seen.problems else state]
    return " ".join(classes if verdict.outcome.ok else [*classes, "unmet"])


def _cell(scenario: Scenario, seen: Observation, verdict: Verdict, heartbeat: int) -> str:
    return CELL.substitute(
        name=scenario.name,
        title=escape(f"{scenario.method.title}, {scenario.library} · {scenario.deployment.title}"),
        what=escape(scenario.method.what),
        classes=_classes(seen, verdict),
        verdict=escape(verdict.outcome.value),
        expected=scenario.expected,
        reason=escape(scenario.reason),
        seen=escape(_seen(seen, verdict)),
        remarks="".join(
            [f"<p><b>{verdict.outcome.value}:</b> {escape(text)}</p>" for text in verdict.why]
            + [f"<p><b>Note:</b> {escape(text)}</p>" for text in verdict.notes]
        ),
        timeline="" if seen.problems else plots.timeline(seen, heartbeat),
        details="".join(_details(seen)),
    )


def _seen(seen: Observation, verdict: Verdict) -> str:
    if seen.problems:
        return "not measured."
    reason = f" (“{seen.broker.reason}”)" if seen.broker.reason else ""
    counts = (
        f"failed requests {seen.failed_requests}, messages arrived "
        f"{seen.messages.arrived} of {seen.messages.asked}"
    )
    errors = [request.error for request in seen.requests if request.error]
    errors_seen = f"; the application got {'; '.join(errors)}" if errors else ""
    return f"{verdict.seen}{reason}; {counts}{errors_seen}."


def _details(seen: Observation) -> Iterator[str]:
    if seen.shim:
        yield _folded("recorded by hbshim", _account(seen.shim))
    if seen.log:
        yield _folded("the end of Apache's log", "\n".join(seen.log))


def _folded(title: str, text: str) -> str:
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"


def _account(shim: Mapping[str, Any]) -> str:
    choice = shim["detected"]["choice"]
    lines = [f"detect(): {choice['worker']}: {choice['reason']}"]
    lines += [f"event {each['kind']}: {each['detail']}" for each in shim["events"]]
    lines += [f"{name}: {count}" for name, count in sorted(shim["counters"].items())]
    return "\n".join(lines)
