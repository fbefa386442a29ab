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
        outcomes = []
        for name in names or SCENARIOS:
            _say(f"{name}: running")
            outcomes.append(run_scenario(environment, variables, name, keep=keep))
            _say(_described(outcomes[-1]))
    except HarnessError as error:
        raise click.ClickException(str(error)) from error
    _say(f"all together {sum(outcome.seconds for outcome in outcomes):.0f} s")
    sys.exit(any(not outcome.passed for outcome in outcomes))


def _described(outcome: Outcome) -> str:
    word = "ok" if outcome.passed else "FAILED"
    return f"{outcome.scenario}: {word} after {outcome.seconds:.0f} s; log: {_shown(outcome.log)}"


def _shown(path: Path) -> str:
    return str(path.relative_to(PROJECT.parents[1]) if path.is_relative_to(PROJECT) else path)


def _say(line: str) -> None:
    click.echo(f"hbshim: {line}", err=True)


if __name__ == "__main__":
    main()
