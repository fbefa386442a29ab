"""What people do, without hbshim, to keep a connection alive; runs inside Apache."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import eventlet
import eventlet.patcher
import eventlet.tpool

from wsgi_harness.cell.clients import Client

Sleep = Callable[[float], object]


class Beater:
    """Calls the library's own heartbeat function again and again, until it raises.

    Parameters:
        client: whose connection to keep.
        every: seconds between two calls. oslo.messaging's thread calls four times in T.
    """

    def __init__(self, client: Client, every: float) -> None:
        self._client = client
        self._every = every
        self._calls: list[float] = []
        self._error: dict[str, object] | None = None

    def start(self, method: str) -> None:
        """Start the thread, green or native, that `method` names; see scenarios.METHODS."""
        STARTERS[method](self)

    def report(self) -> dict[str, object]:
        """When the calls were made, and the error that ended them, if one did."""
        return {"calls": list(self._calls), "error": self._error}

    def _green(self) -> None:
        eventlet.spawn(self._loop, eventlet.sleep, self._client.beat)

    def _tpool(self) -> None:
        eventlet.spawn(
            self._loop, eventlet.sleep, lambda: eventlet.tpool.execute(self._client.beat)
        )

    def _native(self) -> None:
        native_thread(self._loop, native_sleep(), self._client.beat)

    def _native_drained(self) -> None:
        def beat_and_drain() -> None:
            self._client.beat()
            self._client.drain()

        native_thread(self._loop, native_sleep(), beat_and_drain)

    def _nothing(self) -> None:
        """Start nothing: nobody beats, or hbshim does."""

    def _loop(self, sleep: Sleep, beat: Callable[[], object]) -> None:
        while self._error is None:
            sleep(self._every)
            self._calls.append(time.time())
            try:
                beat()
            except Exception as error:
                # An uncaught exception ends a thread; this one leaves a note.
                self._error = {
                    "at": time.time(),
                    "type": type(error).__name__,
                    "message": str(error)[:200],
                }


STARTERS: dict[str, Callable[[Beater], None]] = {
    "none": Beater._nothing,
    "green": Beater._green,
    "tpool": Beater._tpool,
    "native": Beater._native,
    "native-drained": Beater._native_drained,
}


def native_thread(target: Callable[..., None], *arguments: Any) -> None:
    """Run `target` in an operating-system thread, past eventlet, as oslo.messaging did."""
    threading = eventlet.patcher.original("threading")
    threading.Thread(target=target, args=arguments, daemon=True).start()


def native_sleep() -> Sleep:
    """A sleep that blocks its operating-system thread and never enters a hub."""
    sleep: Sleep = eventlet.patcher.original("time").sleep
    return sleep
