"""The report's first picture: all connections, one row each, and the lateness of their threads."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from wsgi_harness.matrix.scenarios import DEPLOYMENTS, SILENCE, Scenario
from wsgi_harness.observe.observation import Observation
from wsgi_harness.report.plots import (
    CLIENT_HEARTBEAT,
    CLOSED,
    FAILED,
    GREEN_PROBE,
    GREY,
    NATIVE_PROBE,
    REQUEST,
    STYLE,
    add_legend,
    as_svg,
    begin_of,
    draw_life,
    end_of,
    left_of,
    time_axis,
)

_MARKS = (REQUEST, FAILED, CLOSED, CLIENT_HEARTBEAT, GREEN_PROBE, NATIVE_PROBE)


def overview(scenarios: Sequence[Scenario], observed: Sequence[Observation], heartbeat: int) -> str:
    """Draw all connections in one picture: their lifetime, and the lateness of their threads."""
    pairs = [
        (scenario, seen)
        for scenario, seen in zip(scenarios, observed, strict=True)
        if not seen.problems
    ]
    if not pairs:
        return ""
    rows = _rows([scenario for scenario, _ in pairs])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 1.9 + 0.235 * max(rows.values())), layout="constrained")
        lives, late = figure.subplots(1, 2, sharey=True, width_ratios=[2.1, 1])
        for scenario, seen in pairs:
            _draw_row(lives, seen, rows[scenario.name])
            _draw_lateness(late, seen, rows[scenario.name])
        end = max(end_of(seen) - seen.silence[0] for _, seen in pairs)
        begin = min(begin_of(seen) - seen.silence[0] for _, seen in pairs)
        time_axis(lives, begin, end, heartbeat)
        lives.set_xlabel(f"seconds since the connection was opened (T = {heartbeat} s)")
        lives.set_title("lifetime of each connection", fontsize=9.5, loc="left")
        lives.set_yticks(
            [rows[scenario.name] for scenario, _ in pairs],
            [f"{scenario.method.title}, {scenario.library}" for scenario, _ in pairs],
        )
        for label, (scenario, _) in zip(lives.get_yticklabels(), pairs, strict=True):
            label.set_fontweight("bold" if scenario.is_fix else "normal")
        lives.set_ylim(max(rows.values()) + 0.8, 0.2)
        for deployment in DEPLOYMENTS:
            if deployment.key in rows:
                left = left_of(begin, end)
                lives.text(
                    left, rows[deployment.key], deployment.title, fontweight="bold", va="center"
                )
        late.set_xscale("log")
        late.axvline(heartbeat / 2, color=GREY, linewidth=1, linestyle="--")
        late.text(
            heartbeat / 2, 1, "a heartbeat is due \nevery T/2 ", ha="right", va="center", fontsize=8
        )
        late.set_xlim(0.0008, 3 * SILENCE * heartbeat)
        late.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        late.set_xlabel("latest probe, seconds late")
        late.set_title("which thread was late", fontsize=9.5, loc="left")
        late.grid(axis="x", color="#dddddd", linewidth=0.8)
        for axes in (lives, late):
            axes.tick_params(axis="y", length=0)
        add_legend(figure, _MARKS)
        return as_svg(figure)


def _rows(scenarios: Sequence[Scenario]) -> dict[str, int]:
    """Return a row for each cell, and one above each setup for its title."""
    rows: dict[str, int] = {}
    number = 0
    for deployment in DEPLOYMENTS:
        inside = [scenario for scenario in scenarios if scenario.deployment is deployment]
        for key in [deployment.key, *(scenario.name for scenario in inside)] if inside else []:
            number += 1
            rows[key] = number
    return rows


def _draw_row(axes: Axes, seen: Observation, row: int) -> None:
    origin = seen.silence[0]
    draw_life(axes, seen, row, origin)
    heartbeats = [at - origin for at in seen.wire.client_heartbeats if at <= end_of(seen)]
    axes.plot(
        heartbeats, [row] * len(heartbeats), zorder=3, **{**CLIENT_HEARTBEAT.style, "markersize": 6}
    )
    for request in seen.requests:
        style = FAILED.style if request.failed else REQUEST.style
        axes.plot(
            [request.began - origin], [row], zorder=5, clip_on=False, **{**style, "markersize": 5}
        )


def _draw_lateness(axes: Axes, seen: Observation, row: int) -> None:
    for probe, mark in ((seen.green, GREEN_PROBE), (seen.native, NATIVE_PROBE)):
        if probe is not None:
            style = {**mark.style, "markersize": 5.5}
            # A logarithmic axis has no zero: a probe on time is shown as 1 ms late.
            axes.plot([max(probe.worst, 0.001)], [row], zorder=3, **style)
