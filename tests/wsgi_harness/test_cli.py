"""The command line: what it refuses, what it lists, and its exit codes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from wsgi_harness.cli import main
from wsgi_harness.errors import EngineUnavailableError
from wsgi_harness.matrix import run
from wsgi_harness.matrix.scenarios import SCENARIOS


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_list_shows_every_scenario() -> None:
    result = call("--list")

    assert result.exit_code == 0
    assert all(scenario.name in result.stdout for scenario in SCENARIOS)


def test_list_as_json_is_json_and_takes_patterns() -> None:
    result = call("--list", "--json", "--scenario", "none-*-event")

    listed = json.loads(result.stdout)
    assert [each["name"] for each in listed] == ["none-kombu-event", "none-pika-event"]
    assert all(each["reason"] and each["expected"] == "closed" for each in listed)


@pytest.mark.parametrize("value", ["0", "-4", "1", "601", "1000000", "soon", "2.5"])
def test_an_absurd_heartbeat_is_refused(value: str) -> None:
    result = call("--heartbeat", value)

    assert result.exit_code == 2
    assert "--heartbeat" in result.stderr


def test_an_unknown_scenario_is_refused_with_the_way_to_the_list() -> None:
    result = call("--scenario", "nonsense")

    assert result.exit_code == 2
    assert "nonsense" in result.stderr
    assert "--list" in result.stderr


def test_a_report_that_cannot_be_written_is_an_error_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(*_: object, **__: object) -> None:
        pytest.fail("the run was started")

    monkeypatch.setattr(run, "run", started)
    (tmp_path / "file").touch()

    result = call("--report", str(tmp_path / "file" / "report"))

    assert result.exit_code == 3
    assert "cannot write a report" in result.stderr


@pytest.mark.parametrize(
    ("error", "code", "shown"),
    [
        (EngineUnavailableError("no engine; install one"), 3, "no engine; install one"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ModuleNotFoundError("no", name="pika"), 3, "pip install -e '.[test]'"),
    ],
)
def test_a_run_that_does_not_end_has_its_own_exit_code(
    error: BaseException,
    code: int,
    shown: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(run, "run", fail)

    result = call("--report", str(tmp_path))

    assert result.exit_code == code
    assert shown in result.stderr
    assert "Traceback" not in result.output


def test_help_reports_the_exit_codes() -> None:
    text = call("--help").stdout

    shown = re.findall(r"^ +(\d+) +\w", text[text.index("Exit codes") :], re.MULTILINE)
    assert shown == ["0", "1", "2", "3", "130"]
