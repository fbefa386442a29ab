"""Starting, running, pausing and stopping, for servers of calls and of notifications."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from hbshim.errors import MessagingError, OptionError
from hbshim.messaging.base import CLOSE_LIMIT, Incoming, Listener
from hbshim.messaging.flag import Flag
from hbshim.messaging.reporting import OnError, ends_thread

#: Seconds between two checks whether a worker that is joined stops the server itself.
JOIN_SLICE = 0.1

S = TypeVar("S", bound="Serving")

#: Seconds that a server waits for the broker when it starts, by default.
START_LIMIT = 10.0

#: Seconds that a worker waits after an error in its loop.
PAUSE_AFTER_ERROR = 1.0


class Workers:
    """A fixed number of threads of the program's concurrency model that share one listener.

    The thread that receives a message processes it while another one receives the next. So a
    message is not handed over between threads, and none is received without a free thread.

    A worker ends when the listener has stopped, and not on an error: errors go to `on_error`.

    Parameters:
        listener: receives the messages.
        work: called with each batch.
        on_error: called with each error; must not raise.

    Raises:
        OptionError: there are no workers.
    """

    def __init__(
        self,
        listener: Listener,
        work: Callable[[Sequence[Incoming]], None],
        count: int,
        on_error: OnError,
        batch_size: int = 1,
        batch_timeout: float | None = None,
    ) -> None:
        if count < 1:
            raise OptionError(f"workers must be at least 1, got {count}")
        if batch_size < 1:
            raise OptionError(f"batch_size must be at least 1, got {batch_size}")
        self._listener = listener
        self._work = work
        self._on_error = on_error
        self._batch = (batch_size, batch_timeout)
        self._pid = os.getpid()
        self._stopped = Flag()
        self._threads = [
            threading.Thread(target=self._run, name=f"hbshim-server-{number}", daemon=True)
            for number in range(count)
        ]
        # Workers whose method stops the server: two of them must not wait for each other.
        self._stopping: set[threading.Thread] = set()
        listener.on_error = on_error

    def start(self, timeout: float) -> bool:
        """Start the threads; return whether the queues exist already.

        Raises:
            MessagingError: it was started or stopped before.
        """
        if self._stopped.is_set():
            raise MessagingError(
                "this server was stopped and cannot be restarted; create a new one"
            )
        if any(thread.ident is not None for thread in self._threads):
            raise MessagingError("this server was started already")
        opened = self._listener.open(timeout)
        for thread in self._threads:
            thread.start()
        return opened

    def stop(self, timeout: float | None) -> bool:
        """Stop receiving, and wait for what is running; return whether all of it has ended."""
        if os.getpid() != self._pid:
            return True  # a forked child: the threads are the parent's
        deadline = None if timeout is None else time.monotonic() + timeout
        self._stopped.set()
        self._listener.stop(CLOSE_LIMIT if timeout is None else timeout)
        if threading.current_thread() in self._threads:
            self._stopping.add(threading.current_thread())
        for thread in self._threads:
            self._join(thread, deadline)
        ended = not any(thread.is_alive() for thread in self._threads)
        if deadline is None:
            self._listener.close()
        else:
            self._listener.close(max(0.0, deadline - time.monotonic()))
        return ended

    def _join(self, thread: threading.Thread, deadline: float | None) -> None:
        while thread.is_alive() and thread not in self._stopping:
            left = JOIN_SLICE if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return
            thread.join(min(left, JOIN_SLICE))

    def _run(self) -> None:
        size, timeout = self._batch
        while True:
            try:
                batch = self._listener.poll(None, size, timeout)
                if not batch:
                    return  # the listener has stopped, perhaps because its driver was closed
                self._work(batch)
            except BaseException as error:
                if ends_thread(error):
                    raise
                self._on_error(error)
                if self._stopped.wait(PAUSE_AFTER_ERROR):
                    return


class Serving:
    """A listener and its workers; a context manager that serves while its block runs."""

    def __init__(self, listener: Listener, workers: Workers) -> None:
        self._listener = listener
        self._workers = workers

    def start(self, timeout: float = START_LIMIT) -> bool:
        """Receive messages, in threads of its own.

        Parameters:
            timeout: seconds to wait for the broker. After that the server has started all the
                same, and keeps trying to connect.

        Returns:
            Whether messages can reach it already.

        Raises:
            ConnectError: the broker refuses the credentials or the virtual host.
            TopologyError: an exchange or a queue exists with another type.
            MessagingError: the server was started or stopped before.
        """
        return self._workers.start(timeout)

    def pause(self) -> None:
        """Receive nothing until :meth:`resume`; messages stay in their queues."""
        self._listener.pause()

    def resume(self) -> None:
        """Receive messages again."""
        self._listener.resume()

    def stop(self, timeout: float | None = None) -> bool:
        """Wait for what is running, requeue the rest, and close.

        Parameters:
            timeout: seconds for all of it; the broker requeues what is not requeued by then. None:
                wait until all running methods end.

        Returns:
            Whether all methods have ended.
        """
        return self._workers.stop(timeout)

    def __enter__(self: S) -> S:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()
