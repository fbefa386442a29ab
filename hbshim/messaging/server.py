"""The server's side: takes requests in, has them done, answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Literal

from hbshim.errors import MessagingError, OptionError, PayloadError
from hbshim.messaging.base import Driver, Incoming, Listener, Payload
from hbshim.messaging.dispatch import Dispatcher, Request
from hbshim.messaging.encoding import Encoding
from hbshim.messaging.pulse import Pulse
from hbshim.messaging.remote import Call, error_as_value
from hbshim.messaging.target import Target

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


class Server:
    """Answers calls and casts to a target.

    Parameters:
        target: with topic and server.
        endpoints: see :class:`hbshim.messaging.dispatch.Dispatcher`.
        workers: requests that are worked on at the same time.
        acknowledge: "before" the work: a request is worked on once, or, if the server dies or
            its connection is lost on the way, not at all; one that was submitted, and has no
            time limit, outlives a connection. "after" it: a request whose server died is worked
            on once more. Servers of one topic agree on it.
        prefetch: requests that may wait here while other servers could take them; None:
            as many as there are workers.
        expires: seconds without a server until its queues go, with what is in them;
            :data:`hbshim.messaging.NEVER`: they stay; None: the option `rpc_queue_expiration`.
            Who declares them beforehand says the same.
        encoding: how arguments and results travel; JSON unless given.
        failed: told of errors that nobody is there to get: a reply that cannot be sent, a
            cast's method that raised, a connection that no retry will bring.

    Raises:
        OptionError: a parameter is not acceptable.
    """

    def __init__(
        self,
        driver: Driver,
        target: Target,
        endpoints: Sequence[object],
        *,
        workers: int = 8,
        acknowledge: Literal["before", "after"] = "before",
        prefetch: int | None = None,
        expires: float | None = None,
        encoding: Encoding | None = None,
        failed: Callable[[BaseException], None] | None = None,
    ) -> None:
        if acknowledge not in ("before", "after"):
            raise OptionError(f"acknowledge={acknowledge!r} is not acceptable; use before or after")
        self._encoding = encoding or Encoding(limit=driver.payload_limit)
        self._dispatcher = Dispatcher(endpoints)
        self._after = acknowledge == "after"
        self._failed = failed or (lambda _error: None)
        self._pulse = Pulse(self._failed)
        self._listener = driver.listen(
            target,
            workers if prefetch is None else prefetch,
            acknowledge_first=not self._after,
            expires=expires,
        )
        self._workers = Workers(self._listener, self._work, workers, self._failed)

    def start(self, timeout: float = START_LIMIT) -> bool:
        """Take requests in, from threads of its own.

        Parameters:
            timeout: seconds to wait for the broker; the server starts without it, too, and
                goes on trying.

        Returns:
            Whether requests reach it by now.

        Raises:
            ConnectError: the broker does not let us in, and never will.
            TopologyError: an exchange or a queue is there, and of another kind.
        """
        return self._workers.start(timeout)

    def pause(self) -> None:
        """Take nothing in until :meth:`resume`; requests wait in their queues meanwhile."""
        self._listener.pause()

    def resume(self) -> None:
        """Take requests in again."""
        self._listener.resume()

    def stop(self, timeout: float | None = None) -> bool:
        """Finish what was begun, give back what was not, and close.

        Parameters:
            timeout: seconds to wait for methods that run; None: as long as they take.

        Returns:
            Whether all of them have ended.
        """
        ended = self._workers.stop(timeout)
        self._pulse.end()
        return ended

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def _work(self, batch: Sequence[Incoming]) -> None:
        for incoming in batch:
            try:
                self._answer(incoming)
            except Exception as error:
                self._failed(error)
            finally:
                if self._after:
                    incoming.acknowledge()

    def _answer(self, incoming: Incoming) -> None:
        try:
            payload = incoming.payload
            call = Call.from_value(self._encoding.decode(payload.body, payload.content_type))
            method = self._dispatcher.method(call)
            request = Request(incoming, call, self._encoding)
            if call.silence is None:
                value = method(request, **call.arguments)
            else:
                with self._pulse.during(incoming, call.silence):
                    value = method(request, **call.arguments)
            if not incoming.expects_reply:
                return
            reply = self._encoded(value)
        except Exception as error:
            if not incoming.expects_reply:
                raise
            incoming.reply(self._failure(error), "error")
        else:
            incoming.reply(reply)

    def _failure(self, error: Exception) -> Payload:
        try:
            body = self._encoding.encode(error_as_value(error))
        except PayloadError:
            body = self._encoding.encode(error_as_value(error, brief=True))
        return Payload(body, self._encoding.content_type)

    def _encoded(self, value: object) -> Payload:
        try:
            return Payload(self._encoding.encode(value), self._encoding.content_type)
        except PayloadError as error:
            raise PayloadError(f"the method's result: {error}") from error
