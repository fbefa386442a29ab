"""Counters and an event queue that a native thread may use.

The heartbeat thread must not log: under eventlet the lock of `logging` is green,
and a native thread that meets it deadlocks. It records here instead; the
application's own thread, or an exporter, takes the records out.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass, field

from hbshim.runtime.unpatched import allocate_reentrant_lock

#: Events kept for a reader that comes late; older ones are dropped and counted.
EVENTS_KEPT = 1000


@dataclass(frozen=True)
class Event:
    """Something worth telling an operator.

    Attributes:
        kind: for instance ``link-silent``, ``worker-moved``, ``concurrent-writers``.
        link: name of the connection, without credentials; empty when it is about all.
        detail: one sentence.
        at: ``time.time()`` when it happened, in seconds.
    """

    kind: str
    link: str = ""
    detail: str = ""
    at: float = field(default_factory=time.time)


class Metrics:
    """Counters by name, and the latest events. Safe from any thread, never blocks."""

    # Also because eventlet, patching late, makes every re-entrant lock green that it
    # reaches through a `__dict__`.
    __slots__ = ("_counters", "_events", "_lock")

    def __init__(self) -> None:
        self._lock = allocate_reentrant_lock()
        self._counters: Counter[str] = Counter()
        self._events: deque[Event] = deque(maxlen=EVENTS_KEPT)

    def count(self, name: str, amount: int = 1) -> None:
        """Add `amount` to counter `name`."""
        with self._lock:
            self._counters[name] += amount

    def record(self, kind: str, link: str = "", detail: str = "") -> None:
        """Keep an event for whoever calls :meth:`take_events`."""
        self._events.append(Event(kind, link, detail))
        # Last, so that whoever sees it counted can take it out.
        self.count(f"event:{kind}")

    def record_once(self, kind: str, link: str = "", detail: str = "") -> None:
        """Keep an event unless one of its kind was recorded in this process before."""
        if not self._counters[f"event:{kind}"]:
            self.record(kind, link, detail)

    def recorded(self) -> list[Event]:
        """Return the events that were not taken yet, oldest first; they stay."""
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
        """Counters as a plain dict."""
        with self._lock:
            return dict(self._counters)
