"""A listener of another package, polled together with others.

A listener that can only wait in its own :meth:`poll` gets a thread that polls it, while a worker
waits. The worker may be given a message of another backend meanwhile; then one batch may be taken
here before a worker is free, and waits for it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

from hbshim.messaging.base import CLOSE_LIMIT, Listener
from hbshim.messaging.flag import Flag
from hbshim.messaging.hybrid.joint_listener import Member
from hbshim.messaging.joining import Part
from hbshim.messaging.reporting import OnError, ends_thread
from hbshim.runtime.unpatched import start_without_signals

#: Seconds of one poll. A shorter one costs more, a longer one is wasted for longer where the worker
#: is busy again.
POLL_SLICE = 1.0

#: Seconds that the thread waits after an error.
PAUSE_AFTER_ERROR = 1.0


def as_member(listener: Any) -> Member[Any]:
    """Return `listener`, or what makes a member of it."""
    return listener if isinstance(listener, Member) else ForeignMember(listener)


class ForeignMember:
    """See :class:`hbshim.messaging.hybrid.joint_listener.Member`.

    Parameters:
        listener: with the methods of :class:`hbshim.messaging.base.Listener`.
    """

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._batches: deque[Sequence[Any]] = deque()
        self._size = 1
        self._wake: Any = None
        self._wanted = Flag()
        self._stopped = Flag()
        self._thread: threading.Thread | None = None

    @property
    def on_error(self) -> OnError:
        """See :class:`hbshim.messaging.base.Listener`."""
        return self._listener.on_error

    @on_error.setter
    def on_error(self, on_error: OnError) -> None:
        self._listener.on_error = on_error

    @property
    def serves(self) -> bool:
        """Always true: it connects when it is polled."""
        return True

    def open(self, timeout: float) -> bool:
        return self._listener.open(timeout)

    def check(self, batch_size: int = 1) -> Sequence[Any]:
        self._size = batch_size
        return self._batches.popleft() if self._batches else ()

    def begin_wait(self, part: Part) -> bool:
        self._wake = part.release
        part.on_end = self._rest
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="hbshim-joint-poll", daemon=True)
            start_without_signals(thread.start)
            self._thread = thread
        self._wanted.set()
        return not self._batches

    def _rest(self) -> None:
        self._wanted.clear()
        if self._stopped.is_set():
            self._wanted.set()  # so that the thread ends

    def _run(self) -> None:
        while self._wanted.wait() and not self._stopped.is_set():
            try:
                batch = self._listener.poll(POLL_SLICE, self._size)
            except BaseException as error:
                if ends_thread(error):
                    raise
                if self._stopped.is_set():
                    return  # it was closed under this thread
                self.on_error(error)
                self._stopped.wait(PAUSE_AFTER_ERROR)
                continue
            if batch:
                self._rest()
                self._batches.append(batch)
                self._wake()

    def pause(self) -> None:
        self._listener.pause()

    def resume(self) -> None:
        self._listener.resume()

    def stop(self, timeout: float = CLOSE_LIMIT) -> None:
        self._stopped.set()
        self._wanted.set()
        self._listener.stop(timeout)

    def close(self, timeout: float = CLOSE_LIMIT) -> None:
        self._stopped.set()
        self._wanted.set()
        self._listener.close(timeout)
