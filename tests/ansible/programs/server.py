"""A service of the tests: answers calls, and remembers what it got.

python server.py FILE TOPIC
"""

from __future__ import annotations

import signal
import socket
import sys
import threading
from typing import Any

from connection import connect

from hbshim import messaging


class Memory:
    """What the clients of the tests call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: list[str] = []

    def echo(self, request: messaging.Request, value: Any) -> dict[str, Any]:
        return {"server": socket.gethostname(), "value": value}

    def keep(self, request: messaging.Request, key: str) -> None:
        with self._lock:
            self._seen.append(key)

    def kept(self, request: messaging.Request, prefix: str) -> list[str]:
        with self._lock:
            return [key for key in self._seen if key.startswith(prefix)]


def main(path: str, topic: str) -> None:
    driver = connect(path)
    server = messaging.Server(
        driver, messaging.Target(topic, server=socket.gethostname()), [Memory()]
    )
    server.start()
    print("ready", flush=True)
    signal.sigwait({signal.SIGINT, signal.SIGTERM})
    server.stop(timeout=10)
    driver.close()


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    main(*sys.argv[1:])
