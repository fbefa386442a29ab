"""The I/O thread: one native thread of a process owns every ZeroMQ socket in it.

It starts with the first driver that is used, and anew in a forked child, which leaves what it
inherited as it is. It neither logs nor calls code of the application.
"""

from __future__ import annotations

import atexit
import time

from hbshim.messaging.zmq.loop import Loop
from hbshim.runtime.fork import ProcessLocal
from hbshim.runtime.unpatched import allocate_lock, start_native_thread

#: Seconds that the end of the process waits for what is not sent yet, beyond the linger time.
_EXIT_ALLOWANCE = 1.0


class IoThread:
    """A loop, and the thread that runs it.

    Parameters:
        linger: seconds for which the end of the process waits for what is not sent yet.
    """

    def __init__(self, linger: float) -> None:
        self.loop = Loop()
        self._linger = linger
        self._running = allocate_lock()
        self._running.acquire()
        start_native_thread(self._run, self.loop.stop)
        atexit.register(self._end)

    def _run(self) -> None:
        try:
            self.loop.run()
            self.loop.finish(self._linger)
            self.loop.end()
        finally:
            self._running.release()

    def _end(self) -> None:
        if _threads.peek() is self:
            self.loop.stop()
            self._running.acquire(timeout=self._linger + _EXIT_ALLOWANCE)


#: Seconds of linger of the thread that starts next.
_linger = 0.0

#: What forked children inherited: a context that ends would wait for the parent's threads.
_inherited: list[IoThread] = []

_threads: ProcessLocal[IoThread] = ProcessLocal(lambda: IoThread(_linger), _inherited.append)


def idle() -> float:
    """Return the seconds since the I/O thread of this process ran; 0 where there is none."""
    thread = _threads.peek()
    return 0.0 if thread is None else time.monotonic() - thread.loop.last_active


def io_thread(linger: float) -> IoThread:
    """Return the I/O thread of this process.

    Parameters:
        linger: see :class:`IoThread`; that of the first driver counts.
    """
    global _linger
    if _threads.peek() is None:
        _linger = linger
    return _threads.get()
