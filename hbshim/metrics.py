"""Counters and an event queue that a native thread may use.

The heartbeat thread must not log: under eventlet the lock of `logging` is green,
and a native thread that meets it deadlocks. It records here instead; the
application's own thread, or an exporter, takes the records out.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from hbshim.runtime.unpatched import original

#: Events kept for a reader that comes late; older ones are dropped, and counted as
#: ``events_dropped``.
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
    """Counters by name, and the latest events. Any thread may call it, and none waits.

    Without a lock: each thread counts for itself. So neither a thread that a finalizer
    has stopped in here, nor one that does not exist in a forked child, keeps another one
    waiting. (A finalizer that interrupts a count may cost that one count.)
    """

    __slots__ = ("_by_thread", "_events", "_thread")

    def __init__(self) -> None:
        # The native one, also if a green library patches later.
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
        total: Counter[str] = Counter()
        for counters in list(self._by_thread.values()):
            total.update(dict(counters))
        return dict(total)
