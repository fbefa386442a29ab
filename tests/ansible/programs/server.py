"""A service of the tests: answers calls, and remembers what it got.

python server.py FILE TOPIC

It keeps what it got in a file, so that it survives restarts.
"""

from __future__ import annotations

import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from connection import connect

from hbshim import messaging


class Memory:
    """What the clients of the tests call."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._path = path
        self._file = path.open("a", buffering=1)

    def echo(self, request: messaging.Request, value: Any) -> dict[str, Any]:
        return {"server": socket.gethostname(), "value": value}

    def keep(self, request: messaging.Request, key: str) -> None:
        with self._lock:
            self._file.write(f"{key}\n")

    def kept(self, request: messaging.Request, prefix: str) -> list[str]:
        with self._lock:
            lines = self._path.read_text(encoding="utf-8").splitlines()
            return [key for key in lines if key.startswith(prefix)]


def main(path: str, topic: str) -> None:
    driver = connect(path)
    server = messaging.Server(
        driver,
        messaging.Target(topic, server=socket.gethostname()),
        [Memory(Path("/var/lib") / topic / "kept")],
    )
    server.start()
    print("ready", flush=True)
    signal.sigwait({signal.SIGINT, signal.SIGTERM})
    server.stop(timeout=10)
    driver.close()


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    main(*sys.argv[1:])
