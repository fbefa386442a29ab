"""The table of `hbshim watch`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.text import Text

from hbshim.heartbeat.wire import AMQP_0_9_1
from hbshim.observe.answer import ProcessSeen
from hbshim.observe.columns import WIDE, age, lateness, make_fit, table_of
from hbshim.observe.drivers_table import drivers_height, drivers_table
from hbshim.observe.loops import LoopStatus
from hbshim.observe.snapshot import LinkStatus

#: Lines above and beneath the links.
_TITLES, _MORE = 1, 1

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
    reasons = [_reason(one) for one in seen if isinstance(one, Unanswered)]
    lines = None if height is None else height - _height(reasons, width)
    lines_each = None if lines is None else lines // max(1, len(seen) - len(reasons))
    return Group(
        *(
            _process(one, width, lines_each) if isinstance(one, ProcessSeen) else _reason(one)
            for one in seen
        )
    )


def _reason(process: Unanswered) -> Text:
    return Text(process.reason, "yellow")


def _process(process: ProcessSeen, width: int, lines: int | None) -> RenderableType:
    wide = width >= WIDE
    late = {engine.worker: engine.worst_lateness for engine in process.engines}
    heading, footer = _heading(process), _footer(process)
    links = sorted(process.links, key=_urgency)
    if lines is not None:
        lines -= _height([heading, *footer], width) + _TITLES + _MORE
        if process.zmq:
            lines -= drivers_height(process.zmq)
        links = links[: max(1, lines)]
    titles = [
        "local port, broker" if wide else "broker",
        "T",
        "sent",
        "recv",
        *(["app wrote", "app read"] if wide else ["app"]),
        "heartbeats",
        "late",
        "worker",
        *(["route", "protocol"] if wide else []),
        "state",
    ]
    rows = [_row(link, late.get(link.worker, 0.0), wide) for link in links]
    make_fit(titles, rows, width)
    table = table_of(titles, rows, left=("worker", "route", "protocol", "state"))
    parts: list[RenderableType] = [heading]
    if rows or not process.zmq:
        parts.append(table)
    if process.links_in_all > len(links):
        parts.append(Text(f"… and {process.links_in_all - len(links)} more", "dim"))
    if process.zmq:
        parts.append(drivers_table(process.zmq, width))
    return Group(*parts, *footer)


def _height(texts: Sequence[Text], width: int) -> int:
    """Return the lines of texts, those that are folded included."""
    console = Console(width=width)
    return sum(len(text.wrap(console, width)) for text in texts)


def _row(link: LinkStatus, late: float, wide: bool) -> list[Text]:
    limit = link.heartbeat_timeout
    wanted = link.peer_timeout if _has_two_times(link) else limit
    traffic = [link.last_write_ago, link.last_read_ago]
    return [
        Text(f"{_local_port(link)} → {link.peer}" if wide else link.peer),
        Text(_limits(link)),
        _age(link.sent_ago, limit),
        _age(link.received_ago, wanted),
        *(Text(age(seconds)) for seconds in (traffic if wide else [min(traffic)])),
        Text(str(link.heartbeats_sent)),
        Text(lateness(late), "red" if late > limit / 8 else ""),
        Text(link.worker),
        *([Text(link.route), Text(link.protocol)] if wide else []),
        Text(link.state, _STATES.get(link.state, "bold yellow")),
    ]


def _has_two_times(link: LinkStatus) -> bool:
    return link.protocol != AMQP_0_9_1.protocol


def _limits(link: LinkStatus) -> str:
    limit = f"{link.heartbeat_timeout:g}s"
    if not _has_two_times(link):
        return limit
    wanted = link.peer_timeout
    return f"{limit}/-" if wanted is None else f"{limit}/{wanted:g}s"


def _heading(process: ProcessSeen) -> Text:
    count = process.links_in_all
    return Text.assemble(
        (f"{process.program or 'process'} {process.pid}", "bold"),
        f" · {count} link{'' if count == 1 else 's'}",
        f" · {process.counters.get('heartbeats_sent', 0)} heartbeats sent",
    )


def _footer(process: ProcessSeen) -> list[Text]:
    lines = [_loop(loop) for loop in process.loops]
    events = {
        name.removeprefix(_EVENT): count
        for name, count in sorted(process.counters.items())
        if name.startswith(_EVENT)
    }
    if events:
        counts = " · ".join(f"{kind} {count}" for kind, count in events.items())
        lines.append(Text(f"events: {counts}", "yellow"))
    return [*lines, Text()]


def _loop(loop: LoopStatus) -> Text:
    limit, count = loop.heartbeat_timeout, loop.links
    late = f"{lateness(loop.latest_lateness)} late, at worst {lateness(loop.worst_lateness)}"
    return Text.assemble(
        f"event loop {loop.kind} in {loop.thread}: {count} link{'' if count == 1 else 's'}, ",
        (late, "red" if loop.worst_lateness > limit / 2 else ""),
        "" if loop.running else (", not running", "bold yellow"),
    )


def _urgency(link: LinkStatus) -> tuple[int, str, str]:
    known = link.state in _WORST_FIRST
    return (_WORST_FIRST.index(link.state) if known else -1, link.peer, link.name)


def _local_port(link: LinkStatus) -> str:
    return ":" + link.name.partition(" -> ")[0].rpartition(":")[2]


def _age(seconds: float | None, limit: float | None) -> Text:
    if seconds is None:
        return Text("-")
    if limit is None:
        return Text(age(seconds))
    # A peer is dead after 2 T, and by then this side is dead for the broker.
    style = "red" if seconds > 1.5 * limit else "yellow" if seconds > limit else ""
    return Text(age(seconds), style)
