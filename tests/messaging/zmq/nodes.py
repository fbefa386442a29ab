"""Hosts of the ZeroMQ driver: each a proxy in a process of its own, at an address of its own."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from hbshim import messaging
from hbshim.errors import CallTimeoutError
from hbshim.messaging.zmq.proxy.control import ask

#: Seconds for what takes none; the machine may be busy.
LIMIT = 30.0

_numbers = itertools.count(1)

#: Runs the same command with a wall clock that is wrong.
WRONG_CLOCK = """
import runpy, sys, time
true, offset = time.time, float(sys.argv.pop(1))
time.time = lambda: true() + offset
sys.argv.insert(1, "zmq-proxy")
runpy.run_module("hbshim", run_name="__main__", alter_sys=True)
"""

COMMAND = (sys.executable, "-m", "hbshim", "zmq-proxy")


def refused(client: messaging.Client) -> bool:
    """Whether a proxy that stops takes nothing more."""
    try:
        client.prepare(timeout=2).call("echo", value="refused")
    except CallTimeoutError:
        return True
    return False


class InBackground:
    """Runs a function in a thread; notes what it raises or returns."""

    def __init__(self, work: Callable[[], object]) -> None:
        self.outcome: object = None
        self._work = work
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.outcome = self._work()
        except Exception as error:
            self.outcome = error

    def join(self, limit: float = LIMIT) -> object:
        self._thread.join(limit)
        assert not self._thread.is_alive()
        return self.outcome


def own_address() -> str:
    """A loopback address that no other test uses, so that every port of it is free."""
    pid = os.getpid()
    return f"127.{1 + (pid >> 8) % 250}.{pid % 256}.{1 + next(_numbers) % 250}"


class Node:
    """A host: its proxy, and the drivers on it.

    Parameters:
        within: what the command of its proxy begins with.

    Attributes:
        address: of its proxy; the ports are the fixed ones.
        ipc: its directory of local sockets.
    """

    def __init__(self, address: str | None = None, within: Sequence[str] = ()) -> None:
        self.address = address or own_address()
        self._within = within
        # Not pytest's: the path of a Unix socket has 107 bytes at most.
        self.ipc = tempfile.mkdtemp(prefix="hbz")
        self._drivers: list[messaging.Driver] = []
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"hbzmq://{self.address}/"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(
        self,
        *arguments: str,
        log: IO[str] | None = None,
        whole: bool = False,
        environment: Mapping[str, str] | None = None,
        clock: float = 0.0,
    ) -> str:
        """Start the proxy; return the line that says it is ready.

        Parameters:
            log: takes its standard error.
            whole: all processes of it, and not the one for calls and casts alone.
            environment: more variables.
            clock: seconds by which its wall clock is wrong.
        """
        program = [sys.executable, "-c", WRONG_CLOCK, str(clock)] if clock else COMMAND
        command = [
            *self._within,
            *program,
            "--bind",
            self.address,
            "--ipc-dir",
            self.ipc,
            *arguments,
        ]
        if not whole:
            command += ["--process", "requests"]
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert "ready" in line, line
        return line

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the proxy."""
        os.kill(self.pid, number)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End the proxy; return its status."""
        self.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait for the end of the proxy; return its status."""
        process, self._process = self._process, None
        assert process is not None
        status = process.wait(LIMIT)
        assert process.stdout is not None
        process.stdout.close()
        return status

    def driver(self, *others: Node, **options: Any) -> messaging.Driver:
        """A driver in this process, whose servers are on this host.

        Parameters:
            others: hosts that its calls may go to as well.
        """
        hosts = ",".join(node.address for node in (self, *others))
        options = {"rpc_zmq_ipc_dir": self.ipc, **options}
        self._drivers.append(messaging.connect(f"hbzmq://{hosts}/", **options))
        return self._drivers[-1]

    def close(self) -> None:
        """End all of it."""
        for driver in self._drivers:
            driver.close()
        if self._process is not None:
            self.end(signal.SIGKILL)
        shutil.rmtree(self.ipc, ignore_errors=True)


@contextmanager
def server_process(
    node: Node, topic: str, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A server in a process of its own; its output says what it does."""
    script = str(Path(__file__).with_name("server.py"))
    process = subprocess.Popen(
        [sys.executable, script, node.url, node.ipc, topic],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            **(environment or {}),
        },
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def run_program(
    node: Node,
    model: str,
    what: str,
    url: str = "",
    environment: Mapping[str, str] | None = None,
) -> list[str]:
    """What program.py prints in a concurrency model; it must end well.

    Parameters:
        url: of its driver; empty: that of the node.
        environment: more variables.
    """
    program = str(Path(__file__).with_name("program.py"))
    done = subprocess.run(
        [sys.executable, program, model, url or node.url, node.ipc, what],
        capture_output=True,
        text=True,
        timeout=120,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            **(environment or {}),
        },
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


def figures(node: Node) -> dict[str, float]:
    """The figures of the process for calls and casts, once it answers."""
    found: dict[str, float] | None = None
    until = time.monotonic() + LIMIT
    while found is None:
        assert time.monotonic() < until
        found = ask(node.ipc, ("requests",))["requests"]
    return found


def figure(node: Node, name: str) -> float:
    """A figure of the process for calls and casts; 0 where it has counted none, or is not there."""
    found = ask(node.ipc, ("requests",))["requests"]
    return 0.0 if found is None else found.get(name, 0.0)


def children(pid: int) -> dict[str, int]:
    """The processes of a proxy, by name."""
    found = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
        if b"--process" in words:
            found[words[words.index(b"--process") + 1].decode()] = int(child)
    return found


def listening_ports(pid: int) -> set[int]:
    """TCP ports that a process listens at, as ``ss -ltnp`` finds them."""
    inodes = set()
    for each in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(each)
        except FileNotFoundError:
            continue  # that of the directory that is listed
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    ports = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and inode in inodes:
                ports.add(int(local.rpartition(":")[2], 16))
    return ports
