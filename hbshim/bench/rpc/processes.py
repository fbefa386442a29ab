"""Starts the contestants' processes, and gives them orders."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from hbshim.bench.publisher import BROKER_VARIABLE
from hbshim.bench.rpc.parts import Work
from hbshim.errors import HbshimError

#: Seconds that an answer may take beyond what was asked for.
ANSWER_LIMIT = 60.0


class Agent:
    """A process of :mod:`hbshim.bench.rpc.agent`; starts at once, and answers in turn."""

    def __init__(
        self,
        role: str,
        kind: str,
        scheme: str,
        topic: str,
        model: str,
        url: str,
        path: str | None = None,
    ) -> None:
        self._name = f"{kind} {scheme} {role}, {model}"
        # Its log and its warnings: shown only if it fails.
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as the process
        # The URL holds a password: in the environment no `ps` shows it.
        self._process = subprocess.Popen(
            [
                sys.executable,
                *("-W", "ignore", "-m", "hbshim.bench.rpc.agent"),
                *(role, kind, scheme, topic, model),
            ],
            env={**os.environ, BROKER_VARIABLE: url, **_path_with(path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def answer(self, seconds: float = ANSWER_LIMIT) -> dict[str, Any]:
        """The next answer; the first means that it is ready.

        Raises:
            HbshimError: the process failed, or did not answer in time.
        """
        output = self._process.stdout
        assert output is not None
        line = output.readline() if select.select([output], [], [], seconds)[0] else ""
        if not line:
            self._process.kill()
            self._process.wait()
            self._errors.seek(0)
            last = self._errors.read().strip().splitlines()[-1:] or ["it printed nothing"]
            raise HbshimError(f"a contestant failed ({self._name}): {last[0]}")
        answered: dict[str, Any] = json.loads(line)
        return answered

    def ask(self, seconds: float = 0.0, **order: Any) -> dict[str, Any]:
        """Give an order that takes so long, and wait for the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({**order, "seconds": seconds}) + "\n")
        self._process.stdin.flush()
        return self.answer(seconds + ANSWER_LIMIT)

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()


def _path_with(directory: str | None) -> dict[str, str]:
    if directory is None:
        return {}
    path = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join(filter(None, (directory, path)))}


class Contestant:
    """A client, and the server that only it uses.

    Parameters:
        kind: of :data:`hbshim.bench.rpc.agent.KINDS`.
        scheme: of the URL; for bare libraries, a name.
        topic: used by this contest alone.
        model: "native", "eventlet" or "gevent".
        between_cpu: returns the CPU time so far, in seconds, of what lies between the two.
        path: a directory that goes first on the path of its processes.
    """

    def __init__(
        self,
        kind: str,
        scheme: str,
        topic: str,
        model: str,
        url: str,
        between_cpu: Callable[[], float] = lambda: 0.0,
        *,
        path: str | None = None,
    ) -> None:
        self.kind, self.scheme, self.model = kind, scheme, model
        self._between_cpu = between_cpu
        self._ends = ExitStack()
        self._server = Agent("server", kind, scheme, topic, model, url, path)
        self._ends.callback(self._server.close)
        self._client = Agent("client", kind, scheme, topic, model, url, path)
        self._ends.callback(self._client.close)
        self._expected: dict[str, int] = {"requests": 0, "notifications": 0}

    def await_ready(self) -> None:
        """Return when both processes are there."""
        for agent in (self._server, self._client):
            agent.answer()

    def measure(self, work: Work, seconds: float) -> dict[str, Any]:
        """One slice.

        Returns:
            taken: microseconds of each operation.
            rate: of the client, each second.
            arrived: the same, until the server had received the last of them.
            client_cpu, server_cpu, between_cpu: seconds of CPU time that they used.

        Raises:
            HbshimError: the server did not receive what was sent.
        """
        cpu, between = self._server.ask(work="count")["cpu"], self._between_cpu()
        answer = self._client.ask(
            seconds, work=work.operation, callers=work.callers, most=work.most
        )
        taken = answer["taken"]
        counted = "notifications" if work.operation == "notify" else "requests"
        self._expected[counted] += len(taken)
        received = self._await_arrival(work)
        return {
            "taken": taken,
            "rate": len(taken) / answer["seconds"],
            "arrived": len(taken) / (received["counts"]["latest"] - answer["begin"]),
            "client_cpu": answer["cpu"],
            "server_cpu": received["cpu"] - cpu,
            "between_cpu": self._between_cpu() - between,
        }

    def _await_arrival(self, work: Work) -> dict[str, Any]:
        deadline = time.monotonic() + ANSWER_LIMIT
        while True:
            answer = self._server.ask(work="count")
            seen = {name: answer["counts"][name] for name in self._expected}
            if seen == self._expected:
                return answer
            if time.monotonic() > deadline:
                raise HbshimError(
                    f"{self.kind} {self.scheme}, {self.model}, {work.name}: of "
                    f"{self._expected} sent, the server took in {seen}"
                )
            time.sleep(0.01)

    def __enter__(self) -> Contestant:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._ends.close()
