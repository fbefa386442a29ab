"""A server or a client in a process of its own, as a test sees it; and how late the machine is."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.messaging.zmq.machines import Machine
from tests.messaging.zmq.nodes import LIMIT

_PEER = str(Path(__file__).with_name("peer.py"))


@dataclass(frozen=True)
class Outcome:
    """How a call ended; times are those of ``time.monotonic()``.

    Attributes:
        host: the name of the server that answered; None: none did.
        error: the class of the error, or empty.
    """

    number: int
    began: float
    ended: float
    host: str | None = None
    error: str = ""


class Peer:
    """A server or a client in a process of its own; see peer.py.

    Parameters:
        clock: seconds by which its wall clock is wrong.
    """

    def __init__(
        self,
        machine: Machine,
        role: str,
        url: str,
        ipc: str,
        topic: str,
        name: str = "",
        *,
        clock: float = 0.0,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.ran: list[int] = []
        self.outcomes: list[Outcome] = []
        self._said: queue.Queue[dict[str, Any]] = queue.Queue()
        self._process = subprocess.Popen(
            [*machine.within, sys.executable, _PEER, role, url, ipc, topic, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                "HBSHIM_TEST_CLOCK": str(clock),
                **(environment or {}),
            },
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.clock_error: float = self._wait_for("started")["clock"] - time.time()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for text in self._process.stdout:
            line = json.loads(text)
            if "ran" in line:
                self.ran.append(line["ran"])
            elif "number" in line:
                self.outcomes.append(Outcome(**line))
            else:
                self._said.put(line)

    def _wait_for(self, word: str) -> dict[str, Any]:
        line = self._said.get(timeout=2 * LIMIT)
        assert word in line, line
        return line

    def command(self, do: str, **arguments: object) -> None:
        """Give a client a command."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()

    def rest(self) -> list[Outcome]:
        """End a client's load; return how each call ended so far."""
        self.command("rest")
        self._wait_for("rested")
        return list(self.outcomes)

    def stop(self) -> bool:
        """Stop a server gracefully; return whether it ended what it had begun."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        stopped: bool = self._wait_for("stopped")["stopped"]
        return stopped

    def send_signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait(LIMIT)
        self._reader.join(LIMIT)
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()


class Lateness:
    """How late this machine runs its processes meanwhile; a context manager.

    A bound of the product holds on a machine that runs it. What a starved machine adds is allowed.
    """

    _EVERY = 0.05

    def __init__(self) -> None:
        self._worst = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @property
    def allowance(self) -> float:
        """Seconds to add to a bound."""
        return 4 * self._worst

    def _watch(self) -> None:
        while not self._over.is_set():
            began = time.monotonic()
            self._over.wait(self._EVERY)
            self._worst = max(self._worst, time.monotonic() - began - self._EVERY)

    def __enter__(self) -> Lateness:
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join(LIMIT)
