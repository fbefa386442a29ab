"""A scenario of the roles in the suite; `make roles` runs all of them."""

from __future__ import annotations

import pytest

from wsgi_harness.engine.engine import Engine
from wsgi_harness.roles.environment import Environment, ensure_environment, ensure_hosts
from wsgi_harness.roles.scenarios import lint, run_scenario, shown

pytestmark = [pytest.mark.alone, pytest.mark.slow, pytest.mark.broker]


@pytest.fixture(scope="module")
def environment(engine: Engine) -> Environment:
    """Ansible, molecule and ansible-lint."""
    return ensure_environment()


def test_the_collection_has_no_findings(environment: Environment) -> None:
    lint(environment)


def test_the_scenario_of_a_router_passes(environment: Environment) -> None:
    outcome = run_scenario(environment, ensure_hosts(environment), "router")
    assert outcome.passed, shown(outcome)
