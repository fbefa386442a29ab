"""A process that can be watched, in an interpreter of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import wait_until

CHECKOUT = Path(__file__).parents[2]
#: First lines of a program in each concurrency model.
PATCHES_OF_MODEL = {
    "native": "",
    "eventlet": "import eventlet; eventlet.monkey_patch()",
    "gevent": "from gevent import monkey; monkey.patch_all()",
}

WATCHED = Path(__file__).with_name("watched.py")


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[str], str]]]:
    """Start tests/observe/watched.py; returns the process and the path it listens at."""
    started = []

    def start(
        model: str = "native",
        path: str | Path | None = None,
        *,
        status: int = 0,
        **environment: Any,
    ) -> tuple[subprocess.Popen[str], str]:
        socket_path = str(path or tmp_path / "{pid}.sock")
        kept = {key: value for key, value in os.environ.items() if "HBSHIM" not in key}
        process = subprocess.Popen(
            [sys.executable, "-W", "error", WATCHED, model, socket_path],
            env={**kept, "PYTHONPATH": str(CHECKOUT), "EVENTLET_TESTS": "1", **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process, socket_path.replace("{pid}", str(process.pid))

    yield start
    for process in started:
        process.stdin.close()
        process.stdout.close()
        process.terminate()
        process.wait(60)


@pytest.fixture
def hbshim() -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command line, in a process of its own."""

    def run(*argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "hbshim", *argv],
            capture_output=True,
            text=True,
            timeout=180,
            env={**os.environ, **environment},
        )

    return run


def gone(path: str) -> None:
    """Wait until nothing is at `path`."""
    wait_until(lambda: not os.path.lexists(path))
