"""Runs molecule, and checks what it wrote for secrets."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wsgi_harness.engine.commands import run, tail
from wsgi_harness.errors import CommandError, HarnessError
from wsgi_harness.roles.environment import COLLECTION, PROJECT, Environment
from wsgi_harness.roles.hosts import hosts_of
from wsgi_harness.roles.secrets import ArgumentWatch, secrets_in

SCENARIOS = (
    "router",
    "mesh",
    "hostile",
    "rabbitmq",
    "hybrid",
    "add_service",
    "upgrade",
    "downgrade",
)
"""The directories of ``tests/ansible/molecule/`` that are scenarios."""
_LIMIT = 1200.0

#: How a line of the plugin "unchanged" begins.
_NOT_IDEMPOTENT = "hbshim: not idempotent"


@dataclass(frozen=True)
class Outcome:
    """What became of a scenario.

    Attributes:
        passed: it has passed, and neither Ansible nor a host has shown a secret.
        log: all that Ansible wrote.
    """

    scenario: str
    passed: bool
    seconds: float
    log: Path


def run_scenario(
    environment: Environment,
    variables: Mapping[str, str],
    scenario: str,
    *,
    keep: bool = False,
) -> Outcome:
    """Run a scenario: create the hosts, check, converge, idempotence, verify, remove them.

    Parameters:
        variables: of :func:`~wsgi_harness.roles.environment.ensure_hosts`.
        keep: leave the hosts where they are if it fails.

    Raises:
        HarnessError: a host or molecule does not start.
    """
    log = environment.directory / "logs" / f"{scenario}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    state = environment.directory / "molecule" / scenario
    journals = environment.directory / "journals" / scenario
    shutil.rmtree(journals, ignore_errors=True)
    journals.mkdir(parents=True)
    given = {
        **environment.variables(),
        **variables,
        # All that an operator may ask to be shown must be free of secrets, too.
        "ANSIBLE_VERBOSITY": "3",
        "ANSIBLE_CALLBACKS_ENABLED": "unchanged",
        "MOLECULE_EPHEMERAL_DIRECTORY": str(state),
        "HBSHIM_ROLES_SCENARIO": scenario,
    }
    argv = [str(environment.tools / "molecule"), "-c", "molecule/base.yml", "test"]
    directory = PROJECT / "molecule" / scenario
    began = time.monotonic()
    with (
        log.open("w") as output,
        ArgumentWatch(directory) as watch,
        hosts_of(directory, given) as hosts,
    ):
        try:
            done = subprocess.run(
                [*argv, "-s", scenario, "--destroy", "never"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=given,
                cwd=PROJECT,
                timeout=_LIMIT,
                check=False,
            )
            code = done.returncode
        except subprocess.TimeoutExpired:
            output.write(f"hbshim: the scenario took longer than {_LIMIT:g} s\n")
            code = 1
        hosts.keep_journals(journals)
        hosts.keeps = keep and code != 0
    shown = {path: path.read_text(errors="replace") for path in (log, *journals.iterdir())}
    found = {path: names for path, text in shown.items() if (names := secrets_in(text, directory))}
    with log.open("a") as output:
        for path, names in found.items():
            output.write(f"hbshim: {path.name} shows the values of {', '.join(names)}\n")
        for name, command in watch.found.items():
            output.write(f"hbshim: an argument of {command} was the value of {name}\n")
    clean = not (found or watch.found or _NOT_IDEMPOTENT in shown[log])
    seconds = time.monotonic() - began
    return Outcome(scenario, passed=code == 0 and clean, seconds=seconds, log=log)


def lint(environment: Environment) -> None:
    """Check the collection by ansible-lint's profile "production".

    Raises:
        HarnessError: it has findings; the message lists them.
    """
    place = environment.collections / "ansible_collections" / "hbshim" / "messaging"
    command = [str(environment.tools / "ansible-lint"), "--offline", "--profile", "production"]
    try:
        run([*command, "-q", "--nocolor"], timeout=300, env=environment.variables(), cwd=place)
    except CommandError as error:
        raise HarnessError(f"ansible-lint has findings in {COLLECTION}:\n{error}") from error


def shown(outcome: Outcome) -> str:
    """Return the end of a scenario's log."""
    return f"{outcome.scenario}, {outcome.log}:\n{tail(outcome.log.read_text(errors='replace'))}"
