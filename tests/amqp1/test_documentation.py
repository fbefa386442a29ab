"""The tables of states in docs/amqp1-engine.md are those in states.py."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from hbshim.amqp1 import states
from hbshim.amqp1.states import Action

PAGE = Path(__file__).parents[2] / "docs" / "amqp1-engine.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
TABLES: dict[str, Any] = {
    "connection": states.CONNECTION,
    "session": states.SESSION,
    "link": states.LINK,
    "delivery": states.DELIVERY,
}


def table(rows: Any) -> str:
    """States down; a cell has what is allowed, with the next state if it changes."""
    allowed: dict[Any, list[str]] = {}
    for (before, event), (after, action) in rows.items():
        cells = allowed.setdefault(before, [])
        if action is not Action.REFUSE:
            done = "" if action is Action.DO else f" ({action.value})"
            moves = "" if after is before else f" → `{after.value}`"
            cells.append(f"{event.value}{done}{moves}")
    lines = [f"| `{state.value}` | {'; '.join(cells)} |" for state, cells in allowed.items()]
    return "\n".join(["| state | what is allowed |", "| --- | --- |", *lines])


@pytest.mark.parametrize("name", TABLES)
def test_the_documented_states_are_the_tables(name: str) -> None:
    text = PAGE.read_text(encoding="utf-8")
    shown = text.split(f"<!-- {name}: ")[1].split("-->\n")[1].split("\n<!-- end")[0]
    assert shown == table(TABLES[name]), f"put this into {PAGE.name}:\n{table(TABLES[name])}"


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_the_code_of_the_page_runs(snippet: str) -> None:
    exec(compile(snippet, str(PAGE), "exec"), {})
