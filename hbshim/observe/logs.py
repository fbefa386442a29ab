"""hbshim's events as records of `logging`, made by the application's own thread.

Never by the heartbeat thread: under eventlet the locks inside `logging` are green,
and a native thread that meets one deadlocks. That is why events wait in a queue.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from hbshim.event_log import LOGGER, log_event, not_logged_yet
from hbshim.observe.snapshot import take_events


def log_events(logger: logging.Logger | None = None) -> int:
    """Take the events recorded so far out of the queue and log them, oldest first.

    hbshim logs warnings and errors by itself, when the program next connects or asks for
    :func:`hbshim.status`. This logs them sooner, and the other events too; what was
    logged already is not repeated, unless for a logger of the program's own.

    Call it from a thread or green thread of the application's: at each request, once a
    minute, or let :func:`keep_logging` do it. It does not wait for anything. Each event
    is handed out once, here or by :func:`hbshim.take_events`.

    Each record has the fields ``hbshim_kind``, ``hbshim_link``, ``hbshim_detail`` and
    ``hbshim_at`` (``time.time()`` when it happened), for formatters that write JSON.

    Parameters:
        logger: the logger named ``hbshim`` unless given.

    Returns:
        How many events there were.
    """
    events = take_events()
    chosen = logging.getLogger(LOGGER) if logger is None else logger
    for event in not_logged_yet(events) if logger is None else events:
        log_event(event, chosen)
    return len(events)


def keep_logging(
    logger: logging.Logger | None = None,
    interval: float = 5.0,
    wait: Callable[[float], object] | None = None,
) -> None:
    """Call :func:`log_events` again and again; for a thread or green thread of its own.

    For instance ``threading.Thread(target=keep_logging, daemon=True).start()``, which is
    a green thread where `threading` is patched, or ``eventlet.spawn(keep_logging)``.

    Parameters:
        logger: as for :func:`log_events`.
        interval: seconds between two calls.
        wait: lets so many seconds pass, and returns something true to end this: the
            `wait` of a ``threading.Event``, for instance. Unless given, it is the
            program's ``time.sleep``, patched or not, and this never returns. Give it
            ``eventlet.sleep`` or ``gevent.sleep`` where that is not patched.
    """
    pause = time.sleep if wait is None else wait
    while True:
        log_events(logger)
        if pause(interval):
            log_events(logger)  # of the last moments
            return
