"""The server of a host. It is reached through the proxy of the same host, by local sockets.

python server.py
"""

import signal
import socket
import threading

from hbshim import messaging

HOST = socket.gethostname()


class Notes:
    """What this host got, by the run of the client that sent it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._texts: dict[str, list[str]] = {}

    def add(self, run: str, text: str) -> None:
        with self._lock:
            self._texts.setdefault(run, []).append(text)

    def of(self, run: str) -> list[str]:
        with self._lock:
            return list(self._texts.get(run, ()))


class Compute:
    """What clients may call, and cast."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes

    def where(self, request: messaging.Request) -> str:
        return HOST

    def note(self, request: messaging.Request, run: str, text: str) -> None:
        self._notes.add(run, text)

    def notes(self, request: messaging.Request, run: str) -> list[str]:
        return self._notes.of(run)


class Audit:
    """What takes notifications."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes

    def info(self, notification: messaging.Notification) -> None:
        self._notes.add(notification.payload["run"], f"notification {notification.event_type}")


def main() -> None:
    driver = messaging.connect("hbzmq://")
    notes = Notes()
    compute = messaging.Server(driver, messaging.Target("compute", server=HOST), [Compute(notes)])
    # A pool of its own: each host gets every notification. Hosts with one pool would share them.
    audit = messaging.NotificationServer(driver, ["events"], [Audit(notes)], pool=HOST)
    for server in (compute, audit):
        server.start()
    print(f"{HOST}: the server has started", flush=True)
    signal.sigwait({signal.SIGINT, signal.SIGTERM})
    for server in (compute, audit):
        server.stop(timeout=30)
    driver.close()
    print(f"{HOST}: the server has stopped", flush=True)


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    main()
