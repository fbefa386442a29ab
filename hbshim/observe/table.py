"""The table of `hbshim watch`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hbshim.observe.answer import ProcessSeen
from hbshim.observe.snapshot import LinkStatus

#: From this width in columns, every column is shown.
WIDE = 110

#: Columns between two columns of the table, and the least for the broker's address.
GAP = 2
BROKER_AT_LEAST = 10

#: Lines of a process's table that are not links.
_FRAME = 5

_STATES = {"lost": "bold red", "alive": "green"}
_WORST_FIRST = ("lost", "hung", "closed", "orphaned", "alive")
_EVENT = "event:"


@dataclass(frozen=True)
class Unanswered:
    """A process that did not answer this time."""

    reason: str


def render(
    seen: Sequence[ProcessSeen | Unanswered], width: int, height: int | None = None
) -> RenderableType:
    """Return one table for each process.

    Parameters:
        seen: the processes.
        width: of the terminal, in columns.
        height: of the terminal, in lines; None shows every link.
    """
    processes = sum(isinstance(one, ProcessSeen) for one in seen)
    lines = None if height is None else height - 2 * (len(seen) - processes)
    room = None if lines is None else max(1, lines // max(1, processes) - _FRAME)
    return Group(
        *(
            _process(one, width, room)
            if isinstance(one, ProcessSeen)
            else Text(one.reason, "yellow")
            for one in seen
        )
    )


def _process(process: ProcessSeen, width: int, room: int | None) -> RenderableType:
    wide = width >= WIDE
    late = {engine.worker: engine.worst_lateness for engine in process.engines}
    shown = sorted(process.links, key=_urgency)[:room]
    titles = [
        "local port, broker" if wide else "broker",
        "T",
        "sent",
        "recv",
        *(["app wrote", "app read"] if wide else ["app"]),
        "heartbeats",
        "late",
        "worker",
        *(["route"] if wide else []),
        "state",
    ]
    rows = [_row(link, late.get(link.worker, 0.0), wide) for link in shown]
    _make_fit(titles, rows, width)
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for title in titles:
        right = title not in (titles[0], "worker", "route", "state")
        table.add_column(title, justify="right" if right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return Group(_heading(process), table, *_footer(process, len(shown)))


def _make_fit(titles: list[str], rows: list[list[Text]], width: int) -> None:
    """Shorten the first column, the only one that can be shortened, until the row fits."""
    others = zip(titles[1:], *(row[1:] for row in rows), strict=True)
    taken = sum(GAP + max(map(_width, column)) for column in others)
    room = max(BROKER_AT_LEAST, width - taken)
    titles[0] = titles[0][:room]
    for row in rows:
        text = row[0].plain
        if len(text) > room:
            # Both ends matter more than the middle: the port is at one of them.
            row[0] = Text(f"{text[: room // 2]}…{text[len(text) - (room - 1) // 2 :]}")


def _width(cell: str | Text) -> int:
    return cell.cell_len if isinstance(cell, Text) else len(cell)


def _row(link: LinkStatus, late: float, wide: bool) -> list[Text]:
    limit = link.heartbeat_timeout
    traffic = [link.last_write_ago, link.last_read_ago]
    return [
        Text(f"{_local_port(link)} → {link.peer}" if wide else link.peer),
        Text(f"{limit:g}s"),
        _age(link.sent_ago, limit),
        _age(link.received_ago, limit),
        *(Text(age(seconds)) for seconds in (traffic if wide else [min(traffic)])),
        Text(str(link.heartbeats_sent)),
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
        f" · {process.counters.get('heartbeats_sent', 0)} heartbeats sent",
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


def _urgency(link: LinkStatus) -> tuple[int, str, str]:
    known = link.state in _WORST_FIRST
    return (_WORST_FIRST.index(link.state) if known else -1, link.peer, link.name)


def _local_port(link: LinkStatus) -> str:
    return ":" + link.name.partition(" -> ")[0].rpartition(":")[2]


def _age(seconds: float | None, limit: float) -> Text:
    if seconds is None:
        return Text("-")
    # A peer is dead after 2 T, and by then this side is dead for the broker.
    style = "red" if seconds > 1.5 * limit else "yellow" if seconds > limit else ""
    return Text(age(seconds), style)


def age(seconds: float) -> str:
    """Return an age such as 3.4s, 52s, 7m05s, 3h20m, 12d04h."""
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
    """Return a lateness such as 0ms (or early), 14ms, 2.5s."""
    return f"{max(0.0, seconds) * 1000:.0f}ms" if seconds < 1 else age(seconds)
