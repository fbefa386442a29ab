"""The command without a broker: what it prints, and its exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from hbshim.doctor.examination import CHECKS
from hbshim.doctor.findings import Finding, Report
from hbshim.doctor.printing import print_report
from tests.doctor.commands import doctor, doctors, in_turn

CHECKOUT = Path(__file__).parents[2]
SECRET = "s3cr3t"


def test_a_sound_process_is_sound() -> None:
    said = doctors({"table": (), "json": ("--json",), "all": ("--all",)})
    assert {each.status for each in said.values()} == {0}
    assert not any(each.err for each in said.values())
    report = json.loads(said["json"].out)
    assert report["exit_status"] == 0
    assert [each["check"] for each in report["findings"]] == [check.name for check in CHECKS]
    assert "not-applicable" in said["all"].out
    assert "uwsgi-threads" not in said["table"].out
    assert max(map(len, said["all"].out.splitlines())) <= 80


def test_what_is_wrong_is_exit_status_1() -> None:
    said = doctor("--idle-limit", "30", HBSHIM_HEARTBEAT="60")
    assert said.status == 1
    assert "problem" in said.out
    assert "-> Ask for heartbeat=30 or less" in said.out


BAD_INPUT = [
    (f"amqp://user:{SECRET}@host/",),
    ("--url", f"user:{SECRET}@host"),
    (f"--ulr=amqp://user:{SECRET}@host/",),
    ("--idle-limit", "0"),
    ("--timeout", "0"),
    ("--heartbeat", "70000"),
    ("--client", "rabbitpy"),
    ("--app", "no.such.module:app"),
    ("--app", "json:loads"),
    ("--worker", "fiber"),
    ("--management", "http://host"),
    ("--ca", "ca.pem"),
]


def test_bad_input_is_exit_status_2_and_not_repeated() -> None:
    for argv, said in in_turn({argv: argv for argv in BAD_INPUT}).items():
        assert said.status == 2, argv
        assert said.err.strip()
        assert "Traceback" not in said.err
        assert SECRET not in said.out + said.err


def test_a_celery_app_is_judged(tmp_path: Path) -> None:
    (tmp_path / "service.py").write_text(
        "import celery; app = celery.Celery('service', broker='amqp://host//?heartbeat=90')"
    )
    said = doctor("--app", "service:app", "--idle-limit", "30", PYTHONPATH=f"{CHECKOUT}:{tmp_path}")
    assert said.status == 1
    assert "Celery app 'service': a heartbeat every 45 s" in " ".join(said.out.split())


def test_run_takes_it_into_a_program() -> None:
    code = "from hbshim import api; from hbshim.doctor import examine; examine()"
    code += "; print(api.connection_options({}) is not None)"
    command = [sys.executable, "-m", "hbshim", "run", "--", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.stdout == "True\n", done.stderr


def test_the_module_is_the_command() -> None:
    command = [sys.executable, "-m", "hbshim.doctor", "--json"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=180,
        env={**os.environ, "HBSHIM_BROKER_URL": ""},
    )
    assert (done.returncode, json.loads(done.stdout)["exit_status"]) == (0, 0), done.stderr


def test_what_a_peer_said_is_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report((Finding("connection", "problem", "[bold]no[/] [link=x]", "do [/red] this"),))
    print_report(report, Console(width=80))
    printed = capsys.readouterr().out
    assert "[bold]no[/] [link=x]" in printed
    assert "-> do [/red] this" in printed
