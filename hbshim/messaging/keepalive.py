"""Keepalives for callers with a call-monitor timeout, sent while their requests run."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator

from hbshim.messaging.base import Incoming, Payload
from hbshim.messaging.flag import Flag
from hbshim.messaging.reporting import OnError
from hbshim.runtime.unpatched import start_without_signals

#: Keepalives in each call-monitor timeout: one may be lost, and one late.
PARTS = 3

#: The shortest interval between two keepalives of a request, in seconds.
MIN_INTERVAL = 0.05

_NOTHING = Payload(b"null")
_NEVER = float("inf")


class Keepalive:
    """Sends keepalives from one thread, of the program's concurrency model, started on demand.

    Parameters:
        on_error: called with errors of keepalives that could not be sent; must not raise.
    """

    def __init__(self, on_error: OnError) -> None:
        self._on_error = on_error
        self._pid = os.getpid()
        self._running: dict[Incoming, float] = {}
        self._starting = threading.RLock()
        self._thread: threading.Thread | None = None
        self._changed = Flag()
        self._next_check = _NEVER
        self._ended = False

    @contextlib.contextmanager
    def during(self, incoming: Incoming, call_monitor_timeout: float) -> Iterator[None]:
        """Send keepalives while the block runs.

        Parameters:
            incoming: the request.
            call_monitor_timeout: the caller's, in seconds.
        """
        every = max(MIN_INTERVAL, call_monitor_timeout / PARTS)
        self._running[incoming] = every
        try:
            self._start()
            # A request that ends before the next check costs no thread switch.
            if time.monotonic() + every < self._next_check:
                self._changed.set()
            yield
        finally:
            del self._running[incoming]
            if self._ended:
                self._changed.set()

    def _start(self) -> None:
        with self._starting:
            if self._thread is not None:
                return
            thread = threading.Thread(target=self._run, name="hbshim-keepalive", daemon=True)
            try:
                start_without_signals(thread.start)
            except RuntimeError as error:
                # No thread can be started now: the request runs without keepalives.
                self._on_error(error)
                return
            self._thread = thread

    def end(self) -> None:
        """End the thread when no request runs any longer."""
        # In a forked child, a thread of the parent may hold the event's lock forever.
        if os.getpid() == self._pid:
            self._ended = True
            self._changed.set()

    def _run(self) -> None:
        due: dict[Incoming, float] = {}
        while self._running or not self._ended:
            try:
                due = self._run_once(due)
            except Exception as error:
                self._on_error(error)
                self._changed.wait(MIN_INTERVAL)

    def _run_once(self, due: dict[Incoming, float]) -> dict[Incoming, float]:
        """Send the keepalives that are due, and wait for the next one."""
        # First: a request that is added from here on makes the loop run again.
        self._next_check = _NEVER
        self._changed.clear()
        now = time.monotonic()
        running = self._running.copy()
        # One more check after the last request has ended: another may have been added by then.
        next_check = min(due.values(), default=_NEVER) if not running else _NEVER
        due = {incoming: due.get(incoming, now + running[incoming]) for incoming in running}
        for incoming, at in due.items():
            if at <= now and incoming in self._running:
                self._send_keepalive(incoming)
                due[incoming] = now + running[incoming]
        self._next_check = min(due.values(), default=next_check)
        left = self._next_check - time.monotonic()
        self._changed.wait(None if left == _NEVER else max(0.0, left))
        return due

    def _send_keepalive(self, incoming: Incoming) -> None:
        try:
            incoming.reply(_NOTHING, "alive")
        except Exception as error:
            self._on_error(error)
