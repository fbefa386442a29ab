"""The other end of :mod:`.program`: each method call is a command there."""

from __future__ import annotations

import json
import os
import queue
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.stress.child import EXIT_LIMIT, Child, clean_environment
from wsgi_harness.errors import HarnessError

_POLL_INTERVAL = 0.1
_LOG_TAIL = 2000


class ProgramError(HarnessError):
    """A command raised over there, or the program ended.

    Attributes:
        kind: the exception's class, with its module.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind


class NoAnswerError(HarnessError):
    """The program did not answer in time: it hangs."""


class Service:
    """A program with oslo.messaging in a process of its own; a context manager.

    Parameters:
        model: `green` (eventlet has patched everything) or `native`.
        log: where its standard error goes.
        python: the interpreter, of an environment that has hbshim.
        package: a directory that goes first on its path, see
            :func:`tests.stress.oslo.environments.package`.
    """

    def __init__(
        self,
        model: str,
        log: Path,
        python: Path | str = sys.executable,
        package: Path | None = None,
    ) -> None:
        self._log = log
        # Warnings are oslo.messaging's and eventlet's news of their own retirement.
        arguments = ["-W", "ignore", "-m", "tests.stress.oslo.program", model]
        with log.open("wb") as errors:
            self._child = Child(arguments, stderr=errors, python=python, environment=_with(package))

    def __enter__(self) -> Service:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def send(self, command: str, **arguments: Any) -> None:
        """Give a command and do not wait for its answer."""
        self._child.send({"do": command, **arguments})

    def answer(self, limit: float = 60.0) -> Any:
        """Return the answer to the oldest command that has none yet.

        Raises:
            ProgramError: it raised.
            NoAnswerError: there is none within `limit` seconds.
        """
        try:
            line = self._child.read(limit)
        except queue.Empty:
            raise NoAnswerError(f"no answer within {limit:.0f} s") from None
        if not line:
            tail = self._log.read_text(errors="replace")[-_LOG_TAIL:]
            raise ProgramError("ended", f"status {self._child.wait(EXIT_LIMIT)}; {tail}")
        answer = json.loads(line)
        if "error" in answer:
            raise ProgramError(answer["error"], f"{answer['message']}\n{answer['traceback']}")
        return answer["ok"]

    def do(self, command: str, *, limit: float = 60.0, **arguments: Any) -> Any:
        """Give a command and return its answer."""
        self.send(command, **arguments)
        return self.answer(limit)

    def log(self) -> str:
        """Return what it has written to standard error."""
        return self._log.read_text(errors="replace")

    def end(self) -> None:
        """End the process, whether it answers or not."""
        self._child.end()


def _with(package: Path | None) -> dict[str, str]:
    environment = clean_environment()
    if package is not None:
        environment["PYTHONPATH"] = os.pathsep.join([str(package), environment["PYTHONPATH"]])
    return environment


def wait_for(condition: Callable[[], bool], limit: float) -> bool:
    """Return as soon as `condition` holds, with whether it did within `limit` seconds."""
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_INTERVAL)
    return True


def configuration(lines: Sequence[str] = (), *, heartbeat: int) -> list[str]:
    """Return a service's configuration file.

    Parameters:
        heartbeat: T in seconds.
    """
    return ["[oslo_messaging_rabbit]", f"heartbeat_timeout_threshold = {heartbeat}", *lines]
