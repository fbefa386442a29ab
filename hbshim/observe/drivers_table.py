"""The part of `hbshim watch` that shows the drivers over ZeroMQ of a process."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from hbshim.observe.columns import WIDE, age, make_fit, table_of
from hbshim.observe.drivers import PATTERNS, ZmqStatus

#: The most drivers that are shown of one process.
SHOWN = 10

#: Seconds; the I/O thread runs each second, so later ones are a fault.
_IDLE_YELLOW, _IDLE_RED = 2.0, 5.0

_BYTES = ("B", "K", "M", "G")


def drivers_height(drivers: Sequence[ZmqStatus]) -> int:
    """Return the lines of :func:`drivers_table`."""
    return 1 + min(len(drivers), SHOWN) + (len(drivers) > SHOWN)


def drivers_table(drivers: Sequence[ZmqStatus], width: int) -> RenderableType:
    """Return a table with a line for each driver.

    Parameters:
        width: of the terminal, in columns.
    """
    wide = width >= WIDE
    titles = [
        "hbzmq driver",
        "hosts",
        "waiting",
        *(PATTERNS if wide else ("sent", "recv")),
        *(("dropped", "expired", "gaps") if wide else ("lost",)),
        *(("outbox", "inbox") if wide else ("queued",)),
        "I/O",
    ]
    rows = [_row(driver, wide) for driver in drivers[:SHOWN]]
    make_fit(titles, rows, width)
    parts: list[RenderableType] = [table_of(titles, rows)]
    if len(drivers) > SHOWN:
        parts.append(Text(f"… and {len(drivers) - SHOWN} more drivers", "dim"))
    return Group(*parts)


def _row(driver: ZmqStatus, wide: bool) -> list[Text]:
    lost = [driver.dropped, driver.expired, driver.gaps]
    queued = [driver.outbox_bytes, driver.inbox_bytes]
    traffic = (
        [f"{driver.sent[each]}/{driver.received[each]}" for each in PATTERNS]
        if wide
        else [str(sum(each.values())) for each in (driver.sent, driver.received)]
    )
    return [
        Text(driver.name),
        Text(str(max(driver.hosts.values(), default=0))),
        Text(str(driver.calls_waiting)),
        *map(Text, traffic),
        *(Text(str(each), "yellow" if each else "") for each in (lost if wide else [sum(lost)])),
        *(Text(size(each)) for each in (queued if wide else [sum(queued)])),
        Text(age(driver.io_idle), _idle_style(driver.io_idle)),
    ]


def _idle_style(seconds: float) -> str:
    return "red" if seconds > _IDLE_RED else "yellow" if seconds > _IDLE_YELLOW else ""


def size(count: float) -> str:
    """Return bytes as 17B, 3.4K, 52M."""
    for unit in _BYTES:
        if count < 1000 or unit == _BYTES[-1]:
            break
        count /= 1024
    return f"{count:.0f}{unit}" if count >= 10 or unit == "B" else f"{count:.1f}{unit}"
