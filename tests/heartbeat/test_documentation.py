"""The state diagram in docs/architecture.md is the table in state.py."""

from pathlib import Path

from hbshim.heartbeat.state import TABLE, State

PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"


def diagram():
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> alive"]
    for (before, event), (after, action) in TABLE.items():
        # Final states and looks that lead nowhere would only clutter the picture.
        if before in (State.CLOSED, State.ORPHANED) or (before is after is State.LOST):
            continue
        lines.append(f"    {before.value} --> {after.value} : {event.value} / {action.value}")
    return "\n".join([*lines, "```"])


def test_the_documented_states_are_the_tables():
    text = PAGE.read_text(encoding="utf-8")
    shown = text.split("test_documentation.py -->\n")[1].split("\n<!-- end of states")[0]
    assert shown == diagram()
