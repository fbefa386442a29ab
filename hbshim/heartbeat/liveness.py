"""The application's own sign of life, for the rule that its heartbeats must not hide its death.

A heartbeat only shows that the process exists. With the option ``liveness_timeout``
a link is beaten for as long as the application ticks: it writes or reads on that
connection, or it calls :func:`mark_alive`.
"""

from __future__ import annotations

import time

_last_mark = float("-inf")


def mark_alive() -> None:
    """Say that the application is alive; counts for every connection of this process.

    For an application that may leave its connections idle for longer than the option
    ``liveness_timeout``. Call it where work gets done: in the main loop, in the hub, in
    the request handler; a thread of its own that does nothing but tick proves nothing.
    Costs a fraction of a microsecond, from any thread or green thread.
    """
    global _last_mark
    _last_mark = time.monotonic()


def last_mark() -> float:
    """Return ``time.monotonic()`` of the latest :func:`mark_alive`; minus infinity before it."""
    return _last_mark
