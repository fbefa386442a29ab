"""The report's pictures, as SVG for embedding: the markers, and one timeline.

Okabe and Ito's palette, which colour-blind readers can distinguish. Colour is never the only
difference: each kind of event has its own marker, and in the timelines its own line.
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
from matplotlib.patches import Rectangle
from matplotlib.ticker import MultipleLocator

from wsgi_harness.matrix.scenarios import BROKER_TIMEOUT
from wsgi_harness.observe.observation import Life, Observation, Probe

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
GREY, QUIET = "#767676", "#e4e4e4"

#: What the bar means.
OPEN = "connection open"


@dataclass(frozen=True)
class Mark:
    """How one kind of event is drawn, with its text in the legend."""

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


REQUEST = Mark("HTTP request, answered", BLACK, "s", 6)
FAILED = Mark("HTTP request, failed", BLACK, "s", 7, filled=False)
CLOSED = Mark("connection closed", VERMILLION, "X", 9)
CLIENT_HEARTBEAT = Mark("heartbeat, cell to broker", BLUE, "^", 7.5, rimmed=True)
SERVER_HEARTBEAT = Mark("heartbeat, broker to cell", SKY, "v", 7.5, rimmed=True)
GREEN_PROBE = Mark("probe of a green thread", PURPLE, "o", 4, filled=False)
NATIVE_PROBE = Mark("probe of a native thread", ORANGE, "D", 3.5)
_MARKS = (REQUEST, FAILED, CLOSED, CLIENT_HEARTBEAT, SERVER_HEARTBEAT, GREEN_PROBE, NATIVE_PROBE)

#: Height of a lane that several connections share.
_BAR = 0.75

_LANES = (
    "requests",
    "connection",
    "cell → broker",
    "broker → cell",
    "green probes",
    "native probes",
)

STYLE: dict[Any, Any] = {
    # Text stays text: selectable, and in a font of the reader's system.
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "Helvetica"],
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "xtick.color": "#333333",
    "ytick.color": "#333333",
}


def legend() -> str:
    """Return the meaning of every marker of the timelines, as items of a list.

    Each has a picture of its own, so that they wrap on a narrow screen.
    """
    entries: list[tuple[Artist, str]] = [
        (Line2D([0.5], [0.5], **mark.style), mark.label) for mark in _MARKS
    ]
    entries += [
        (Line2D([0.1, 0.9], [0.5, 0.5], color=GREEN, linewidth=5), OPEN),
        (Rectangle((0.1, 0.1), 0.8, 0.8, color=QUIET), "no byte for 2 to 3 T"),
    ]
    return "".join(f"<li>{_alone(artist)} {label}</li>\n" for artist, label in entries)


def _alone(artist: Artist) -> str:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(0.3, 0.2))
        figure.add_artist(artist)
        return as_svg(figure)


def add_legend(figure: Figure, marks: Sequence[Mark]) -> None:
    """Explain `marks` and the bar of an open connection, above a figure."""
    handles: list[Artist] = [Line2D([], [], label=mark.label, **mark.style) for mark in marks]
    handles.append(Line2D([], [], color=GREEN, linewidth=5, label=OPEN))
    figure.legend(
        handles=handles,
        ncols=3,
        loc="outside upper center",
        frameon=False,
        handletextpad=0.6,
        handlelength=1.4,
        fontsize=9,
    )


#: Of a timeline, for the names of its lanes and the axis. To have matplotlib measure them each time
#: would take as long as to draw.
_MARGINS = {"left": 0.146, "right": 0.995, "bottom": 0.252, "top": 0.98}


def timeline(seen: Observation, heartbeat: int) -> str:
    """Draw one connection: requests, the broker's log, heartbeats, probes of two threads."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 2.15))
        axes = figure.subplots(gridspec_kw=_MARGINS)
        _draw_timeline(axes, seen, heartbeat)
        return as_svg(figure)


