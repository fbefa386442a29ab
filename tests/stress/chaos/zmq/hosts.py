"""A host of a run: its proxy, the process of its servers, and what befalls them."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from hbshim.messaging.zmq.proxy.control import ask
from tests.messaging.zmq.machines import Machine
from tests.messaging.zmq.nodes import children
from tests.stress.chaos.zmq.journal import Journal
from tests.stress.chaos.zmq.processes import LIMIT, Process
from wsgi_harness.errors import HarnessError

#: Seconds that a proxy may take to stop.
_GRACE = 5.0

#: What a proxy has counted of what it lost.
_COUNTED = ("casts_dropped", "expired")


class Host:
    """See the module.

    Parameters:
        clients: the machine that the network may be broken towards.

    Attributes:
        ipc: its directory of local sockets.
        counted: messages that its proxies have counted as lost, as far as that is known.
    """

    def __init__(
        self,
        name: str,
        machine: Machine,
        clients: Machine,
        environment: dict[str, str],
        journal: Journal,
        logs: Path,
    ) -> None:
        self.name = name
        self._machine, self._clients = machine, clients
        self._environment, self._journal, self._logs = environment, journal, logs
        self._node = machine.node()
        self.ipc = self._node.ipc
        self.counted = 0.0
        self._log = (logs / f"{name}-proxy.log").open("w", encoding="utf-8")
        self._numbers = itertools.count(1)
        self._server: Process | None = None

    def start(self) -> None:
        """Start its proxy and its servers."""
        self._start_proxy()
        self._start_server()

    def _start_proxy(self) -> None:
        until = time.monotonic() + LIMIT
        while True:
            try:
                arguments = ("--host", self.name, "--grace", f"{_GRACE:g}")
                self._node.start(
                    *arguments, whole=True, log=self._log, environment=self._environment
                )
            except AssertionError:
                # Those that were killed have not let go of their ports yet.
                if time.monotonic() > until:
                    raise HarnessError(f"the proxy of {self.name} does not start") from None
                self._node.wait()
                time.sleep(0.1)
            else:
                return

    def _start_server(self) -> None:
        label = f"{self.name}.{next(self._numbers)}"
        began = time.monotonic()
        self._server = Process(
            *(self._machine, ("native", "server"), label, self.name, self.ipc),
            *(self._environment, self._journal, self._logs),
        )
        self._server.wait_for("started")
        # A fanout is for the servers that are there before and after it.
        self._journal.lives[label] = [max(began, time.monotonic()), math.inf]

    def _end_server(self) -> None:
        assert self._server is not None
        self._journal.lives[self._server.label][1] = time.monotonic()
        self._server.kill()

    def suffer(self, fault: str, seconds: float) -> None:
        """Have one fault happen, and end."""
        what, _, how = fault.partition("-")
        if what == "server":
            self._on_server(how, seconds)
        elif what == "proxy":
            self._on_proxy(how, seconds)
        elif how == "killed":
            with contextlib.suppress(ProcessLookupError, KeyError):
                os.kill(children(self._node.pid)[what], signal.SIGKILL)
        else:
            self._on_network(fault)
            time.sleep(seconds)
            self._machine.heal()
            self._clients.hear_from(self._machine)

    def _on_server(self, how: str, seconds: float) -> None:
        assert self._server is not None
        if how == "paused":
            self._server.signal(signal.SIGSTOP)
            time.sleep(seconds)
            self._server.signal(signal.SIGCONT)
            return
        if how == "stopped":
            self._journal.lives[self._server.label][1] = time.monotonic()
            self._server.command("stop")
            self._server.wait_for("stopped")
        self._end_server()
        time.sleep(seconds)
        self._start_server()

    def _on_proxy(self, how: str, seconds: float) -> None:
        pids = [self._node.pid, *children(self._node.pid).values()]
        if how == "paused":
            for number in (signal.SIGSTOP, signal.SIGCONT):
                for pid in pids:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
                time.sleep(seconds if number is signal.SIGSTOP else 0.0)
            return
        self._count()
        if how == "killed":
            # All at once: none of them is started again.
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._node.wait()
        else:
            self._node.send_signal(signal.SIGTERM)
            try:
                self._node.wait()
            except subprocess.TimeoutExpired:
                raise HarnessError(f"the proxy of {self.name} does not stop") from None
        time.sleep(seconds)
        self._start_proxy()

    def _on_network(self, fault: str) -> None:
        if fault == "resets":
            self._machine.reset_from(self._clients, 0.2)
            return
        if fault == "deaf":
            self._machine.drop_from(self._clients)
        self._clients.drop_from(self._machine)

    def figures(self) -> dict[str, Any]:
        """The figures of its proxy's process for calls and casts."""
        return ask(self.ipc, ("requests",))["requests"] or {}

    def _count(self) -> None:
        figures = self.figures()
        self.counted += sum(figures.get(name, 0) for name in _COUNTED)

    def stop(self) -> None:
        """Stop its servers gracefully; count what its proxy has lost."""
        assert self._server is not None
        self._server.command("stop")
        self._server.wait_for("stopped")
        self._count()

    def close(self) -> None:
        """End all of it."""
        if self._server is not None:
            self._server.kill()
        self._node.close()
        self._log.close()
