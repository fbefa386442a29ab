"""A program in a process of its own, steered by lines of JSON: the end that gives the commands.

One line of JSON is a command, each line that the program prints an answer or a report. The code
that starts a program decides what its lines mean.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

CHECKOUT = Path(__file__).parents[2]

#: Seconds that a program may take to end once its standard input is closed, or it is killed.
EXIT_LIMIT = 5.0


def clean_environment(**more: str) -> dict[str, str]:
    """Return this process's environment without what steers hbshim or Python elsewhere.

    A program finds hbshim, the harness and the tests in this checkout.
    """
    kept = {
        key: value
        for key, value in os.environ.items()
        if "HBSHIM" not in key and key != "PYTHONWARNINGS"
    }
    return {**kept, "PYTHONPATH": str(CHECKOUT), **more}


class Child:
    """A running program.

    Parameters:
        arguments: of the interpreter.
        on_line: called with each line that the program prints, in a thread of its own. Without
            it, lines are kept for :meth:`read`.
        stderr: where its standard error goes; None for that of this process.
        python: the interpreter.
        environment: whole; None for :func:`clean_environment`.
    """

    def __init__(
        self,
        arguments: Sequence[str | Path],
        *,
        on_line: Callable[[str], object] | None = None,
        stderr: IO[bytes] | None = None,
        python: Path | str = sys.executable,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._on_line = on_line or self._lines.put
        self._process = subprocess.Popen(
            [str(python), *arguments],
            env=clean_environment() if environment is None else environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._on_line(line)
        self._lines.put("")

    def send(self, command: Mapping[str, Any]) -> None:
        """Write a command.

        Raises:
            OSError: the program has ended.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def read(self, limit: float) -> str:
        """Return the next line; an empty string after the last one.

        Raises:
            queue.Empty: there is none within `limit` seconds.
        """
        return self._lines.get(timeout=limit)

    @property
    def prints(self) -> bool:
        """Whether the program may still print a line."""
        return self._reader.is_alive()

    @property
    def status(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._process.poll()

    def wait(self, limit: float) -> int | None:
        """Return its exit status, after its last line; None if it still runs after `limit` s."""
        try:
            status = self._process.wait(limit)
        except subprocess.TimeoutExpired:
            return None
        self._reader.join(EXIT_LIMIT)
        return status

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def end(self) -> None:
        """Close its standard input, and kill it if it runs on."""
        self._close_input()
        if self.wait(EXIT_LIMIT) is None:
            self._process.kill()
        self._release()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._release()

    def _release(self) -> None:
        self._process.wait(EXIT_LIMIT)
        self._reader.join(EXIT_LIMIT)
        self._close_input()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _close_input(self) -> None:
        assert self._process.stdin is not None
        # What could not be written is still in its buffer.
        with contextlib.suppress(OSError):
            self._process.stdin.close()
