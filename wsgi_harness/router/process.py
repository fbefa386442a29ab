"""The test router in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from pathlib import Path

from wsgi_harness.engine.commands import tail
from wsgi_harness.errors import StackError
from wsgi_harness.paths import CHECKOUT
from wsgi_harness.router.environment import proton_python
from wsgi_harness.router.plan import Plan


class RouterProcess:
    """A test router; its ports are those of its configuration.

    Parameters:
        python: an interpreter with proton.

    Raises:
        StackError: it does not start; the message has what it wrote.
    """

    def __init__(self, plan: Plan, *, dialect: str = "skupper", python: Path | None = None) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="hbshim-router-")
        directory = Path(self._directory.name)
        plan.write(directory, seen_as=str(directory), accounts=f"{directory}/accounts")
        accounts = "".join(f"{name} {password}\n" for name, password in plan.users.items())
        (directory / "accounts").write_text(accounts)
        self._log = directory / "log"
        self._command = [
            str(python or proton_python()),
            *("-m", "wsgi_harness.router"),
            *("--config", str(directory / plan.configuration)),
            *("--dialect", dialect, "--settle", str(plan.settle)),
        ]
        self._process: subprocess.Popen[str] | None = None
        try:
            self.restart()
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        """Of the router that runs."""
        assert self._process is not None
        return self._process.pid

    def restart(self) -> None:
        self.kill()
        with self._log.open("a") as log:
            self._process = process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=CHECKOUT,
                text=True,
            )
        assert process.stdout is not None
        if not any(line.strip() == "ready" for line in process.stdout):
            self.kill()
            raise StackError(f"the test router did not start:\n{tail(self.log())}")

    def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with process:
                process.kill()

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def log(self) -> str:
        return self._log.read_text()

    def stop(self) -> None:
        self.kill()
        self._directory.cleanup()
