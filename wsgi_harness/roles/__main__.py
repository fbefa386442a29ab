"""``python -m wsgi_harness.roles [SCENARIO...]``: run the molecule scenarios of the Ansible roles.

Without a name it runs all of them. ``--lint`` checks the collection, and runs no scenario.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from wsgi_harness.errors import HarnessError
from wsgi_harness.roles.environment import (
    PROJECT,
    ensure_environment,
    ensure_hosts,
)
from wsgi_harness.roles.scenarios import SCENARIOS, Outcome, lint, run_scenario


@click.command()
@click.argument("names", nargs=-1, metavar="[SCENARIO...]")
@click.option("--lint", "only_lint", is_flag=True, help="Run ansible-lint alone.")
@click.option("--keep", is_flag=True, help="Keep the hosts of a scenario that fails.")
def main(names: tuple[str, ...], only_lint: bool, keep: bool) -> None:
    """Run scenarios of the Ansible roles; without a name, all of them."""
    unknown = sorted(set(names) - set(SCENARIOS))
    if unknown:
        raise click.ClickException(
            f"no scenario {', '.join(unknown)}; there are {', '.join(SCENARIOS)}"
        )
    try:
        environment = ensure_environment(_say)
        lint(environment)
        _say("ansible-lint: ok")
        if only_lint:
            return
        variables = ensure_hosts(environment, _say)
        outcomes = [
            run_scenario(environment, variables, name, keep=keep) for name in names or SCENARIOS
        ]
    except HarnessError as error:
        raise click.ClickException(str(error)) from error
    _report(outcomes)
    sys.exit(any(not outcome.passed for outcome in outcomes))


def _report(outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        word = "ok" if outcome.passed else "FAILED"
        _say(f"{outcome.scenario:12} {word:6} {outcome.seconds:5.0f} s  {_shown(outcome.log)}")
    _say(f"all together {sum(outcome.seconds for outcome in outcomes):.0f} s")


def _shown(path: Path) -> str:
    return str(path.relative_to(PROJECT.parents[1]) if path.is_relative_to(PROJECT) else path)


def _say(line: str) -> None:
    click.echo(f"hbshim: {line}", err=True)


if __name__ == "__main__":
    main()
