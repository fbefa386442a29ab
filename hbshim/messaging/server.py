"""The server's side: takes requests in, has them done, answers."""

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
from hbshim.messaging.pulse import Pulse
from hbshim.messaging.remote import Call, error_as_value
from hbshim.messaging.reporting import OnError, ends_thread, reporting_to
from hbshim.messaging.serving import Serving, Workers
from hbshim.messaging.target import Target
from hbshim.options import DEFAULT, Default

#: The broker could not be reached with a reply.
NOT_SENT = (ConnectError, ConnectionLostError, BrokerBlockedError, PoolTimeoutError)


class Server(Serving):
    """Answers calls and casts to a target.

    Parameters:
        target: with topic and server.
        endpoints: see :class:`hbshim.messaging.dispatch.Dispatcher`.
        workers: requests that are worked on at the same time.
        acknowledge: "before" the work: a request is worked on once, or, if the server dies or
            its connection is lost on the way, not at all; docs/messaging.md names the limits.
            "after" it: a request whose server died is worked on once more. Servers of one topic
            agree on it.
        prefetch: requests that may wait here while other servers could take them; None:
            as many as there are workers.
        expires: seconds without a server until its queues go, with what is in them;
            :data:`hbshim.messaging.NEVER`: that of the topic stays, and that of the server
            itself expires as the option says; DEFAULT: the option `rpc_queue_expiration`. A queue
            that was declared before keeps its lifetime.
        encoding: how arguments and results travel; JSON unless given.
        on_error: called with errors that no caller waits for: a reply that cannot be sent, a
            cast's method that raised, a lost connection, a queue that the broker refuses. They
            are logged by ``logging.getLogger("hbshim.messaging")`` unless it is given.

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
            raise OptionError(f"acknowledge={acknowledge!r} is not acceptable; use before or after")
        self._encoding = encoding or Encoding(limit=driver.payload_limit)
        self._dispatcher = Dispatcher(endpoints)
        self._after = acknowledge == "after"
        self._on_error = reporting_to(on_error)
        self._pulse = Pulse(self._on_error)
        listener = driver.listen(
            target,
            workers if prefetch is None else prefetch,
            acknowledge_first=not self._after,
            expires=expires,
        )
        super().__init__(listener, Workers(listener, self._work, workers, self._on_error))

    def stop(self, timeout: float | None = None) -> bool:
        ended = super().stop(timeout)
        self._pulse.end()
        return ended

    def _work(self, batch: Sequence[Incoming]) -> None:
        for incoming in batch:
            try:
                self._answer(incoming)
            except BaseException as error:
                if ends_thread(error):
                    if self._after:
                        incoming.give_back()
                    raise
                self._on_error(error)
                if self._after and self._lost(incoming, error):
                    incoming.requeue()
            # Unless it was requeued.
            if self._after:
                incoming.acknowledge()

    @staticmethod
    def _lost(incoming: Incoming, error: BaseException) -> bool:
        """Whether a result without a time limit would be lost: then the work is done again."""
        return incoming.expects_reply and not incoming.expires and isinstance(error, NOT_SENT)

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
        except BaseException as error:
            if ends_thread(error) or not incoming.expects_reply:
                raise
            incoming.reply(self._failure(error), "error")
        else:
            incoming.reply(reply)

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
