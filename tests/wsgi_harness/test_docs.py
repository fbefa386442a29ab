"""docs/regression.md shows what the table of scenarios holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from wsgi_harness.matrix.scenarios import DEPLOYMENTS, METHODS, SCENARIOS, Deployment

PAGE = Path(__file__).parents[2] / "docs" / "regression.md"


def is_amqp1(deployment: Deployment) -> bool:
    return deployment.protocol == "1.0"


def is_oslo(deployment: Deployment) -> bool:
    return bool(deployment.oslo) and not is_amqp1(deployment)


def is_loop(deployment: Deployment) -> bool:
    return deployment.server == "uvicorn"


def is_other(deployment: Deployment) -> bool:
    return not (is_oslo(deployment) or is_loop(deployment) or is_amqp1(deployment))


def grid(shown: Callable[[Deployment], bool]) -> str:
    """Keepalive strategies down, deployments and libraries across, as Markdown."""
    expected = {
        (each.method.key, each.deployment.key, each.library): each.expected
        for each in SCENARIOS
        if shown(each.deployment)
    }
    columns = [
        (deployment.key, library)
        for deployment in DEPLOYMENTS
        if shown(deployment)
        for library in deployment.libraries
    ]
    lines = [
        f"| keepalive | {' | '.join(f'{where}: {library}' for where, library in columns)} |",
        "| --- |" + " --- |" * len(columns),
    ]
    for method in [each for each in METHODS if each.key in {key[0] for key in expected}]:
        outcomes = [expected.get((method.key, *column), "") for column in columns]
        lines.append(f"| {method.title} | {' | '.join(outcomes)} |".replace("  ", " "))
    return "\n".join(lines)


@pytest.mark.parametrize("number", range(4))
def test_the_grids_of_the_docs_are_the_table(number: int) -> None:
    text = PAGE.read_text(encoding="utf-8")
    shown = [
        part.partition("\n<!-- end of grid -->")[0] for part in text.split("test_docs.py -->\n")[1:]
    ]

    made = grid((is_other, is_loop, is_oslo, is_amqp1)[number])
    assert shown[number] == made, f"put this into {PAGE.name}:\n{made}"


def test_every_option_and_exit_code_of_the_command_is_in_the_docs() -> None:
    from wsgi_harness.cli import main

    text = PAGE.read_text(encoding="utf-8")
    for parameter in main.params:
        assert any(f"`{option}" in text for option in parameter.opts)
    for code in (0, 1, 2, 3, 130):
        assert f"\n| {code} |" in text
