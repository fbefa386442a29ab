"""Activity of the application, so that heartbeats do not hide a hung application.

A heartbeat only shows that the process exists. With the option ``liveness_timeout`` heartbeats are
sent only while the application is active: it writes or reads on that connection, or it calls
:func:`mark_alive`.
"""

from __future__ import annotations

import time

_last_mark = float("-inf")


def mark_alive() -> None:
    """Record that the application is active; counts for every connection of this process.

    For an application that may leave its connections idle for longer than the option
    ``liveness_timeout``. Call it where work is done: in the main loop, in the hub, in the request
    handler. A separate thread that only calls this function proves nothing. It costs a fraction of
    a microsecond, from any thread or green thread.
    """
    global _last_mark
    _last_mark = time.monotonic()


def last_mark() -> float:
    """Return ``time.monotonic()`` of the latest :func:`mark_alive`; minus infinity before it."""
    return _last_mark
