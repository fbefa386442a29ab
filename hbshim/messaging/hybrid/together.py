"""Calls one function for each of several backends, side by side."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from hbshim.messaging.reporting import log_error
from hbshim.runtime.unpatched import start_without_signals

#: Seconds to wait for another thread when no more time is left: it may be a moment.
SHORTEST_WAIT = 0.1


def together(works: Sequence[Callable[[], object]], timeout: float | None = None) -> None:
    """Call functions side by side: one that does not return delays no other.

    The first one is called by this thread.

    Parameters:
        works: the functions.
        timeout: seconds after which those of other threads are not waited for; they go on. None:
            wait for all.

    Raises:
        Exception: that of a function, when all have been called. Others are logged, and so is one
            that comes too late to be raised.
    """
    until = None if timeout is None else time.monotonic() + timeout
    errors: deque[Exception] = deque()
    raised = False

    def run(work: Callable[[], object]) -> None:
        try:
            work()
        except Exception as error:
            errors.append(error)
            if raised:
                _log_all(errors)

    threads: list[threading.Thread] = []
    here = list(works[:1])
    for work in works[1:]:
        thread = threading.Thread(target=run, args=(work,), name="hbshim-together", daemon=True)
        try:
            start_without_signals(thread.start)
        except RuntimeError:
            # No thread can be started now.
            here.append(work)
        else:
            threads.append(thread)
    try:
        for work in here:
            run(work)
    finally:
        for thread in threads:
            thread.join(None if until is None else max(SHORTEST_WAIT, until - time.monotonic()))
    raised = True
    try:
        first = errors.popleft()
    except IndexError:
        return
    _log_all(errors)
    raise first


def _log_all(errors: deque[Exception]) -> None:
    # Two threads may do it at the same time: each error is taken by one of them.
    with contextlib.suppress(IndexError):
        while True:
            log_error(errors.popleft())
