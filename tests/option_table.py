"""The table of options that a page shows, made from the code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PAGES = Path(__file__).parents[1] / "docs"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """What the page is to show for what ``describe()`` returns."""
    lines = [
        "| option | values | default | environment | URL key | meaning |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        accepts = row["accepts"].replace("|", "\\|")
        url = f"`{row['url']}`" if row["url"] else "none"
        lines.append(
            f"| `{row['option']}` | {accepts} | {row['default']} | `{row['environment']}` "
            f"| {url} | {row['meaning']} |"
        )
    return "\n".join(lines)


def shown(page: str, checked_by: str) -> str:
    """What it shows, between the comment that names its test and that of its end."""
    text = (PAGES / page).read_text(encoding="utf-8")
    return text.split(f"{checked_by} -->\n")[1].split("\n<!-- end of options")[0]
