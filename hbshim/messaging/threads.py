"""A bounded number of threads, which start when there is work and end when they are idle."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from hbshim.messaging.reporting import LOG
from hbshim.runtime.unpatched import block_signals, blocked_signals, start_without_signals

#: Seconds without work after which a thread ends.
IDLE = 5.0


class Threads:
    """Runs functions, in the order in which they were submitted.

    Parameters:
        name: of the threads.
        most: how many run at the same time.
        run_application: the functions are code of the application. It may start child processes,
            which inherit the signals that are blocked: so these threads block the same ones as the
            thread that makes this, and others block all.
    """

    def __init__(self, name: str, most: int, *, run_application: bool = False) -> None:
        self._name = name
        self._most = most
        self._blocked = blocked_signals() if run_application else None
        self._condition = threading.Condition()
        self._works: deque[Callable[[], object]] = deque()
        self._threads: set[threading.Thread] = set()
        self._idle = 0
        self._closed = False

    @property
    def count(self) -> int:
        """The number of threads."""
        return len(self._threads)

    def submit(self, work: Callable[[], object]) -> None:
        """Have a function called soon.

        Raises:
            RuntimeError: no thread can be started, and none runs.
        """
        with self._condition:
            self._works.append(work)
            if self._idle >= len(self._works):
                self._condition.notify()
                return
            if len(self._threads) >= self._most:
                return
            thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._threads.add(thread)
        try:
            start_without_signals(thread.start)
        except RuntimeError:
            with self._condition:
                self._threads.discard(thread)
                if self._threads:
                    return  # another one gets to it
                self._works.remove(work)
            raise

    def close(self) -> None:
        """End the threads when all works are done."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def join(self, until: float) -> None:
        """Wait for the end of the threads, until a time of ``time.monotonic()``."""
        for thread in list(self._threads):
            if thread is not threading.current_thread():
                thread.join(max(0.0, until - time.monotonic()))

    def _run(self) -> None:
        if self._blocked is not None:
            block_signals(self._blocked)
        while (work := self._next()) is not None:
            try:
                work()
            except BaseException:
                LOG.exception("a thread of %s continues after an error", self._name)
            del work

    def _next(self) -> Callable[[], object] | None:
        with self._condition:
            while not self._works:
                self._idle += 1
                try:
                    notified = not self._closed and self._condition.wait(IDLE)
                finally:
                    self._idle -= 1
                if not notified and not self._works:
                    self._threads.discard(threading.current_thread())
                    return None
            return self._works.popleft()


def run_once(work: Callable[[], object], name: str) -> threading.Thread:
    """Run a function in a thread of its own, which no other work can delay."""
    thread = threading.Thread(target=work, name=name, daemon=True)
    start_without_signals(thread.start)
    return thread
