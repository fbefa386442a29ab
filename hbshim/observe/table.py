"""The table that `hbshim watch` shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hbshim.observe.answer import LinkSeen, ProcessSeen

#: From this width in columns on, there is room for everything.
WIDE = 100

#: Lines of a process's table that are not links.
_FRAME = 4

_STATES = {"lost": "bold red", "alive": "green"}
_WORST_FIRST = ("lost", "closed", "orphaned", "alive")
_EVENT = "event:"


@dataclass(frozen=True)
class Unanswered:
    """A socket that gave no answer this time, and why."""

    path: str
    reason: str


def render(
    seen: Sequence[ProcessSeen | Unanswered], width: int, height: int | None = None
) -> RenderableType:
    """All processes, one table each.

    Parameters:
        width: of the terminal, in columns.
        height: of the terminal, in lines; None shows every link.
    """
    room = None if height is None else max(1, height // max(1, len(seen)) - _FRAME)
    return Group(
        *(
            _process(one, width >= WIDE, room)
            if isinstance(one, ProcessSeen)
            else Text(f"{one.path}: {one.reason}", "yellow")
            for one in seen
        )
    )


def _process(process: ProcessSeen, wide: bool, room: int | None) -> RenderableType:
    late = {engine.worker: engine.worst_lateness for engine in process.engines}
    links = sorted(process.links, key=_urgency)
    shown = links if room is None else links[:room]
    table = _columns(wide)
    for link in shown:
        table.add_row(*_row(link, late.get(link.worker, 0.0), wide))
    return Group(_heading(process), table, *_footer(process, len(shown)))


def _columns(wide: bool) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("local port, broker" if wide else "broker", no_wrap=True)
    table.add_column("T", justify="right", no_wrap=True)
    traffic = ("app wrote", "app read") if wide else ("app",)
    for title in ("sent", "recv", *traffic, "beats", "late"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("worker", no_wrap=True)
    if wide:
        table.add_column("route", no_wrap=True)
    table.add_column("state", no_wrap=True)
    return table


def _row(link: LinkSeen, late: float, wide: bool) -> list[Text]:
    limit = link.heartbeat_timeout
    traffic = [link.last_write_ago, link.last_read_ago]
    return [
        Text(f"{_local_port(link)} → {link.peer}" if wide else link.peer),
        Text(f"{limit:g}s"),
        _age(link.sent_ago, limit),
        _age(link.received_ago, limit),
        *(Text(age(seconds)) for seconds in (traffic if wide else [min(traffic)])),
        Text(str(link.beats)),
        Text(lateness(late), "red" if late > limit / 8 else ""),
        Text(link.worker),
        *([Text(link.route)] if wide else []),
        Text(link.state, _STATES.get(link.state, "bold yellow")),
    ]


def _heading(process: ProcessSeen) -> Text:
    count = process.links_in_all
    return Text.assemble(
        (f"{process.program or 'process'} {process.pid}", "bold"),
        f" · {count} link{'' if count == 1 else 's'}",
        f" · {process.counters.get('beats_sent', 0)} beats sent",
    )


def _footer(process: ProcessSeen, shown: int) -> list[Text]:
    lines = []
    if process.links_in_all > shown:
        lines.append(Text(f"… and {process.links_in_all - shown} more", "dim"))
    events = {
        name.removeprefix(_EVENT): count
        for name, count in sorted(process.counters.items())
        if name.startswith(_EVENT)
    }
    if events:
        told = " · ".join(f"{kind} {count}" for kind, count in events.items())
        lines.append(Text(f"events: {told}", "yellow"))
    return [*lines, Text()]


def _urgency(link: LinkSeen) -> tuple[int, str, str]:
    known = link.state in _WORST_FIRST
    return (_WORST_FIRST.index(link.state) if known else -1, link.peer, link.name)


def _local_port(link: LinkSeen) -> str:
    return ":" + link.name.partition(" -> ")[0].rpartition(":")[2]


def _age(seconds: float | None, limit: float) -> Text:
    if seconds is None:
        return Text("-")
    # A peer is dead after 2 T, and so are we for the broker at the latest.
    style = "red" if seconds > 1.5 * limit else "yellow" if seconds > limit else ""
    return Text(age(seconds), style)


def age(seconds: float) -> str:
    """For instance 3.4s, 52s, 7m05s, 3h20m, 12d04h."""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f}s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole // 60 % 60:02}m"
    return f"{whole // 86400}d{whole // 3600 % 24:02}h"


def lateness(seconds: float) -> str:
    """For instance 0ms (or early), 14ms, 2.5s."""
    return f"{max(0.0, seconds) * 1000:.0f}ms" if seconds < 1 else age(seconds)
