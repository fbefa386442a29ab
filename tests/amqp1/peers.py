"""Other implementations of AMQP 1.0, each in an environment of its own under ``build/amqp1/``."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from wsgi_harness.engine.commands import run, silent
from wsgi_harness.paths import build_dir, set_up_lock

RHEA = "rhea@3.0.5"
_LIMIT = 600.0
_ANSWER_LIMIT = 60.0


def rhea_modules() -> Path:
    """The directory of Node.js's modules with rhea; it is there once it is installed."""
    return build_dir() / "amqp1" / "rhea" / "node_modules"


def has_rhea() -> bool:
    return shutil.which("node") is not None and (rhea_modules() / "rhea").exists()


def install_rhea() -> None:
    """Install rhea; needs Node.js and npm.

    Raises:
        HarnessError: it cannot be installed.
    """
    directory = rhea_modules().parent
    with set_up_lock(silent):
        if not has_rhea():
            run(["node", "--version"], timeout=_LIMIT)
            directory.mkdir(parents=True, exist_ok=True)
            npm = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix"]
            run([*npm, str(directory), RHEA], timeout=_LIMIT)


@dataclass(frozen=True)
class Peer:
    """An implementation by other authors.

    Attributes:
        command: runs a program of it.
        suffix: of its programs' names.
    """

    name: str
    command: tuple[str, ...]
    suffix: str

    def running(
        self, program: str, *arguments: str, stops: bool = True
    ) -> AbstractContextManager[Program]:
        """Run one of the programs beside this file."""
        path = Path(__file__).parent / f"{self.name}_{program}{self.suffix}"
        return running(*self.command, path, *arguments, stops=stops)


class Program:
    """A peer's program, which answers lines with lines."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    def line(self) -> str:
        """The next line that it writes."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().rstrip("\n")

    def ask(self, line: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self.line()


@contextmanager
def running(*command: str | Path, stops: bool = True) -> Iterator[Program]:
    """A program that ends when the context does.

    Parameters:
        stops: it ends when its input does; otherwise it is killed.
    """
    pipe = subprocess.PIPE
    with subprocess.Popen(list(map(str, command)), stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield Program(process)
            assert process.stdin is not None
            process.stdin.close()
            if stops:
                assert process.wait(_ANSWER_LIMIT) == 0
        finally:
            process.kill()
