"""docs/doctor.md shows the checks as the code has them."""

from __future__ import annotations

from pathlib import Path

from hbshim.doctor.examination import CHECKS, HEARTBEAT, TIMEOUT

TEXT = (Path(__file__).parent.parent.parent / "docs" / "doctor.md").read_text(encoding="utf-8")
START = "<!-- checks: made from hbshim/doctor, checked by tests/doctor/test_documentation.py -->"
END = "<!-- end of checks -->"


def test_every_check_is_there() -> None:
    rows = [
        f"| `{check.name}` | {check.examines} | {check.meaning} | {check.remedy} |"
        for check in CHECKS
    ]
    assert TEXT.count(START) == TEXT.count(END) == 1
    assert TEXT.partition(START)[2].partition(END)[0].strip().splitlines()[2:] == rows


def test_the_defaults_are_told() -> None:
    assert f"`--timeout` ({TIMEOUT:g} s unless given)" in TEXT
    assert f"asks for T = {HEARTBEAT} s" in TEXT
