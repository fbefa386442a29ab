"""docs/chaos.md shows what the fault list and the commands hold."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from tests.stress.chaos.__main__ import main as chaos
from tests.stress.chaos.faults import FAULTS
from tests.stress.soak.__main__ import main as soak

PAGE = Path(__file__).parents[3] / "docs" / "chaos.md"


def table() -> str:
    lines = ["| fault | hits | what happens | a connection |", "| --- | --- | --- | --- |"]
    lines += [
        f"| `{kind.name}` | {kind.scope.value} | {kind.what} | {kind.promise} |"
        for kind in FAULTS.values()
    ]
    return "\n".join(lines)


def test_the_faults_of_the_page_are_the_table() -> None:
    text = PAGE.read_text(encoding="utf-8")
    shown = text.partition("test_docs.py -->\n")[2].partition("\n<!-- end of faults -->")[0]
    assert shown == table(), f"put this into {PAGE.name}:\n{table()}"


@pytest.mark.parametrize("command", [chaos, soak])
def test_the_page_names_the_exit_codes(command: click.Command) -> None:
    assert "130 that it was\ninterrupted" in PAGE.read_text(encoding="utf-8")
    assert "130  interrupted" in str(command.epilog)
