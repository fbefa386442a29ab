"""Hosts of the ZeroMQ driver: each a proxy in a process of its own, at an address of its own."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

from hbshim import messaging

#: Seconds for what takes none; the machine may be busy.
LIMIT = 30.0

_numbers = itertools.count(1)

COMMAND = (sys.executable, "-m", "hbshim", "zmq-proxy")


def own_address() -> str:
    """A loopback address that no other test uses, so that every port of it is free."""
    pid = os.getpid()
    return f"127.{1 + (pid >> 8) % 250}.{pid % 256}.{1 + next(_numbers) % 250}"


class Node:
    """A host: its proxy, and the drivers on it.

    Attributes:
        address: of its proxy; the ports are the fixed ones.
        ipc: its directory of local sockets.
    """

    def __init__(self) -> None:
        self.address = own_address()
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

    def start(self, *arguments: str, log: IO[str] | None = None) -> None:
        """Start the proxy; return when it is ready.

        Parameters:
            log: takes its standard error.
        """
        command = [*COMMAND, "--bind", self.address, "--ipc-dir", self.ipc, *arguments]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert "ready" in line, line

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the proxy."""
        os.kill(self.pid, number)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End the proxy; return its status."""
        process, self._process = self._process, None
        assert process is not None
        process.send_signal(number)
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
