"""The application's own sign of life, for the rule that its heartbeats must not hide its death.

A heartbeat only shows that the process exists. With the option ``liveness_timeout``
a link is beaten for as long as the application ticks: it writes or reads on that
connection, or it calls :func:`tick`.
"""

from __future__ import annotations

import time

_last_tick = float("-inf")


def tick() -> None:
    """Say that the application is alive; counts for every connection of this process.

    For an application that may leave its connections idle for longer than the option
    ``liveness_timeout``. Call it where work gets done: in the main loop, in the hub, in
    the request handler; a thread of its own that does nothing but tick proves nothing.
    Costs a fraction of a microsecond, from any thread or green thread.
    """
    global _last_tick
    _last_tick = time.monotonic()


def last_tick() -> float:
    """``time.monotonic()`` of the latest :func:`tick`, in seconds; minus infinity before it."""
    return _last_tick
