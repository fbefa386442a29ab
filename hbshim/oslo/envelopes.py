"""What the payload of a message holds: a request, or its result.

A server answers in the envelope in which it was asked, so that drivers with different envelopes
serve each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from hbshim.adapters.oslo.base import deserialize_message, serialize_message
from hbshim.errors import PayloadError
from hbshim.messaging.base import Reply
from hbshim.messaging.encoding import Encoding


class Request(NamedTuple):
    """What a service receives.

    Attributes:
        context: what the sender sends along.
        message: what it sends.
        call_monitor_timeout: for how many seconds its caller waits without a keepalive.
    """

    context: Any
    message: Any
    call_monitor_timeout: float | None = None


class Envelope(Protocol):
    """How requests and results are written."""

    def request(self, request: Request) -> dict[str, Any]:
        """Return what is sent for a call or a cast."""

    def notification(self, request: Request, version: float) -> dict[str, Any]:
        """Return what is sent for a notification.

        Parameters:
            version: of oslo.messaging's envelope for messages.

        Raises:
            PayloadError: it cannot be serialized.
        """

    def result(self, value: Any) -> Any:
        """Return what is sent for the result of a call."""

    def failure(self, text: str, encoding: Encoding) -> bytes:
        """Return what is sent for an exception, which `text` describes."""

    def open(self, value: Any) -> Request:
        """Return the request of what was received.

        Raises:
            PayloadError: it is none.
        """

    def outcome(self, reply: Reply, encoding: Encoding) -> tuple[Any, str | None]:
        """Return the result that was received, and None; or None, and the text of the exception.

        Raises:
            PayloadError: it is neither.
        """


class OwnEnvelope:
    """The one of ``hbkombu://``, ``hbpika://`` and ``hbzmq://``."""

    _CONTEXT, _MESSAGE, _TIMEOUT = "ctxt", "message", "call_monitor_timeout"

    def request(self, request: Request) -> dict[str, Any]:
        value = {self._CONTEXT: request.context, self._MESSAGE: request.message}
        if request.call_monitor_timeout:
            value[self._TIMEOUT] = request.call_monitor_timeout
        return value

    def notification(self, request: Request, version: float) -> dict[str, Any]:
        return self.request(request)

    def result(self, value: Any) -> Any:
        return value

    def failure(self, text: str, encoding: Encoding) -> bytes:
        return text.encode()

    def open(self, value: Any) -> Request:
        try:
            return Request(value[self._CONTEXT], value[self._MESSAGE], value.get(self._TIMEOUT))
        except (KeyError, TypeError, AttributeError) as error:
            raise _no_request(error) from None

    def outcome(self, reply: Reply, encoding: Encoding) -> tuple[Any, str | None]:
        body = reply.payload.body
        if reply.kind == "error":
            return None, body.decode(errors="replace")
        return encoding.decode(body, reply.payload.content_type), None


class FormerEnvelope:
    """The one of the driver ``amqp://`` that oslo.messaging had until 14.9."""

    _CONTEXT, _REQUEST, _TIMEOUT = "context", "request", "call_monitor_timeout"
    _RESPONSE, _FAILURE = "response", "failure"

    def request(self, request: Request) -> dict[str, Any]:
        value = {self._REQUEST: request.message, self._CONTEXT: request.context}
        if request.call_monitor_timeout:
            value[self._TIMEOUT] = request.call_monitor_timeout
        return value

    def notification(self, request: Request, version: float) -> dict[str, Any]:
        if version == 2.0:
            try:
                request = request._replace(message=serialize_message(request.message))
            except Exception as error:
                raise PayloadError(
                    f"the notification cannot be serialized ({error}); send plain values"
                ) from error
        return self.request(request)

    def result(self, value: Any) -> Any:
        return {self._RESPONSE: value}

    def failure(self, text: str, encoding: Encoding) -> bytes:
        return encoding.encode({self._FAILURE: text})

    def open(self, value: Any) -> Request:
        try:
            message = deserialize_message(value[self._REQUEST])
            return Request(value.get(self._CONTEXT), message, value.get(self._TIMEOUT))
        except Exception as error:
            raise _no_request(error) from None

    def outcome(self, reply: Reply, encoding: Encoding) -> tuple[Any, str | None]:
        # The former driver's servers do not distinguish the kinds of replies.
        value = encoding.decode(reply.payload.body, reply.payload.content_type)
        if not isinstance(value, Mapping):
            raise PayloadError(
                f"a reply holds {type(value).__name__}, not a response or a failure; is its server "
                "one of oslo.messaging?"
            )
        failure = value.get(self._FAILURE)
        return value.get(self._RESPONSE), None if failure is None else str(failure)


def _no_request(error: Exception) -> PayloadError:
    return PayloadError(f"it is not a message of oslo.messaging's: {error!r}")


OWN = OwnEnvelope()
FORMER = FormerEnvelope()


def envelope_of(value: Any) -> Envelope:
    """Return the envelope of a request that was received."""
    if isinstance(value, Mapping) and FormerEnvelope._REQUEST in value:
        return FORMER
    return OWN
