"""The report's pictures, as SVG to be put into a page.

Okabe and Ito's palette, which colour-blind readers can tell apart; and never colour alone:
each kind of event has a marker, and in the timelines a line, of its own.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MultipleLocator

from wsgi_harness.observation import Observation, Ticks
from wsgi_harness.scenarios import BROKER_PATIENCE, SILENCE, WORLDS, Scenario

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
_GREY, _PATIENCE = "#767676", "#e4e4e4"


@dataclass(frozen=True)
class _Mark:
    label: str
    colour: str
    marker: str
    size: float
    filled: bool = True
    rimmed: bool = False

    @property
    def style(self) -> dict[str, Any]:
        face = self.colour if self.filled else "white"
        return {
            "linestyle": "none",
            "marker": self.marker,
            "markersize": self.size,
            "color": self.colour,
            "markerfacecolor": face,
            "markeredgecolor": "white" if self.rimmed else self.colour,
            "markeredgewidth": 0.7 if self.rimmed else 1.2,
        }


_REQUEST = _Mark("HTTP request, answered", BLACK, "s", 6)
_FAILED = _Mark("HTTP request, failed", BLACK, "s", 7, filled=False)
_CLOSED = _Mark("connection closed", VERMILLION, "X", 9)
_CLIENT_BEAT = _Mark("heartbeat, cell to broker", BLUE, "^", 7.5, rimmed=True)
_SERVER_BEAT = _Mark("heartbeat, broker to cell", SKY, "v", 7.5, rimmed=True)
_GREEN_TICK = _Mark("tick of a green thread", PURPLE, "o", 4, filled=False)
_NATIVE_TICK = _Mark("tick of a native thread", ORANGE, "D", 3.5)
_MARKS = (_REQUEST, _FAILED, _CLOSED, _CLIENT_BEAT, _SERVER_BEAT, _GREEN_TICK, _NATIVE_TICK)

_LANES = ("requests", "connection", "cell → broker", "broker → cell", "green ticks", "native ticks")

_STYLE: dict[Any, Any] = {
    # Text stays text: selectable, and set in a font that the reader has.
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "Helvetica"],
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _GREY,
    "xtick.color": "#333333",
    "ytick.color": "#333333",
}


def legend() -> str:
    """What every marker means, for all timelines."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(9.6, 0.8))
        handles: list[Artist] = [Line2D([], [], label=mark.label, **mark.style) for mark in _MARKS]
        handles += [
            Line2D([], [], color=GREEN, linewidth=5, label="connection open"),
            Patch(color=_PATIENCE, label="2 to 3 T without a byte from the cell"),
        ]
        figure.legend(
            handles=handles,
            ncols=3,
            loc="center",
            frameon=False,
            handletextpad=0.6,
            handlelength=1.4,
            fontsize=9,
        )
        return _svg(figure)


