"""Counters and an event queue that a native thread may use.

The heartbeat thread must not log: under eventlet the lock of `logging` is green, and a native
thread that waits for it deadlocks. It records here instead; a thread of the application, or an
exporter, removes the records.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from hbshim.runtime.unpatched import original

#: How many events are kept; older ones are dropped, and counted as ``events_dropped``.
EVENTS_KEPT = 1000


@dataclass(frozen=True)
class Event:
    """Something that an operator should know.

    Attributes:
        kind: for example ``link-silent``, ``worker-moved``, ``concurrent-writers``.
        link: name of the connection, without credentials; empty if it concerns all.
        detail: one sentence.
        at: ``time.time()`` of the event, in seconds.
    """

    kind: str
    link: str = ""
    detail: str = ""
    at: float = field(default_factory=time.time)


class Metrics:
    """Counters by name, and the latest events. Any thread may call it, and none waits.

    Without a lock: each thread has its own counters. So neither a thread that a finalizer has
    stopped in here, nor one that does not exist in a forked child, makes another one wait. (A
    finalizer that interrupts a count may lose that one count.)
    """

    __slots__ = ("_by_thread", "_events", "_thread")

    def __init__(self) -> None:
        # The native function, even if a green library patches later.
        self._thread: Callable[[], int] = original("_thread", "get_ident")
        self._by_thread: dict[int, dict[str, int]] = {}
        self._events: deque[Event] = deque(maxlen=EVENTS_KEPT)

    def count(self, name: str, amount: int = 1) -> None:
        """Add `amount` to counter `name`."""
        thread = self._thread()
        counters = self._by_thread.get(thread)
        if counters is None:
            counters = self._by_thread.setdefault(thread, {})
        counters[name] = counters.get(name, 0) + amount

    def record(self, kind: str, link: str = "", detail: str = "") -> None:
        """Keep an event for the caller of :meth:`take_events`."""
        if len(self._events) == EVENTS_KEPT:
            self.count("events_dropped")
        self._events.append(Event(kind, link, detail))
        # Last, so that an event that was counted can be taken out.
        self.count(f"event:{kind}")

    def record_once(self, kind: str, link: str = "", detail: str = "") -> None:
        """Keep an event unless one of its kind was recorded in this process before."""
        if not self.snapshot().get(f"event:{kind}"):
            self.record(kind, link, detail)

    @property
    def latest(self) -> Event | None:
        """The event that was recorded last, if it is in the queue."""
        try:
            return self._events[-1]
        except IndexError:
            return None

    def recorded(self) -> list[Event]:
        """Return the events that are in the queue, oldest first; they stay."""
        while True:
            try:
                return list(self._events)
            except RuntimeError:
                continue  # one was recorded while the list was made

    def take_events(self) -> list[Event]:
        """Remove and return the events recorded so far, oldest first."""
        taken = []
        while True:
            try:
                taken.append(self._events.popleft())
            except IndexError:
                return taken

    def snapshot(self) -> dict[str, int]:
        """Return the counters as a plain dict."""
        total: Counter[str] = Counter()
        for counters in list(self._by_thread.values()):
            total.update(dict(counters))
        return dict(total)
