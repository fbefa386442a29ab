"""A listener that receives from several backends.

The workers of a server poll it as any other listener. The one that polls checks each backend, and
returns the first messages that it finds; the others are not asked then, so a message is taken only
if a worker is free. If there is none, it waits for all backends at once.

A backend without a connection is connected by a thread of its own, which ends when it is: a
backend that cannot be reached, or does not answer, delays no other.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar, runtime_checkable

from hbshim.errors import OptionError
from hbshim.messaging.base import CLOSE_LIMIT
from hbshim.messaging.flag import Flag
from hbshim.messaging.hybrid.together import SHORTEST_WAIT, together
from hbshim.messaging.joining import Part, wait_for_any
from hbshim.messaging.readiness import Readiness
from hbshim.messaging.reporting import OnError, ends_thread, log_error
from hbshim.runtime.exclusive import OCCUPIED, ExclusiveSection
from hbshim.runtime.unpatched import start_without_signals

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")

#: The longest wait, in seconds. Nothing depends on it: a wait is woken up when something changes.
WAIT_AT_MOST = 60.0

#: Seconds between two attempts at a backend that refuses the login or a queue.
PAUSE_AFTER_REFUSAL = 1.0


@runtime_checkable
class Member(Protocol[T_co]):
    """A listener that can be polled together with others.

    See :class:`hbshim.messaging.polling.PollingListener`, which has all of it.
    """

    on_error: OnError

    @property
    def serves(self) -> bool: ...
    def open(self, timeout: float) -> bool: ...
    def check(self, batch_size: int = 1) -> Sequence[T_co]: ...
    def begin_wait(self, part: Part) -> bool: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def stop(self, timeout: float = CLOSE_LIMIT) -> None: ...
    def close(self, timeout: float = CLOSE_LIMIT) -> None: ...


class JointListener(Generic[T]):
    """See :class:`hbshim.messaging.base.Listener`.

    Parameters:
        members: the listeners of the backends. Each may hold as many messages as it may alone.
        finish: called when the listener has stopped, by each thread that polls it: a server waits
            for its threads.

    Raises:
        OptionError: there is no member.
    """

    def __init__(
        self, members: Sequence[Member[T]], finish: Callable[[], None] = lambda: None
    ) -> None:
        if not members:
            raise OptionError("there is nothing to listen to; name at least one backend")
        self._members = list(members)
        self._finish = finish
        self._on_error: OnError = log_error
        self._pid = os.getpid()
        self._polling = ExclusiveSection(threading.RLock())
        # Made when it is polled: a listener that is never used holds no descriptor.
        self._wakeup: Readiness | None = None
        self._paused = self._stopped = False
        self._ended = Flag()
        # The members that a thread connects.
        self._opening: set[Member[T]] = set()
        self._next = 0

    @property
    def on_error(self) -> OnError:
        """Called with errors from which a member recovers."""
        return self._on_error

    @on_error.setter
    def on_error(self, on_error: OnError) -> None:
        self._on_error = on_error
        for member in self._members:
            member.on_error = on_error

    @property
    def _inherited(self) -> bool:
        """Whether this is a forked child: the parent listens."""
        return os.getpid() != self._pid

    def open(self, timeout: float) -> bool:
        if self._inherited:
            return False
        opened: dict[Member[T], bool] = {}
        refused: list[Exception] = []

        def open_one(member: Member[T]) -> None:
            try:
                opened[member] = member.open(timeout)
            except Exception as error:
                refused.append(error)

        self._together(open_one, timeout)
        if refused:
            raise refused[0]
        return all(opened.get(member, False) for member in self._members)

    def poll(
        self, timeout: float | None = None, batch_size: int = 1, batch_timeout: float | None = None
    ) -> Sequence[T]:
        """Return messages of one member.

        Parameters:
            timeout, batch_size: as for any listener.
            batch_timeout: not used: the other members would wait for the rest of a batch.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        if self._inherited:
            return []
        wait = None if timeout is None else max(SHORTEST_WAIT, timeout)
        batch = self._polling.run(lambda: self._poll(deadline, batch_size), wait)
        if batch and batch is not OCCUPIED:
            return batch
        if self._stopped and timeout is None:
            self._finish()
        return []

    def _poll(self, deadline: float | None, batch_size: int) -> Sequence[T]:
        wakeup = self._wakeup
        if wakeup is None:
            if self._stopped:
                return []
            wakeup = self._wakeup = Readiness(None)
        while True:
            # First: what changes from here on ends the wait below.
            wakeup.take_wake()
            stopped = self._stopped
            if not (stopped or self._paused):
                self._open_missing()
            count = len(self._members)
            for offset in range(count):
                position = (self._next + offset) % count
                member = self._members[position]
                if member in self._opening:
                    continue
                batch = member.check(batch_size)
                if batch:
                    # So that a busy backend does not keep the others from being served.
                    self._next = (position + 1) % count
                    return batch
            if stopped or self._inherited:
                return []
            if not self._paused:
                # What a check found lost.
                self._open_missing()
            left = WAIT_AT_MOST if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return []
            self._wait(wakeup, min(left, WAIT_AT_MOST))

    def _wait(self, wakeup: Readiness, timeout: float) -> None:
        parts: list[Part] = []
        waiting = [wakeup]
        try:
            for member in self._members:
                if member in self._opening:
                    continue
                part = Part(self._wake)
                parts.append(part)
                if not member.begin_wait(part):
                    return
                timeout = min(timeout, part.limit)
                if part.readiness is not None:
                    waiting.append(part.readiness)
            wait_for_any(waiting, timeout)
        finally:
            for part in parts:
                part.end()

    def _wake(self) -> None:
        if self._wakeup is not None and not self._inherited:
            self._wakeup.wake()

    # -- connecting ------------------------------------------------------------

    def _open_missing(self) -> None:
        for member in self._members:
            if member.serves or member in self._opening:
                continue
            self._opening.add(member)
            thread = threading.Thread(
                target=self._open, args=(member,), name="hbshim-joint-open", daemon=True
            )
            try:
                start_without_signals(thread.start)
            except BaseException as error:
                self._opening.discard(member)
                if ends_thread(error):
                    raise
                self._on_error(error)

    def _open(self, member: Member[T]) -> None:
        """Connect one member, until it serves or the listener is paused or stopped."""
        try:
            while not (self._stopped or self._paused or member.serves):
                try:
                    member.open(WAIT_AT_MOST)
                except Exception as error:
                    self._on_error(error)
                    self._ended.wait(PAUSE_AFTER_REFUSAL)
        finally:
            self._opening.discard(member)
            self._wake()

    # -- pausing, and the end ----------------------------------------------------

    def pause(self) -> None:
        self._paused = True
        self._together(lambda member: member.pause(), CLOSE_LIMIT)
        self._wake()

    def resume(self) -> None:
        self._paused = False
        for member in self._members:
            member.resume()
        self._wake()

    def stop(self, timeout: float = CLOSE_LIMIT) -> None:
        self._end(lambda member: member.stop(timeout), timeout)

    def close(self, timeout: float = CLOSE_LIMIT) -> None:
        self._end(lambda member: member.close(timeout), timeout)
        if self._wakeup is not None and not self._inherited:
            self._wakeup.close()

    def _end(self, end: Callable[[Member[T]], object], timeout: float) -> None:
        self._stopped = True
        self._ended.set()
        if self._inherited:
            return
        self._together(end, timeout)
        self._wake()

    def _together(self, work: Callable[[Member[T]], object], timeout: float) -> None:
        together([functools.partial(work, member) for member in self._members], timeout)
