"""Signs of life for callers that bear silence for so long only, while their requests run."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator

from hbshim.messaging.base import Incoming, Payload
from hbshim.messaging.reporting import OnError
from hbshim.runtime.unpatched import start_without_signals

#: A sign comes every third of what a caller bears: one may be lost, and one late.
SHARE = 3

#: Seconds; nobody is told more often than so.
AT_LEAST = 0.05

_NOTHING = Payload(b"null")
_NEVER = float("inf")


class Pulse:
    """One thread, green where the program's are, started when the first caller wants it.

    Parameters:
        on_error: called with errors of signs that could not be sent; must not raise.
    """

    def __init__(self, on_error: OnError) -> None:
        self._on_error = on_error
        self._pid = os.getpid()
        self._running: dict[Incoming, float] = {}
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._changed = threading.Event()
        self._looks_at = _NEVER
        self._ended = False

    @contextlib.contextmanager
    def during(self, incoming: Incoming, silence: float) -> Iterator[None]:
        """Give signs of life as long as the block runs.

        Parameters:
            silence: seconds that the caller bears.
        """
        every = max(AT_LEAST, silence / SHARE)
        self._running[incoming] = every
        try:
            self._start()
            # A request that is over before the next look costs no change of threads.
            if time.monotonic() + every < self._looks_at:
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
            thread = threading.Thread(target=self._run, name="hbshim-pulse", daemon=True)
            try:
                start_without_signals(thread.start)
            except RuntimeError as error:
                # No thread can be started for now: the request is worked on without signs.
                self._on_error(error)
                return
            self._thread = thread

    def end(self) -> None:
        """End when no request runs any more."""
        # A thread of the parent's may hold the event's lock for ever in a forked child.
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
                self._changed.wait(AT_LEAST)

    def _run_once(self, due: dict[Incoming, float]) -> dict[Incoming, float]:
        """Send the signs that are due, and wait for the next one."""
        # First: a request that is added from here on has the loop run again.
        self._looks_at = _NEVER
        self._changed.clear()
        now = time.monotonic()
        running = self._running.copy()
        # Once more after the last has gone: another may have been added by then.
        looks_at = min(due.values(), default=_NEVER) if not running else _NEVER
        due = {incoming: due.get(incoming, now + running[incoming]) for incoming in running}
        for incoming, at in due.items():
            if at <= now and incoming in self._running:
                self._give_sign(incoming)
                due[incoming] = now + running[incoming]
        self._looks_at = min(due.values(), default=looks_at)
        left = self._looks_at - time.monotonic()
        self._changed.wait(None if left == _NEVER else max(0.0, left))
        return due

    def _give_sign(self, incoming: Incoming) -> None:
        try:
            incoming.reply(_NOTHING, "alive")
        except Exception as error:
            self._on_error(error)
