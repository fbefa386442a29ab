"""The clients and servers of a run, as processes that report into its journal."""

from __future__ import annotations

import contextlib
import queue
import signal
import sys
from pathlib import Path
from typing import Any

from tests.messaging.zmq.machines import Machine
from tests.stress.chaos.zmq.journal import Journal
from tests.stress.child import Child, clean_environment
from wsgi_harness.errors import HarnessError

#: Seconds for what takes few; the machine may be busy.
LIMIT = 90.0


class Process:
    """One process of :mod:`.peer`.

    Parameters:
        label: its name in the journal.
        name: its own, as its servers answer with.
        logs: where its lines and its standard error go.
    """

    def __init__(
        self,
        machine: Machine,
        arguments: tuple[str, str],
        label: str,
        name: str,
        ipc: str,
        environment: dict[str, str],
        journal: Journal,
        logs: Path,
    ) -> None:
        self.label = label
        self._journal = journal
        self._said: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._log = (logs / f"{label}.log").open("wb")
        self._copy = (logs / f"{label}.jsonl").open("w", encoding="utf-8")
        program = ["-m", "tests.stress.chaos.zmq.peer", *arguments, name, ipc]
        command = [*machine.within, sys.executable, *program]
        self._child = Child(
            command[1:],
            on_line=self._keep,
            stderr=self._log,
            python=command[0],
            environment=clean_environment(PYTHONWARNINGS="ignore", **environment),
        )

    def _keep(self, line: str) -> None:
        self._copy.write(line)
        kind = self._journal.add(self.label, line)
        if kind in ("started", "rested", "said", "stopped", "forked"):
            self._said.put(line)

    def wait_for(self, word: str, limit: float = LIMIT) -> str:
        """Wait for a line of it, which is the next one that is no entry of the journal.

        Raises:
            HarnessError: it did not come.
        """
        try:
            line = self._said.get(timeout=limit)
        except queue.Empty:
            line = "nothing"
        if f'"{word}"' not in line:
            raise HarnessError(f"{self.label} said {line!r} in place of {word}; {self._log.name}")
        return line

    def command(self, do: str, **arguments: Any) -> None:
        """Give it a command."""
        with contextlib.suppress(OSError):
            self._child.send({"do": do, **arguments})

    def signal(self, number: signal.Signals) -> None:
        self._child.signal(number)

    def kill(self) -> None:
        """End it, and keep its last lines."""
        self._child.kill()
        self._log.close()
        self._copy.close()
