"""The applications as processes: started, steered, stopped and continued, listened to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from wsgi_harness.chaos.journal import Journal
from wsgi_harness.errors import HarnessError
from wsgi_harness.paths import HARNESS

_KILL_AFTER = 5.0


class ApplicationError(HarnessError):
    """An application under test ended by itself, or never began."""


class Application:
    """One process of :mod:`.application`.

    Attributes:
        name: ``world-library``.
        journal: what it has told so far; kept in a file as well, beside the log.
    """

    def __init__(self, world: str, library: str, config: dict[str, Any], logs: Path) -> None:
        self.name = f"{world}-{library}"
        self.journal = Journal(self.name)
        self._log = (logs / f"{self.name}.log").open("wb")
        self._copy = (logs / f"{self.name}.jsonl").open("w", encoding="utf-8")
        # Its own options would change what is measured.
        environment = {key: value for key, value in os.environ.items() if "HBSHIM" not in key}
        environment |= {"PYTHONPATH": str(HARNESS.parent), "PYTHONWARNINGS": "ignore"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "wsgi_harness.chaos.application", world, library],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, name=self.name, daemon=True)
        self._reader.start()
        self.send(config)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._copy.write(line)
            self.journal.add(line)

    def send(self, command: dict[str, Any]) -> None:
        """Give a command.

        Raises:
            ApplicationError: nobody is there to take it.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
        except OSError:
            self._process.wait(_KILL_AFTER)
            self.check()

    def check(self) -> None:
        """Return while it lives.

        Raises:
            ApplicationError: it has ended.
        """
        if (status := self._process.poll()) is not None:
            raise ApplicationError(
                f"the application {self.name} ended with status {status}; see {self._log.name}"
            )

    def stop(self) -> None:
        """Have the kernel run it no more."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Have the kernel run it again."""
        self._process.send_signal(signal.SIGCONT)

    def wait(self, seconds: float) -> bool:
        """Whether it ends by itself within so many seconds."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        self._reader.join(_KILL_AFTER)
        return True

    def end(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait(_KILL_AFTER)
        self._reader.join(_KILL_AFTER)
        for stream in (self._process.stdin, self._process.stdout, self._log, self._copy):
            assert stream is not None
            stream.close()