def timeline(seen: Observation, heartbeat: int) -> str:
    """One connection: requests, what the broker says, beats on the wire, ticks of two threads."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(9.6, 2.15), layout="constrained")
        axes = figure.subplots()
        _draw_timeline(axes, seen, heartbeat)
        return _svg(figure)


def _draw_timeline(axes: Axes, seen: Observation, heartbeat: int) -> None:
    origin = seen.silence[0]
    rows = {lane: len(_LANES) - number for number, lane in enumerate(_LANES)}
    end = _end(seen) - origin

    def put(lane: str, mark: _Mark, times: Sequence[float]) -> None:
        shown = [at - origin for at in times if at - origin <= end]
        axes.plot(shown, [rows[lane]] * len(shown), zorder=3, clip_on=False, **mark.style)
        if not shown and lane != "requests":
            axes.text(0, rows[lane], "none", color=_GREY, style="italic", va="center", fontsize=8.5)

    put("requests", _REQUEST, [each.began for each in seen.requests if not each.failed])
    put("requests", _FAILED, [each.began for each in seen.requests if each.failed])
    _draw_patience(axes, seen, origin, heartbeat)
    _draw_life(axes, seen, rows["connection"], origin)
    put("cell → broker", _CLIENT_BEAT, seen.wire.client_beats)
    put("broker → cell", _SERVER_BEAT, seen.wire.server_beats)
    put("green ticks", _GREEN_TICK, _came(seen.green))
    put("native ticks", _NATIVE_TICK, _came(seen.native))
    axes.set_yticks([rows[lane] for lane in _LANES], _LANES)
    axes.set_ylim(0.4, len(_LANES) + 0.6)
    axes.tick_params(axis="y", length=0)
    _time_axis(axes, end, heartbeat)


def _draw_life(axes: Axes, seen: Observation, row: float, origin: float) -> None:
    end = _end(seen)
    closed = seen.broker.closed
    axes.plot(
        [(seen.broker.opened or origin) - origin, (closed or end) - origin],
        [row, row],
        color=GREEN,
        linewidth=5,
        solid_capstyle="butt",
        zorder=2,
    )
    if closed is not None:
        axes.plot([closed - origin], [row], zorder=4, **_CLOSED.style)


def _draw_patience(axes: Axes, seen: Observation, origin: float, heartbeat: int) -> None:
    heard = seen.client_last_heard
    if heard is None:
        return
    began, ended = (heard - origin + times * heartbeat for times in BROKER_PATIENCE)
    if began < _end(seen) - origin:
        axes.axvspan(began, ended, color=_PATIENCE, linewidth=0, zorder=0)


def _end(seen: Observation) -> float:
    return max([seen.silence[1], *(request.ended for request in seen.requests)])


def _came(ticks: Ticks | None) -> list[float]:
    return [] if ticks is None else [came for _, came in ticks.taken]


def _time_axis(axes: Axes, end: float, heartbeat: int) -> None:
    axes.set_xlim(-0.03 * end, end * 1.03)
    axes.xaxis.set_major_locator(MultipleLocator(heartbeat))
    axes.set_xlabel(f"seconds since the connection was opened; a grid line every T = {heartbeat} s")
    axes.grid(axis="x", color="#dddddd", linewidth=0.8, zorder=0)


def overview(scenarios: Sequence[Scenario], observed: Sequence[Observation], heartbeat: int) -> str:
    """All connections in one picture: their lives, and whose ticks came late."""
    pairs = [
        (scenario, seen)
        for scenario, seen in zip(scenarios, observed, strict=True)
        if not seen.problems
    ]
    if not pairs:
        return ""
    rows = _rows([scenario for scenario, _ in pairs])
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(9.6, 1.3 + 0.235 * max(rows.values())), layout="constrained")
        lives, late = figure.subplots(1, 2, sharey=True, width_ratios=[2.1, 1])
        for scenario, seen in pairs:
            _draw_row(lives, seen, rows[scenario.name])
            _draw_lateness(late, seen, rows[scenario.name])
        end = max(_end(seen) - seen.silence[0] for _, seen in pairs)
        _time_axis(lives, end, heartbeat)
        lives.set_xlabel(f"seconds since the connection was opened (T = {heartbeat} s)")
        lives.set_title("life of each connection", fontsize=9.5, loc="left")
        lives.set_yticks(
            [rows[scenario.name] for scenario, _ in pairs],
            [f"{scenario.method.title}, {scenario.library}" for scenario, _ in pairs],
        )
        lives.set_ylim(max(rows.values()) + 0.8, 0.2)
        for world in WORLDS:
            if world.key in rows:
                lives.text(
                    -0.03 * end, rows[world.key], world.title, fontweight="bold", va="center"
                )
        late.set_xscale("log")
        late.axvline(heartbeat / 2, color=_GREY, linewidth=1, linestyle="--")
        late.text(
            heartbeat / 2, 1, "a beat is due \nevery T/2 ", ha="right", va="center", fontsize=8
        )
        late.set_xlim(0.001, 3 * SILENCE * heartbeat)
        late.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        late.set_xlabel("latest tick, seconds late")
        late.set_title("whose clock stood still", fontsize=9.5, loc="left")
        late.grid(axis="x", color="#dddddd", linewidth=0.8)
        for axes in (lives, late):
            axes.tick_params(axis="y", length=0)
        return _svg(figure)


def _rows(scenarios: Sequence[Scenario]) -> dict[str, int]:
    """A row for each cell, and one above each world for its title."""
    rows: dict[str, int] = {}
    number = 0
    for world in WORLDS:
        inside = [scenario for scenario in scenarios if scenario.world is world]
        for key in [world.key, *(scenario.name for scenario in inside)] if inside else []:
            number += 1
            rows[key] = number
    return rows


def _draw_row(axes: Axes, seen: Observation, row: int) -> None:
    origin = seen.silence[0]
    _draw_life(axes, seen, row, origin)
    beats = [at - origin for at in seen.wire.client_beats if at <= _end(seen)]
    axes.plot(beats, [row] * len(beats), zorder=3, **{**_CLIENT_BEAT.style, "markersize": 6})
    for request in seen.requests:
        style = _FAILED.style if request.failed else _REQUEST.style
        axes.plot(
            [request.began - origin], [row], zorder=5, clip_on=False, **{**style, "markersize": 5}
        )


def _draw_lateness(axes: Axes, seen: Observation, row: int) -> None:
    for ticks, mark in ((seen.green, _GREEN_TICK), (seen.native, _NATIVE_TICK)):
        if ticks is not None:
            style = {**mark.style, "markersize": 5.5}
            # A logarithmic axis has no zero: a tick on time is shown as 1 ms late.
            axes.plot([max(ticks.worst, 0.001)], [row], zorder=3, **style)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
