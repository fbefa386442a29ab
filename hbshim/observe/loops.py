"""Measures how late the event loops run that have connections which are kept alive.

A loop that runs calls a timer in time. So each loop gets a timer that comes back every T/8, for as
long as a connection of it is kept alive, and notes how late it was. While a loop is blocked, the
timer is overdue: any thread can read that.
"""

from __future__ import annotations

import time
import weakref
from collections import deque
from dataclasses import dataclass
from typing import Any

from hbshim.heartbeat import service
from hbshim.heartbeat.link import Link
from hbshim.runtime.fork import process_mark
from hbshim.runtime.loaded import peek
from hbshim.runtime.loops import kind_of, thread_name
from hbshim.runtime.unpatched import original
from hbshim.runtime.weak import members

#: How many measurements the maximum lateness covers.
RECENT = 100

#: How often in T the timer comes back. A lateness of T/8 is also what makes a worker late.
_IN_T = 8

_monotonic = time.monotonic


@dataclass(frozen=True)
class LoopStatus:
    """One event loop with connections that are kept alive. Times are in seconds.

    Attributes:
        kind: "asyncio" for asyncio's selector loop, "uvloop", or "other".
        thread: name of the thread that it ran in when a connection was attached.
        running: whether it runs now; one that was stopped sends and receives nothing.
        links: the number of its connections that are kept alive.
        heartbeat_timeout: the shortest T of these.
        latest_lateness: how late a timer of it was; while it is blocked, how late it is by now.
        worst_lateness: the maximum of the latest 100.
    """

    kind: str
    thread: str
    running: bool
    links: int
    heartbeat_timeout: float
    latest_lateness: float
    worst_lateness: float


class LoopProbe:
    """The timer of one event loop. It is started and called in the thread of the loop.

    Parameters:
        loop: the event loop; it is not kept alive.
    """

    def __init__(self, loop: Any) -> None:
        self._loop: weakref.ref[Any] = weakref.ref(loop)
        self._links: weakref.WeakSet[Link] = weakref.WeakSet()
        self._lateness: deque[float] = deque(maxlen=RECENT)
        self._kind = kind_of(loop)
        self._thread = thread_name(original("_thread", "get_ident")())
        self._due: float | None = None
        self._mine = process_mark()

    def watch(self, link: Link) -> None:
        """Measure for as long as `link`, or another one, is kept alive."""
        self._links.add(link)
        if self._due is None:
            self._start_timer()

    @property
    def mine(self) -> bool:
        """Whether this process has made it; a forked child inherits those of its parent."""
        return bool(self._mine[0])

    def _start_timer(self) -> None:
        loop, timeouts = self._loop(), [link.timeout for link in self._open()]
        if loop is None or loop.is_closed() or not timeouts:
            self._due = None
            return
        period = min(timeouts) / _IN_T
        self._due = _monotonic() + period
        loop.call_later(period, self._run)

    def _run(self) -> None:
        if self._due is None or not self.mine:
            return
        late = max(0.0, _monotonic() - self._due)
        self._lateness.append(late)
        timeouts = [link.timeout for link in self._open()]
        if timeouts and late > min(timeouts) / 2:
            service.current().metrics.record(
                "loop-blocked",
                "",
                f"{self._kind} in thread {self._thread} was blocked for {late:.1f} s; heartbeats "
                "were sent meanwhile, and no message was sent or received",
            )
        self._start_timer()

    def _open(self) -> list[Link]:
        return [link for link in members(self._links) if not link.guard.closed]

    def status(self) -> LoopStatus | None:
        """Return what was measured; None if no connection is kept alive. From any thread."""
        loop, links = self._loop(), self._open()
        if loop is None or not links or not self.mine:
            return None
        running, due = bool(loop.is_running()), self._due
        overdue = max(0.0, _monotonic() - due) if running and due is not None else 0.0
        measured = list(self._lateness)
        return LoopStatus(
            kind=self._kind,
            thread=self._thread,
            running=running,
            links=len(links),
            heartbeat_timeout=min(link.timeout for link in links),
            latest_lateness=max(overdue, measured[-1] if measured else 0.0),
            worst_lateness=max(overdue, *measured, 0.0),
        )


#: The probes of this process, by loop.
_probes: weakref.WeakKeyDictionary[Any, LoopProbe] = weakref.WeakKeyDictionary()


def watch_loop(loop: Any, link: Link) -> None:
    """Measure how late `loop` is while `link` is kept alive; from any thread."""
    # No timer may be started from outside of the loop's thread.
    if loop.is_running() and peek("asyncio.events", "_get_running_loop")() is not loop:
        loop.call_soon_threadsafe(_watch, loop, link)
    else:
        _watch(loop, link)


def _watch(loop: Any, link: Link) -> None:
    try:
        probe = _probes.get(loop)
        if probe is None or not probe.mine:
            _probes[loop] = probe = LoopProbe(loop)
    except TypeError:
        return  # a compiled loop that no weak reference can refer to
    probe.watch(link)


def loops() -> list[LoopStatus]:
    """Return the event loops with connections that are kept alive; from any thread."""
    while True:
        try:
            probes = list(_probes.values())
            break
        except RuntimeError:
            continue  # a loop was added during the copy
    return [status for probe in probes if (status := probe.status()) is not None]
