"""One wait for several connections.

A thread that waits for one connection reads from it, too, and only one thread may do so. A wait for
several connections therefore begins at each of them, and ends at each of them.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Sequence

from hbshim.messaging.readiness import LONGEST_WAIT, Readiness


class Part:
    """The part of one connection in a wait for several.

    Parameters:
        wake: ends the wait; called from any thread when another one has read from the connection.

    Attributes:
        readiness: what to wait for; None: only for `wake`.
        limit: seconds after which the connection must be checked in any case.
        on_end: called when the wait ends. It is set before anything that it undoes, because an
            exception of a signal handler may come after any call.
    """

    __slots__ = ("limit", "on_end", "readiness", "release")

    def __init__(self, wake: Callable[[], None]) -> None:
        #: Under this name the thread that reads from a stream notifies those that wait for it.
        self.release = wake
        self.readiness: Readiness | None = None
        self.limit = LONGEST_WAIT
        self.on_end: Callable[[], None] | None = None

    def end(self) -> None:
        """End the wait at this connection; other threads may read from it again. Idempotent."""
        if self.on_end is not None:
            self.on_end()


def wait_for_any(members: Sequence[Readiness], timeout: float) -> None:
    """Wait until a descriptor of `members` is readable, one of them is woken up, or is closed.

    It may also end early without a reason.

    Parameters:
        members: each for one thread at a time, as :meth:`Readiness.wait`.
        timeout: seconds.
    """
    entered: list[Readiness] = []
    try:
        for member in members:
            entered.append(member)
            if not member.enter():
                return
        timeout = min(max(0.0, timeout), LONGEST_WAIT)
        ready = _readable([fd for member in members for fd in member.descriptors], timeout)
        for member in members:
            member.take_bytes(ready)
    finally:
        for member in entered:
            member.leave()


def _readable(descriptors: Sequence[int], timeout: float) -> set[int]:
    if not hasattr(select, "poll"):
        return set(select.select(list(descriptors), [], [], timeout)[0])
    poller = select.poll()
    for fd in descriptors:
        poller.register(fd, select.POLLIN)
    return {fd for fd, _ in poller.poll(timeout * 1000)}
