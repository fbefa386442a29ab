"""The usual ways to keep a connection alive without hbshim; runs inside Apache."""

from __future__ import annotations

import time
from collections.abc import Callable

from wsgi_harness.cell.clients import Client
from wsgi_harness.cell.green import Green, Sleep


class Keepalive:
    """Calls the library's own heartbeat function periodically, until it raises.

    Parameters:
        client: whose connection to keep.
        every: seconds between two calls. oslo.messaging's thread calls four times in T.
        green: the green library of this cell.
    """

    def __init__(self, client: Client, every: float, green: Green) -> None:
        self._client = client
        self._every = every
        self._library = green
        self._calls: list[float] = []
        self._error: dict[str, object] | None = None

    def start(self, method: str) -> None:
        """Start the thread, green or native, that `method` names; see scenarios.METHODS."""
        STARTERS[method](self)

    def report(self) -> dict[str, object]:
        """Return when the calls were made, and the error that ended them, if any."""
        return {"calls": list(self._calls), "error": self._error}

    def _green(self) -> None:
        self._library.spawn(self._loop, self._library.sleep, self._client.send_heartbeat)

    def _tpool(self) -> None:
        self._library.spawn(
            self._loop,
            self._library.sleep,
            lambda: self._library.in_pool(self._client.send_heartbeat),
        )

    def _native(self) -> None:
        self._start_native(self._client.send_heartbeat)

    def _native_drained(self) -> None:
        def send_and_drain() -> None:
            self._client.send_heartbeat()
            self._client.drain()

        self._start_native(send_and_drain)

    def _start_native(self, send_heartbeat: Callable[[], object]) -> None:
        self._library.native_thread(self._loop, self._library.native_sleep(), send_heartbeat)

    def _nothing(self) -> None:
        """Start nothing: hbshim or oslo.messaging's driver sends heartbeats, or nothing does."""

    def _loop(self, sleep: Sleep, send_heartbeat: Callable[[], object]) -> None:
        while self._error is None:
            sleep(self._every)
            self._calls.append(time.time())
            try:
                send_heartbeat()
            except Exception as error:
                # An uncaught exception ends a thread; this one is recorded.
                self._error = {
                    "at": time.time(),
                    "type": type(error).__name__,
                    "message": str(error)[:200],
                }


STARTERS: dict[str, Callable[[Keepalive], None]] = {
    "none": Keepalive._nothing,
    "driver": Keepalive._nothing,
    "loop": Keepalive._nothing,
    "green": Keepalive._green,
    "tpool": Keepalive._tpool,
    "native": Keepalive._native,
    "native-drained": Keepalive._native_drained,
}
