"""docs/regression.md tells what the table of scenarios holds."""

from __future__ import annotations

from pathlib import Path

from wsgi_harness.matrix.scenarios import LIBRARIES, METHODS, SCENARIOS, WORLDS

PAGE = Path(__file__).parents[2] / "docs" / "regression.md"


def grid() -> str:
    """Ways of beating down, worlds and libraries across, as Markdown."""
    expected = {
        (each.method.key, each.world.key, each.library): each.expected for each in SCENARIOS
    }
    columns = [(world.key, library) for world in WORLDS for library in LIBRARIES]
    lines = [
        f"| who beats | {' | '.join(f'{world}: {library}' for world, library in columns)} |",
        "| --- |" + " --- |" * len(columns),
    ]
    for method in METHODS:
        fates = [expected.get((method.key, *column), "") for column in columns]
        lines.append(f"| {method.title} | {' | '.join(fates)} |".replace("  ", " "))
    return "\n".join(lines)


def test_the_grid_of_the_docs_is_the_table() -> None:
    text = PAGE.read_text(encoding="utf-8")
    shown = text.partition("test_docs.py -->\n")[2].partition("\n<!-- end of grid -->")[0]

    assert shown == grid(), f"put this into {PAGE.name}:\n{grid()}"


def test_every_option_and_exit_code_of_the_command_is_in_the_docs() -> None:
    from wsgi_harness.cli import main

    text = PAGE.read_text(encoding="utf-8")
    for parameter in main.params:
        assert any(f"`{option}" in text for option in parameter.opts)
    for code in (0, 1, 2, 3, 130):
        assert f"\n| {code} |" in text