def _draw_timeline(axes: Axes, seen: Observation, heartbeat: int) -> None:
    origin = seen.silence[0]
    rows = {lane: len(_LANES) - number for number, lane in enumerate(_LANES)}
    begin, end = begin_of(seen) - origin, end_of(seen) - origin

    def put(lane: str, mark: Mark, times: Sequence[float]) -> None:
        shown = [at - origin for at in times if at - origin <= end]
        axes.plot(shown, [rows[lane]] * len(shown), zorder=3, clip_on=False, **mark.style)
        if not shown and lane != "requests":
            hidden = mark in (CLIENT_HEARTBEAT, SERVER_HEARTBEAT) and not seen.wire.visible
            text = "encrypted, not visible" if hidden else "none"
            axes.text(0, rows[lane], text, color=GREY, style="italic", va="center", fontsize=8.5)

    put("requests", REQUEST, [each.began for each in seen.requests if not each.failed])
    put("requests", FAILED, [each.began for each in seen.requests if each.failed])
    _draw_broker_timeout(axes, seen, origin, heartbeat)
    draw_life(axes, seen, rows["connection"], origin)
    put("cell → broker", CLIENT_HEARTBEAT, seen.wire.client_heartbeats)
    put("broker → cell", SERVER_HEARTBEAT, seen.wire.server_heartbeats)
    put("green probes", GREEN_PROBE, _came(seen.green))
    put("native probes", NATIVE_PROBE, _came(seen.native))
    axes.set_yticks([rows[lane] for lane in _LANES], _LANES)
    axes.set_ylim(0.4, len(_LANES) + 0.6)
    axes.tick_params(axis="y", length=0)
    time_axis(axes, begin, end, heartbeat)


def draw_life(axes: Axes, seen: Observation, row: float, origin: float) -> None:
    """Draw the bar of an open connection and the cross at its end; several bars side by side.

    Parameters:
        row: the middle of it.
    """
    end, broker = end_of(seen), seen.broker
    lives = broker.lives or (Life(broker.opened or origin, broker.closed),)
    # A connection that replaced another one continues its bar.
    bars = min(broker.kept, len(lives))
    for number, life in enumerate(life for life in lives if life.opened <= end):
        level = row + _BAR / bars * (number % bars - (bars - 1) / 2)
        closed = life.closed if life.closed is not None and life.closed <= end else None
        axes.plot(
            [life.opened - origin, (closed or end) - origin],
            [level, level],
            color=GREEN,
            linewidth=5 / bars,
            solid_capstyle="butt",
            zorder=2,
        )
        if closed is not None:
            style = {**CLOSED.style, "markersize": CLOSED.size / bars**0.5}
            axes.plot([closed - origin], [level], zorder=4, **style)


def _draw_broker_timeout(axes: Axes, seen: Observation, origin: float, heartbeat: int) -> None:
    heard = seen.client_last_heard
    if heard is None:
        return
    began, ended = (heard - origin + times * heartbeat for times in BROKER_TIMEOUT)
    if began < end_of(seen) - origin:
        axes.axvspan(began, ended, color=QUIET, linewidth=0, zorder=0)


def begin_of(seen: Observation) -> float:
    """Return when the first request, or the silence, began."""
    return min([seen.silence[0], *(request.began for request in seen.requests)])


def end_of(seen: Observation) -> float:
    """Return when the last request, or the silence, ended."""
    return max([seen.silence[1], *(request.ended for request in seen.requests)])


def _came(probe: Probe | None) -> list[float]:
    return [] if probe is None else [came for _, came in probe.taken]


def time_axis(axes: Axes, begin: float, end: float, heartbeat: int) -> None:
    """Draw the axis of seconds, with a grid line at every `heartbeat`."""
    axes.set_xlim(left_of(begin, end), end * 1.03)
    axes.xaxis.set_major_locator(MultipleLocator(heartbeat))
    axes.set_xlabel(f"seconds since the connection was opened; a grid line every T = {heartbeat} s")
    axes.grid(axis="x", color="#dddddd", linewidth=0.8, zorder=0)


def left_of(begin: float, end: float) -> float:
    """Return where the axis begins: shortly before the first request."""
    return begin - 0.03 * end


def as_svg(figure: Figure) -> str:
    """Return the figure as an SVG element, without what precedes it in a file."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
