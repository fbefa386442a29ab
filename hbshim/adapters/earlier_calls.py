"""Calls into a connection that began before it was attached, and have not ended.

``keep_alive()`` may be called while another thread is inside a read or a write of the connection,
or by a signal handler that has interrupted one. Such a call passed neither the guard nor the lock
of a TLS session, which are put in place only now. So the engine leaves alone what the call uses
until it has ended.

The calls are found by file and name in the stacks of all threads, once. Nearly always there are
none, and nothing is looked for again. A call of the same function of another connection looks the
same, so that heartbeats may begin later than necessary; those that pass a guard do not count. Calls
of green threads that wait in their hub are not found.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from hbshim.heartbeat.wire import Wire
from hbshim.runtime.stacks import Call, escaped, stacks

#: The part of T after which an earlier read has ended: the peer sends a heartbeat at least once in
#: half of T. A thread that still reads uses another connection, or its peer is dead.
READS_END = 0.6

#: Where hbshim is.
_OWN = escaped(os.path.dirname(os.path.dirname(__file__)) + os.sep)

_Place = tuple[str, str]


class EarlierCalls:
    """Whether calls of some functions, begun before :meth:`look`, have not ended.

    Parameters:
        reads, writes: the client's own functions, without the guard.
        timeout: T, in seconds.
        wire: of the connection. Over TLS, a read keeps the engine from writing, and a write from
            reading: both use one session.
    """

    __slots__ = ("_looked", "_one_session", "_reads", "_reads_end", "_writes")

    def __init__(
        self,
        reads: Iterable[Callable[..., Any]],
        writes: Iterable[Callable[..., Any]],
        timeout: float,
        wire: Wire,
    ) -> None:
        self._reads = _Calls(reads)
        self._writes = _Calls(writes)
        self._reads_end = time.monotonic() + READS_END * timeout
        self._one_session = wire.route == "tls"
        self._looked = False

    def look(self) -> None:
        """Look for the calls, when new ones pass the guard; once."""
        if not self._looked:
            found = stacks()
            self._reads.threads = self._reads.inside(found)
            self._writes.threads = self._writes.inside(found)
            self._looked = True

    def reading(self) -> bool:
        """Return whether the engine may not read."""
        return self._in_reads() or (self._one_session and self._writes.last())

    def writing(self) -> bool:
        """Return whether the engine may not write."""
        return self._writes.last() or (self._one_session and self._in_reads())

    def _in_reads(self) -> bool:
        if self._reads.threads and time.monotonic() > self._reads_end:
            self._reads.threads = frozenset()
        return self._reads.last()


class _Calls:
    """Calls of some functions.

    Attributes:
        threads: native identifiers of those that have been inside ever since.
    """

    __slots__ = ("_places", "threads")

    def __init__(self, functions: Iterable[Callable[..., Any]]) -> None:
        self._places = frozenset(filter(None, map(_place, functions)))
        self.threads: frozenset[int] = frozenset()

    def last(self) -> bool:
        """Return whether one of the threads is still inside."""
        if self.threads and (found := stacks()):
            self.threads &= self.inside(found)
        return bool(self.threads)

    def inside(self, found: dict[int, list[Call]]) -> frozenset[int]:
        return frozenset(thread for thread, calls in found.items() if self._is_inside(calls))

    def _is_inside(self, calls: Sequence[Call]) -> bool:
        callers = [*(call.file for call in calls[1:]), ""]
        return any(
            (call.file, call.function) in self._places and not caller.startswith(_OWN)
            for call, caller in zip(calls, callers, strict=False)
        )


def _place(function: Any) -> _Place | None:
    """Return where a function is; None for what another tool has put in its place."""
    code = getattr(function, "__code__", None)
    return None if code is None else (escaped(code.co_filename), escaped(code.co_name))
