"""The interface of every contestant: a client that repeats one operation, and a server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

#: 1 KiB, as text, because it goes through JSON.
PAYLOAD = "x" * 1024

#: Prefix of the exchanges and queues of the benchmark.
PREFIX = "hbshim-bench"

#: Unacknowledged messages that a server may hold, whatever the contestant.
PREFETCH = 100

#: Seconds for one operation before the benchmark fails.
TIMEOUT = 30.0


class Work(NamedTuple):
    """What is measured.

    Attributes:
        name: of its rows.
        operation: call, cast, fanout or notify.
        callers: how many call at a time.
        most: operations of a slice, at most.
    """

    name: str
    operation: str
    callers: int = 1
    most: int | None = None


class Client(Protocol):
    """Sends; every method may raise, and then the benchmark ends."""

    def calls(self, callers: int, seconds: float) -> list[float]:
        """Make calls for so long, so many at a time; how long each took, in seconds."""
        ...

    def cast(self) -> None: ...
    def notify(self) -> None: ...


class Server(Protocol):
    """Answers, and counts what arrived: casts and calls, and notifications."""

    def counts(self) -> dict[str, float]: ...
    def stop(self) -> None: ...


class Counter:
    """Counts from any thread; the server's endpoints and consumers share one.

    Attributes:
        latest: when it last counted, of ``time.monotonic()``, which all processes share.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.requests = self.notifications = 0
        self.latest = 0.0

    def request(self) -> None:
        with self._lock:
            self.requests += 1
            self.latest = time.monotonic()

    def notification(self) -> None:
        with self._lock:
            self.notifications += 1
            self.latest = time.monotonic()

    def counts(self) -> dict[str, float]:
        with self._lock:
            return {
                "requests": self.requests,
                "notifications": self.notifications,
                "latest": self.latest,
            }


def repeat(work: Callable[[], object], seconds: float, most: int | None = None) -> list[float]:
    """Do `work` for so long, or `most` times; how long each took, in seconds."""
    clock = time.perf_counter
    taken: list[float] = []
    begin = now = clock()
    end = begin + seconds
    while now < end and len(taken) != most:
        work()
        before, now = now, clock()
        taken.append(now - before)
    return taken


def together(work: Callable[[], object], callers: int, seconds: float) -> list[float]:
    """The same from so many threads, green where the program's are."""
    if callers == 1:
        return repeat(work, seconds)
    taken: list[float] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            taken.extend(repeat(work, seconds))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return taken
