"""Events as records of `logging`, made by a thread of the application.

Never by the heartbeat thread: under eventlet the locks inside `logging` are green, and a native
thread that waits for one deadlocks. Events therefore wait in a queue, and are logged when the
application next connects or calls :func:`hbshim.status`.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Iterable
from contextvars import ContextVar

from hbshim.metrics import EVENTS_KEPT, Event, Metrics
from hbshim.runtime.exclusive import OCCUPIED, TrySection
from hbshim.runtime.fork import ProcessLocal

LOGGER = "hbshim"

#: Level of each kind; a kind that is not here is a warning.
LEVELS = {
    "application-back": logging.INFO,
    "application-hung": logging.ERROR,
    "concurrent-writers": logging.ERROR,
    "dead-in-pool": logging.INFO,
    "check-failed": logging.ERROR,
    "directory-back": logging.INFO,
    "directory-refused": logging.ERROR,
    "loop-blocked": logging.INFO,
    "no-amqp": logging.INFO,
    "watch-failed": logging.ERROR,
    "worker-moved": logging.INFO,
    "write-broken-off": logging.ERROR,
}

#: Kinds that repeat with each connection: :func:`log_problems` logs each reason once.
ONCE = frozenset({"choice-warning", "left-alone", "not-kept-alive", "not-negotiated"})


#: How many reasons of these kinds are remembered.
REASONS_KEPT = 100


class _Log:
    """What has been logged in one process.

    Attributes:
        done: the events that are handled already, oldest first.
        once: kind and detail of those of :data:`ONCE` that were logged.
    """

    def __init__(self) -> None:
        self.section = TrySection()
        self.done: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self.once: deque[tuple[str, str]] = deque(maxlen=REASONS_KEPT)


class _Logging:
    """One call of :func:`log_problems`. A thread or task that a handler starts may inherit it."""

    under_way = True


#: Of this thread, green thread or task.
_logging: ContextVar[_Logging | None] = ContextVar("hbshim_logging", default=None)

_log: ProcessLocal[_Log] = ProcessLocal(_Log, lambda inherited: None)


def level_of(event: Event) -> int:
    """Return the level of the record for `event`."""
    return LEVELS.get(event.kind, logging.WARNING)


def log_problems(metrics: Metrics) -> None:
    """Log the warnings and errors that are in the queue and not logged yet.

    They stay in the queue, for :meth:`Metrics.take_events`. Call it from a thread of the
    application that holds no lock of hbshim. It waits for no other thread, and raises nothing: an
    error of a log handler must not end a connection.

    A log handler may open a connection, which calls this function again, with another event. Then
    nothing is logged until the next call, to avoid endless recursion.
    """
    log, latest = _log.get(), metrics.latest
    if latest is None or (log.done and log.done[-1] is latest):
        return  # nothing was recorded since the last call; drivers call this for each message
    outer = _logging.get()
    if outer is not None and outer.under_way:
        return
    this = _Logging()
    before = _logging.set(this)
    try:
        _log_fresh(log, metrics)
    finally:
        this.under_way = False
        _logging.reset(before)


def _log_fresh(log: _Log, metrics: Metrics) -> None:
    fresh = log.section.run(lambda: _take_fresh(log, metrics.recorded()))
    if fresh is OCCUPIED:
        return  # another thread of the application is logging
    logger = logging.getLogger(LOGGER)
    for event in fresh:
        reason = (event.kind, event.detail)
        if level_of(event) < logging.WARNING or reason in log.once:
            continue
        if event.kind in ONCE:
            log.once.append(reason)
        with contextlib.suppress(Exception):
            log_event(event, logger)


def _take_fresh(log: _Log, recorded: list[Event]) -> list[Event]:
    done = set(map(id, log.done))
    fresh = [event for event in recorded if id(event) not in done]
    log.done.extend(fresh)
    return fresh


def not_logged_yet(events: Iterable[Event]) -> list[Event]:
    """Return those of `events` that :func:`log_problems` has not logged."""
    log = _log.get()
    # A copy: another thread may be logging.
    done = set(map(id, log.done.copy()))
    return [event for event in events if id(event) not in done or level_of(event) < logging.WARNING]


def log_event(event: Event, logger: logging.Logger) -> None:
    """Log one record, with the fields ``hbshim_kind``, ``_link``, ``_detail`` and ``_at``."""
    fields = {
        "hbshim_kind": event.kind,
        "hbshim_link": event.link,
        "hbshim_detail": event.detail,
        "hbshim_at": event.at,
    }
    if event.link:
        message: tuple[str, ...] = ("%s: %s (%s)", event.kind, event.detail, event.link)
    else:
        message = ("%s: %s", event.kind, event.detail)
    logger.log(level_of(event), *message, extra=fields)
