"""Run every script of this directory in an interpreter of its own.

Monkey patching cannot be undone, and what is loaded already decides what hbshim
sees; so each patched concurrency model is a script. It asserts, and prints "pass" at its end.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CHECKOUT = HERE.parent.parent
SCRIPTS = sorted(path.stem for path in HERE.glob("*.py") if not path.stem.startswith("test_"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_model(script: str) -> None:
    environment = {key: value for key, value in os.environ.items() if "HBSHIM" not in key}
    environment["PYTHONPATH"] = str(CHECKOUT)
    # All warnings are errors, but eventlet's announcement of its own retirement.
    environment["EVENTLET_TESTS"] = "1"
    result = subprocess.run(
        [sys.executable, "-W", "error", HERE / f"{script}.py"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
    )
    last_line = result.stdout.strip().rpartition("\n")[2]
    if result.returncode == 0 and last_line.startswith("skip: "):
        pytest.skip(last_line.removeprefix("skip: "))
    assert (result.returncode, last_line) == (0, "pass"), result.stdout + result.stderr
