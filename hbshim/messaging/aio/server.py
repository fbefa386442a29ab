"""The server for asyncio: receives requests, runs methods, replies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

from hbshim.messaging import dispatch
from hbshim.messaging.aio.arguments import require_count, require_function
from hbshim.messaging.aio.driver import Driver, require_driver
from hbshim.messaging.aio.serving import Serving
from hbshim.messaging.base import Incoming
from hbshim.messaging.encoding import Encoding
from hbshim.messaging.handling import Handling, RequestHandler, check_target
from hbshim.messaging.reporting import OnError
from hbshim.messaging.target import Target
from hbshim.options import DEFAULT, Default


class Request:
    """The first argument of an ``async def`` method; others get :class:`hbshim.messaging.Request`.

    Attributes:
        context: what the client sent along.
        message_id: the same if the request is redelivered.
        may_have_run: see :class:`hbshim.messaging.Request`.
    """

    def __init__(self, request: dispatch.Request, server: Server) -> None:
        self._request = request
        self._server = server
        self.context: Mapping[str, Any] = request.context
        self.message_id = request.message_id
        self.may_have_run = request.may_have_run

    def expired(self) -> bool:
        """Whether the caller has timed out."""
        return self._request.expired()

    async def progress(self, value: Any) -> None:
        """Report progress to the caller. It also counts as a keepalive.

        Raises:
            PayloadError: `value` cannot be sent.
            MessagingError: it was not sent.
        """
        await self._server._reply(partial(self._request.progress, value))


class Server(Serving):
    """Answers the calls and casts to a target, on the event loop of its driver.

    A public method of an endpoint that is ``async def`` runs on the event loop. Any other one runs
    in a worker thread.

    Parameters:
        driver: see :func:`hbshim.messaging.aio.connect`.
        target: with topic and server.
        endpoints: as for :class:`hbshim.messaging.Server`.
        workers: how many requests are processed at the same time, whatever their methods are.
        threads: the most worker threads for methods that are not ``async def``.
        acknowledge, prefetch, expires, encoding: as for :class:`hbshim.messaging.Server`.
        on_error: as there; it is called in any thread.

    Raises:
        OptionError: a parameter is not valid.
    """

    def __init__(
        self,
        driver: Driver,
        target: Target,
        endpoints: Sequence[object],
        *,
        workers: int = 100,
        threads: int = 8,
        acknowledge: Literal["before", "after"] = "before",
        prefetch: int | None = None,
        expires: float | Default = DEFAULT,
        encoding: Encoding | None = None,
        on_error: OnError | None = None,
    ) -> None:
        require_driver(driver)
        require_function("on_error", on_error)
        require_count("workers", workers)
        check_target(target)
        encoding = encoding or Encoding(limit=driver.payload_limit)
        handler = self._handler = RequestHandler(endpoints, acknowledge, encoding, on_error)
        listener = driver.beneath.listen(
            target,
            workers if prefetch is None else prefetch,
            acknowledge_first=not handler.after,
            expires=expires,
        )
        super().__init__(
            driver,
            listener,
            self._handlings,
            handler.on_error,
            concurrency=workers,
            threads=threads,
            requeues=handler.after,
        )

    def _handlings(self, batch: Sequence[Incoming]) -> Sequence[Handling]:
        return [self._handler.handling(incoming) for incoming in batch]

    def _argument(self, first: Any) -> Any:
        return Request(first, self)

    async def stop(self, timeout: float | None = None) -> bool:
        ended = await super().stop(timeout)
        self._handler.keepalive.end()
        return ended
