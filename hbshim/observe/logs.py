"""hbshim's events as records of `logging`, made by a thread of the application.

Never by the heartbeat thread: under eventlet the locks inside `logging` are green, and a native
thread that waits for one deadlocks. Events therefore wait in a queue.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from hbshim.event_log import LOGGER, log_event, not_logged_yet
from hbshim.observe.snapshot import take_events


def log_events(logger: logging.Logger | None = None) -> int:
    """Remove the recorded events from the queue and log them, oldest first.

    hbshim logs warnings and errors by itself, when the program next connects or calls
    :func:`hbshim.status`. This function logs them sooner, and the other events too. What was logged
    already is not repeated, except for a logger that the program passes.

    Call it from a thread or green thread of the application: at each request, once a minute, or by
    :func:`keep_logging`. It does not wait for anything. Each event is returned once, here or by
    :func:`hbshim.take_events`.

    Each record has the fields ``hbshim_kind``, ``hbshim_link``, ``hbshim_detail`` and
    ``hbshim_at`` (``time.time()`` of the event), for formatters that write JSON.

    Parameters:
        logger: by default the logger named ``hbshim``.

    Returns:
        The number of events.
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
    """Call :func:`log_events` repeatedly; run it in a thread or green thread of its own.

    For example ``threading.Thread(target=keep_logging, daemon=True).start()``, which is a green
    thread if `threading` is patched, or ``eventlet.spawn(keep_logging)``.

    Parameters:
        logger: as for :func:`log_events`.
        interval: seconds between two calls.
        wait: waits for the given number of seconds, and returns True to end this function: for
            example the `wait` of a ``threading.Event``. By default the program's ``time.sleep``,
            patched or not, and this function never returns. Pass ``eventlet.sleep`` or
            ``gevent.sleep`` if `time` is not patched.
    """
    pause = time.sleep if wait is None else wait
    while True:
        log_events(logger)
        if pause(interval):
            log_events(logger)  # events of the last moments
            return
