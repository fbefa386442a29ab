"""The table of states in docs/architecture.md is the table in state.py."""

from __future__ import annotations

from pathlib import Path

from hbshim.heartbeat.state import TABLE, Event, State

PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"
FINAL = (State.CLOSED, State.ORPHANED)


def table() -> str:
    """Events down, states across; a cell has the action, and the next state if it changes."""
    states = [state for state in State if state not in FINAL]
    heads = ["what a check finds", *(f"in `{state.value}`" for state in states)]
    lines = [f"| {' | '.join(heads)} |", "| --- |" + " --- |" * len(states)]
    for event in Event:
        cells = []
        for before in states:
            after, action = TABLE[before, event]
            moves = "" if after is before else f" → `{after.value}`"
            cells.append(f"`{action.value}`{moves}")
        lines.append(f"| `{event.value}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def test_the_documented_states_are_the_tables() -> None:
    text = PAGE.read_text(encoding="utf-8")
    shown = text.split("test_documentation.py -->\n")[1].split("\n<!-- end of states")[0]
    assert shown == table(), f"put this into {PAGE.name}:\n{table()}"


def test_closed_and_orphaned_are_final_as_the_page_says() -> None:
    assert "`closed` and `orphaned` are final" in PAGE.read_text(encoding="utf-8")
    assert all(TABLE[state, event][0] is state for state in FINAL for event in Event)
