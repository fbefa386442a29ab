"""What servers of calls and of notifications have in common: how they run, pause and stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from hbshim.errors import MessagingError, OptionError
from hbshim.messaging.base import Incoming, Listener

S = TypeVar("S", bound="Serving")

#: Seconds that a server waits for the broker when it starts, unless it is told how many.
START_LIMIT = 10.0

#: Seconds after an error that another turn will not mend at once.
PAUSE_AFTER_ERROR = 1.0


class Workers:
    """A bounded number of threads, green where the program's are, that share one listener.

    Whoever takes a message in works on it himself while another takes the next one in: no
    message waits for a change of threads, and none is taken in that nobody is free for.

    Parameters:
        work: called with each batch.
        failed: told of what stops all work, such as credentials that are no longer valid.
    """

    def __init__(
        self,
        listener: Listener,
        work: Callable[[Sequence[Incoming]], None],
        count: int,
        failed: Callable[[MessagingError], None],
        batch_size: int = 1,
        batch_timeout: float | None = None,
    ) -> None:
        if count < 1:
            raise OptionError(f"workers={count} do no work; use 1 or more")
        self._listener = listener
        self._work = work
        self._failed = failed
        self._batch = (batch_size, batch_timeout)
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, name=f"hbshim-server-{number}", daemon=True)
            for number in range(count)
        ]

    def start(self, timeout: float) -> bool:
        """Begin; whether the queues are there already."""
        opened = self._listener.open(timeout)
        for thread in self._threads:
            thread.start()
        return opened

    def stop(self, timeout: float | None) -> bool:
        """Take nothing more in, and wait for what was begun; whether all of it has ended."""
        deadline = None if timeout is None else time.monotonic() + timeout
        self._stopped.set()
        self._listener.stop()
        for thread in self._threads:
            if thread.ident is not None and thread is not threading.current_thread():
                thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        ended = not any(thread.is_alive() for thread in self._threads)
        self._listener.close()
        return ended

    def _run(self) -> None:
        size, timeout = self._batch
        while True:
            try:
                batch = self._listener.poll(None, size, timeout)
            except MessagingError as error:
                self._failed(error)
                if self._stopped.wait(PAUSE_AFTER_ERROR):
                    return
                continue
            if not batch:
                return  # the listener has stopped, be it because its driver was closed
            self._work(batch)


class Serving:
    """A listener and its workers; a context manager that serves for the length of its block."""

    def __init__(self, listener: Listener, workers: Workers) -> None:
        self._listener = listener
        self._workers = workers

    def start(self, timeout: float = START_LIMIT) -> bool:
        """Take messages in, from threads of its own.

        Parameters:
            timeout: seconds to wait for the broker; the server starts without it, too, and
                goes on trying.

        Returns:
            Whether messages reach it by now.

        Raises:
            ConnectError: the broker does not let us in, and never will.
            TopologyError: an exchange or a queue is there, and of another kind.
        """
        return self._workers.start(timeout)

    def pause(self) -> None:
        """Take nothing in until :meth:`resume`; messages wait in their queues meanwhile."""
        self._listener.pause()

    def resume(self) -> None:
        """Take messages in again."""
        self._listener.resume()

    def stop(self, timeout: float | None = None) -> bool:
        """Finish what was begun, give back what was not, and close.

        Parameters:
            timeout: seconds to wait for methods that run; None: as long as they take.

        Returns:
            Whether all of them have ended.
        """
        return self._workers.stop(timeout)

    def __enter__(self: S) -> S:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()
