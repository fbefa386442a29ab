"""docs/regression.md tells what the table of scenarios holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsgi_harness.matrix.scenarios import DEPLOYMENTS, METHODS, SCENARIOS

PAGE = Path(__file__).parents[2] / "docs" / "regression.md"


def grid(*, oslo: bool) -> str:
    """Ways of beating down, deployments and libraries across, as Markdown."""
    expected = {
        (each.method.key, each.deployment.key, each.library): each.expected
        for each in SCENARIOS
        if bool(each.deployment.oslo) is oslo
    }
    deployments = [deployment for deployment in DEPLOYMENTS if bool(deployment.oslo) is oslo]
    columns = [
        (deployment.key, library) for deployment in deployments for library in deployment.libraries
    ]
    lines = [
        f"| keepalive | {' | '.join(f'{where}: {library}' for where, library in columns)} |",
        "| --- |" + " --- |" * len(columns),
    ]
    for method in [each for each in METHODS if each.key in {key[0] for key in expected}]:
        fates = [expected.get((method.key, *column), "") for column in columns]
        lines.append(f"| {method.title} | {' | '.join(fates)} |".replace("  ", " "))
    return "\n".join(lines)


@pytest.mark.parametrize("oslo", [False, True])
def test_the_grids_of_the_docs_are_the_table(*, oslo: bool) -> None:
    text = PAGE.read_text(encoding="utf-8")
    shown = [
        part.partition("\n<!-- end of grid -->")[0] for part in text.split("test_docs.py -->\n")[1:]
    ]

    assert shown[oslo] == grid(oslo=oslo), f"put this into {PAGE.name}:\n{grid(oslo=oslo)}"


def test_every_option_and_exit_code_of_the_command_is_in_the_docs() -> None:
    from wsgi_harness.cli import main

    text = PAGE.read_text(encoding="utf-8")
    for parameter in main.params:
        assert any(f"`{option}" in text for option in parameter.opts)
    for code in (0, 1, 2, 3, 130):
        assert f"\n| {code} |" in text
