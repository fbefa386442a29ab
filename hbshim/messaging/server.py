"""The server: receives requests, runs methods, replies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from hbshim.messaging.base import Driver
from hbshim.messaging.encoding import Encoding
from hbshim.messaging.handling import RequestHandler, check_target
from hbshim.messaging.reporting import OnError
from hbshim.messaging.serving import Serving, Workers
from hbshim.messaging.target import Target
from hbshim.options import DEFAULT, Default


class Server(Serving):
    """Answers the calls and casts to a target.

    Parameters:
        driver: see :func:`hbshim.messaging.connect`.
        target: with topic and server.
        endpoints: see :class:`hbshim.messaging.dispatch.Dispatcher`.
        workers: how many requests are processed at the same time.
        acknowledge: "before": a request is acknowledged before its method runs. It runs once, or
            not at all if the server crashes or loses its connection; docs/messaging.md has the
            limits. "after": it is acknowledged after its method. If the server crashes, it runs
            again. All servers of a topic must use the same value.
        prefetch: the most requests that wait here while another server could process them; None:
            as many as there are workers.
        expires: seconds without a server until its queues expire, with the messages in them;
            :data:`hbshim.messaging.NEVER`: the queue of the topic stays, and the queue of the
            server expires after that option; DEFAULT: the option `rpc_queue_expiration`. An
            existing queue keeps its lifetime.
        encoding: encodes arguments and results; by default JSON.
        on_error: called with errors that no caller waits for: a reply that cannot be sent, an
            error of a method that was cast, a lost connection, a queue that the broker refuses.
            By default they are logged by ``logging.getLogger("hbshim.messaging")``.

    Raises:
        OptionError: a parameter is not valid.
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
        expires: float | Default = DEFAULT,
        encoding: Encoding | None = None,
        on_error: OnError | None = None,
    ) -> None:
        check_target(target)
        encoding = encoding or Encoding(limit=driver.payload_limit)
        self._handler = RequestHandler(endpoints, acknowledge, encoding, on_error)
        listener = driver.listen(
            target,
            workers if prefetch is None else prefetch,
            acknowledge_first=not self._handler.after,
            expires=expires,
        )
        on_any_error = self._handler.on_error
        super().__init__(listener, Workers(listener, self._handler.work, workers, on_any_error))

    def stop(self, timeout: float | None = None) -> bool:
        ended = super().stop(timeout)
        self._handler.keepalive.end()
        return ended
