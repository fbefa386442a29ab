"""The server: receives requests, runs methods, replies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from hbshim.errors import (
    BrokerBlockedError,
    ConnectError,
    ConnectionLostError,
    OptionError,
    PayloadError,
    PoolTimeoutError,
)
from hbshim.messaging.base import Driver, Incoming, Payload
from hbshim.messaging.dispatch import Dispatcher, Request
from hbshim.messaging.encoding import Encoding
from hbshim.messaging.keepalive import Keepalive
from hbshim.messaging.remote import Call, error_as_value
from hbshim.messaging.reporting import OnError, ends_thread, reporting_to
from hbshim.messaging.serving import Serving, Workers
from hbshim.messaging.target import Target
from hbshim.options import DEFAULT, Default

#: Errors after which a reply was not sent, because the broker could not be reached.
NOT_SENT = (ConnectError, ConnectionLostError, BrokerBlockedError, PoolTimeoutError)


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
            server expires as the option says; DEFAULT: the option `rpc_queue_expiration`. An
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
        if target.namespace is not None or target.version is not None:
            raise OptionError(
                f"the target of a server has no namespace and no version, got {target}; give "
                "them as the attributes `namespace` and `version` of its endpoints"
            )
        if acknowledge not in ("before", "after"):
            raise OptionError(f"acknowledge={acknowledge!r} is not valid; use before or after")
        self._encoding = encoding or Encoding(limit=driver.payload_limit)
        self._dispatcher = Dispatcher(endpoints)
        self._after = acknowledge == "after"
        self._on_error = reporting_to(on_error)
        self._keepalive = Keepalive(self._on_error)
        listener = driver.listen(
            target,
            workers if prefetch is None else prefetch,
            acknowledge_first=not self._after,
            expires=expires,
        )
        super().__init__(listener, Workers(listener, self._work, workers, self._on_error))

    def stop(self, timeout: float | None = None) -> bool:
        ended = super().stop(timeout)
        self._keepalive.end()
        return ended

    def _work(self, batch: Sequence[Incoming]) -> None:
        for incoming in batch:
            try:
                self._answer(incoming)
            except BaseException as error:
                if ends_thread(error):
                    if self._after:
                        incoming.return_to_queue()
                    raise
                self._on_error(error)
                if self._after and self._lost(incoming, error):
                    incoming.requeue()
            # Unless it was requeued.
            if self._after:
                incoming.acknowledge()

    @staticmethod
    def _lost(incoming: Incoming, error: BaseException) -> bool:
        """Return whether a result without time limit would be lost, so the method runs again."""
        return incoming.expects_reply and not incoming.expires and isinstance(error, NOT_SENT)

    def _answer(self, incoming: Incoming) -> None:
        try:
            call = self._decoded(incoming)
            method = self._dispatcher.method(call)
            request = Request(incoming, call, self._encoding)
            if call.call_monitor_timeout is None:
                value = method(request, **call.arguments)
            else:
                with self._keepalive.during(incoming, call.call_monitor_timeout):
                    value = method(request, **call.arguments)
            if not incoming.expects_reply:
                return
            reply = self._encoded(value)
        except BaseException as error:
            if ends_thread(error) or not incoming.expects_reply:
                raise
            incoming.reply(self._failure(error), "error")
        else:
            incoming.reply(reply)

    def _decoded(self, incoming: Incoming) -> Call:
        payload = incoming.payload
        try:
            return Call.from_value(self._encoding.decode(payload.body, payload.content_type))
        except PayloadError as error:
            # Decoding it again would fail again.
            incoming.reject(str(error))
            raise

    def _failure(self, error: BaseException) -> Payload:
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
