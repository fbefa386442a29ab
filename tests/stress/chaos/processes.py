"""The applications as processes: started, steered, stopped and continued, listened to."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from tests.stress.chaos.journal import Journal
from tests.stress.child import EXIT_LIMIT, Child, clean_environment
from wsgi_harness.errors import HarnessError


class ApplicationError(HarnessError):
    """An application under test ended by itself, or never began."""


class Application:
    """One process of :mod:`.application`.

    Attributes:
        name: ``model-library``.
        journal: what it has reported so far; kept in a file as well, beside the log.
    """

    def __init__(self, model: str, library: str, config: dict[str, Any], logs: Path) -> None:
        self.name = f"{model}-{library}"
        self.journal = Journal(self.name)
        self._log = (logs / f"{self.name}.log").open("wb")
        self._copy = (logs / f"{self.name}.jsonl").open("w", encoding="utf-8")
        self._child = Child(
            ["-m", "tests.stress.chaos.application", model, library],
            on_line=self._keep,
            stderr=self._log,
            environment=clean_environment(PYTHONWARNINGS="ignore"),
        )
        self.send(config)

    def _keep(self, line: str) -> None:
        self._copy.write(line)
        self.journal.add(line)

    def send(self, command: dict[str, Any]) -> None:
        """Give a command.

        Raises:
            ApplicationError: no process takes it.
        """
        try:
            self._child.send(command)
        except OSError:
            self._child.wait(EXIT_LIMIT)
            self.check()

    def check(self) -> None:
        """Return while it lives.

        Raises:
            ApplicationError: it has ended.
        """
        if (status := self._child.status) is not None:
            raise ApplicationError(
                f"the application {self.name} ended with status {status}; see {self._log.name}"
            )

    def stop(self) -> None:
        """Have the kernel run it no more."""
        self._child.signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Have the kernel run it again."""
        self._child.signal(signal.SIGCONT)

    def wait(self, seconds: float) -> bool:
        """Whether it ends by itself within so many seconds."""
        return self._child.wait(seconds) is not None

    def end(self) -> None:
        """End it, whatever it does."""
        self._child.kill()
        self._log.close()
        self._copy.close()
