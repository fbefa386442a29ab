"""What a server does with a request, and with a notification, around the methods that it calls.

It is a generator that yields each :class:`Invocation`, and is sent what that returned or raised: so
:mod:`hbshim.messaging.aio` can await a method. Closing the generator requeues the message, if it
is not acknowledged yet.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from hbshim.errors import (
    BrokerBlockedError,
    ConnectError,
    ConnectionLostError,
    OptionError,
    PayloadError,
    PoolTimeoutError,
)
from hbshim.messaging.base import Incoming, Payload
from hbshim.messaging.dispatch import Dispatcher, Request
from hbshim.messaging.encoding import Encoding
from hbshim.messaging.keepalive import Keepalive
from hbshim.messaging.remote import Call, error_as_value
from hbshim.messaging.reporting import OnError, ends_thread, reporting_to
from hbshim.messaging.target import Target

#: Errors after which a reply was not sent, because the broker could not be reached.
NOT_SENT = (ConnectError, ConnectionLostError, BrokerBlockedError, PoolTimeoutError)


class Invocation(NamedTuple):
    """A method to call.

    Attributes:
        method: the method.
        first: its first argument: a request, a notification, or a list of notifications.
        arguments: the others.
    """

    method: Callable[..., Any]
    first: Any
    arguments: Mapping[str, Any]


#: Yields invocations, and is sent what they return.
Handling: TypeAlias = Generator[Invocation, Any, None]


def handle(handling: Handling) -> None:
    """Call the methods in this thread."""
    try:
        invocation = next(handling)
        while True:
            try:
                value = invocation.method(invocation.first, **invocation.arguments)
            except BaseException as error:
                invocation = handling.throw(error)
            else:
                invocation = handling.send(value)
    except StopIteration:
        return
    finally:
        # An interrupt may have come between two steps.
        handling.close()


def check_target(target: Target) -> None:
    """Check the target of a server.

    Raises:
        OptionError: it has a namespace or a version, which are those of endpoints.
    """
    if target.namespace is not None or target.version is not None:
        raise OptionError(
            f"the target of a server has no namespace and no version, got {target}; give "
            "them as the attributes `namespace` and `version` of its endpoints"
        )


class RequestHandler:
    """Answers the requests of a server; see :class:`hbshim.messaging.Server` for the parameters.

    Attributes:
        after: requests are acknowledged after their methods.
        on_error: called with errors that no caller waits for.
        keepalive: sends keepalives while methods run.

    Raises:
        OptionError: a parameter is not valid.
    """

    def __init__(
        self,
        endpoints: Sequence[object],
        acknowledge: Literal["before", "after"],
        encoding: Encoding,
        on_error: OnError | None,
    ) -> None:
        if acknowledge not in ("before", "after"):
            raise OptionError(f"acknowledge={acknowledge!r} is not valid; use before or after")
        self.after = acknowledge == "after"
        self.on_error = reporting_to(on_error)
        self.keepalive = Keepalive(self.on_error)
        self._encoding = encoding
        self._dispatcher = Dispatcher(endpoints)

    def work(self, batch: Sequence[Incoming]) -> None:
        """Answer requests in this thread."""
        for incoming in batch:
            handle(self.handling(incoming))

    def handling(self, incoming: Incoming) -> Handling:
        """Answer a request."""
        try:
            yield from self._answer(incoming)
        except BaseException as error:
            if ends_thread(error):
                if self.after:
                    incoming.return_to_queue()
                raise
            self.on_error(error)
            if self.after and self._lost(incoming, error):
                incoming.requeue()
        # Unless it was requeued.
        if self.after:
            incoming.acknowledge()

    @staticmethod
    def _lost(incoming: Incoming, error: BaseException) -> bool:
        """Return whether a result without time limit would be lost, so the method runs again."""
        return incoming.expects_reply and not incoming.expires and isinstance(error, NOT_SENT)

    def _answer(self, incoming: Incoming) -> Handling:
        try:
            call = self._decoded(incoming)
            method = self._dispatcher.method(call)
            request = Request(incoming, call, self._encoding)
            invocation = Invocation(method, request, call.arguments)
            if call.call_monitor_timeout is None:
                value = yield invocation
            else:
                with self.keepalive.during(incoming, call.call_monitor_timeout):
                    value = yield invocation
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
