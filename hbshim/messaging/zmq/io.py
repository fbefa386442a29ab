"""The I/O thread: one native thread of a process owns every ZeroMQ socket in it.

It starts with the first driver that is used, and anew in a forked child, which leaves what it
inherited as it is. It neither logs nor calls code of the application.
"""

from __future__ import annotations

import atexit
import functools
import sys
import time
from collections.abc import Callable

from hbshim.messaging.zmq.latch import Latch
from hbshim.messaging.zmq.loop import Loop
from hbshim.runtime.fork import ProcessLocal
from hbshim.runtime.unpatched import allocate_lock, start_native_thread

#: Seconds that the end of the process waits for what is not sent yet, beyond the linger time.
_EXIT_ALLOWANCE = 1.0

#: Of what a child of multiprocessing calls at its end: after all else, which may still send.
_LAST = -1_000_000


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
        _call_at_exit(self._end)

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
            if self._running.acquire(timeout=self._linger + _EXIT_ALLOWANCE):
                self._running.release()

    def wait_until_sent(self, deadline: float) -> None:
        """See :func:`wait_until_sent`."""
        if self.loop.ended:
            return
        latch = Latch()
        try:
            sent = functools.partial(latch.open, done=True)
            self.loop.post(functools.partial(self.loop.when_left, sent))
            latch.wait(deadline)
        finally:
            latch.close()


def _call_at_exit(end: Callable[[], None]) -> None:
    atexit.register(end)
    # A child of multiprocessing ends by os._exit(), before Python 3.13 without what atexit has.
    process = sys.modules.get("multiprocessing.process")
    util = sys.modules.get("multiprocessing.util")
    if process is not None and util is not None and process.parent_process() is not None:
        util.Finalize(None, end, exitpriority=_LAST)


#: Seconds of linger of the thread that starts next.
_linger = 0.0

#: What forked children inherited: a context that ends would wait for the parent's threads.
_inherited: list[IoThread] = []

_threads: ProcessLocal[IoThread] = ProcessLocal(lambda: IoThread(_linger), _inherited.append)


def idle() -> float:
    """Return the seconds since the I/O thread of this process ran; 0 where there is none."""
    thread = _threads.peek()
    return 0.0 if thread is None else time.monotonic() - thread.loop.last_active


def wait_until_sent(deadline: float) -> None:
    """Wait until the sockets of this process that were closed have sent what they had.

    A green thread lets others run meanwhile.

    Parameters:
        deadline: of ``time.monotonic()``.
    """
    thread = _threads.peek()
    if thread is not None:
        thread.wait_until_sent(deadline)


def io_thread(linger: float) -> IoThread:
    """Return the I/O thread of this process.

    Parameters:
        linger: see :class:`IoThread`; that of the first driver counts.
    """
    global _linger
    if _threads.peek() is None:
        _linger = linger
    return _threads.get()
