"""Other implementations of AMQP 1.0, each in an environment of its own under ``build/amqp1/``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wsgi_harness.engine.commands import run, silent
from wsgi_harness.paths import build_dir, set_up_lock

PROTON = "python-qpid-proton==0.40.0"
#: It is compiled where it is installed.
_LIMIT = 600.0
_ANSWER_LIMIT = 60.0


def proton_python() -> Path:
    """The interpreter of an environment with proton; it is there once it is installed."""
    return build_dir() / "amqp1" / "proton" / "bin" / "python"


def has_proton() -> bool:
    return (proton_python().parent.parent / ".installed").exists()


def install_proton() -> None:
    """Build proton from its source; needs a C compiler and the headers of Python.

    Raises:
        HarnessError: it cannot be built.
    """
    python = proton_python()
    directory = python.parent.parent
    with set_up_lock(silent):
        if not has_proton():
            run([sys.executable, "-m", "venv", str(directory)], timeout=_LIMIT)
            pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            run([*pip, PROTON], timeout=_LIMIT)
            (directory / ".installed").touch()


class Program:
    """A peer's program, which answers lines with lines."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().rstrip("\n")


@contextmanager
def running(*command: str | Path) -> Iterator[Program]:
    """A program that ends when the context does."""
    pipe = subprocess.PIPE
    with subprocess.Popen(list(map(str, command)), stdin=pipe, stdout=pipe, text=True) as process:
        yield Program(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(_ANSWER_LIMIT) == 0
