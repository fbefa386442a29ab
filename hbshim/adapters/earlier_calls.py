"""Calls into a connection that began before it was attached, and have not ended.

``keep_alive()`` may be called while another thread is inside a read or a write of the connection,
or by a signal handler that has interrupted one. Such a call passed neither the guard nor the lock
of a TLS session, which are put in place only now. So the engine leaves alone what the call uses
until it has ended.

The calls are found by file and name in the stacks of all threads, once. Nearly always there are
none, and nothing is looked for again. A call of the same function of another connection looks the
same, so that heartbeats may begin later than necessary; those that pass a guard do not count. Calls
of green threads that wait in their hub are not found.

Where a call may be missed, because there are too many threads, or because another tool has put an
object of its own in the place of a function, one is assumed for as long as a read can last.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from hbshim.runtime.stacks import Call, Stacks, escaped, stacks

#: The part of T after which an earlier read has ended: the peer sends a heartbeat at least once in
#: half of T. A thread that still reads uses another connection, or its peer is dead.
READS_END = 0.6

#: Where hbshim is.
_OWN = escaped(os.path.dirname(os.path.dirname(__file__)) + os.sep)

_Place = tuple[str, str]


class EarlierCalls:
    """Whether calls of some functions, begun before :meth:`find`, have not ended.

    Parameters:
        reads, writes: the client's own functions, without the guard.
        timeout: T, in seconds.
        one_session: a read keeps the engine from writing, and a write from reading: over TLS both
            use one session.
    """

    __slots__ = ("_one_session", "_reads", "_reads_end", "_searched", "_writes")

    def __init__(
        self,
        reads: Sequence[Callable[..., Any]],
        writes: Sequence[Callable[..., Any]],
        timeout: float,
        *,
        one_session: bool,
    ) -> None:
        self._reads = _Calls(reads) if reads else _NONE
        self._writes = _Calls(writes) if writes else _NONE
        self._reads_end = time.monotonic() + READS_END * timeout
        self._one_session = one_session
        self._searched = not (reads or writes)

    def find(self) -> None:
        """Find the calls, when new ones pass the guard; once."""
        if not self._searched:
            found = stacks()
            self._reads = self._reads.begun(found)
            self._writes = self._writes.begun(found)
            self._searched = True

    def reading(self) -> bool:
        """Return whether the engine may not read."""
        return self._in_reads() or (self._one_session and self._in_writes())

    def writing(self) -> bool:
        """Return whether the engine may not write."""
        return self._in_writes() or (self._one_session and self._in_reads())

    def _in_reads(self) -> bool:
        # Nearly always there are none; the engine asks at each check.
        if self._reads is _NONE:
            return False
        return self._reads_may_last() and self._reads.last(missed_last=True)

    def _in_writes(self) -> bool:
        if self._writes is _NONE:
            return False
        return self._writes.last(missed_last=self._reads_may_last())

    def _reads_may_last(self) -> bool:
        return time.monotonic() <= self._reads_end


class _Calls:
    """Calls of some functions.

    Attributes:
        threads: native identifiers of those that have been inside ever since.
        missed: there may be others.
    """

    __slots__ = ("_are_known", "_places", "missed", "threads")

    def __init__(self, functions: Sequence[Callable[..., Any]]) -> None:
        places = list(map(_place, functions))
        self._places = frozenset(filter(None, places))
        self._are_known = None not in places
        self.missed = False
        self.threads: frozenset[int] = frozenset()

    def begun(self, found: Stacks) -> _Calls:
        """Note the threads that are inside; return the calls, which may be none."""
        self.threads = self._inside(found)
        self.missed = not (self._are_known and found.complete)
        return self if self.threads or self.missed else _NONE

    def last(self, *, missed_last: bool) -> bool:
        """Return whether one of the threads may still be inside.

        Parameters:
            missed_last: those that are not found may be; otherwise they have ended.
        """
        if self.threads and (found := stacks()):
            may_be_lost = missed_last and not found.complete
            lost = self.threads - found.keys() if may_be_lost else frozenset()
            self.threads = (self.threads & self._inside(found)) | lost
        return bool(self.threads) or (missed_last and self.missed)

    def _inside(self, found: Stacks) -> frozenset[int]:
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


#: What is kept where there are none: each connection has it for as long as it is open.
_NONE = _Calls(())

#: Of a connection that was just made, so that no other thread has it.
NO_CALLS = EarlierCalls((), (), 0.0, one_session=False)
