"""What the tables of `hbshim watch` share: columns that fit, and ages."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rich.table import Table
from rich.text import Text

#: From this width in columns, every column is shown.
WIDE = 110

#: Columns between two columns of a table, and the least for the first one, an address.
GAP = 2
FIRST_AT_LEAST = 10


def table_of(
    titles: Sequence[str], rows: Sequence[Sequence[Text]], left: Collection[str] = ()
) -> Table:
    """Return a table without lines.

    Parameters:
        left: titles of the columns, beside the first, whose text begins at the left.
    """
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for title in titles:
        right = title not in (titles[0], *left)
        table.add_column(title, justify="right" if right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def make_fit(titles: list[str], rows: list[list[Text]], width: int) -> None:
    """Shorten the first column, the only one that can be shortened, until the row fits."""
    others = zip(titles[1:], *(row[1:] for row in rows), strict=True)
    taken = sum(GAP + max(map(_width, column)) for column in others)
    space = max(FIRST_AT_LEAST, width - taken)
    titles[0] = titles[0][:space]
    for row in rows:
        text = row[0].plain
        if len(text) > space:
            # Both ends matter more than the middle: the port is at one of them.
            row[0] = Text(f"{text[: space // 2]}…{text[len(text) - (space - 1) // 2 :]}")


def _width(cell: str | Text) -> int:
    return cell.cell_len if isinstance(cell, Text) else len(cell)


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
