"""From a request to the method of an endpoint."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hbshim.errors import NoSuchMethodError
from hbshim.messaging.base import Incoming, Payload
from hbshim.messaging.encoding import Encoding
from hbshim.messaging.remote import Call
from hbshim.messaging.target import serves, version_of


class Request:
    """What a method is given first.

    Attributes:
        context: what the client sent along.
        message_id: the same if the request is delivered a second time.
        may_have_run: it was handed to a server before, this one or another, which may or may
            not have begun it. A request that ends its process is handed to the next one with
            ``acknowledge="after"``: refuse it here.
    """

    def __init__(self, incoming: Incoming, call: Call, encoding: Encoding) -> None:
        self._incoming = incoming
        self._encoding = encoding
        self.context: Mapping[str, Any] = call.context
        self.message_id = incoming.message_id
        self.may_have_run = incoming.may_have_run

    def expired(self) -> bool:
        """Whether the caller has given up by now."""
        return self._incoming.expired()

    def progress(self, value: Any) -> None:
        """Report to the caller before the end; also a sign of life.

        Raises:
            PayloadError: `value` cannot be sent.
            MessagingError: it was not sent.
        """
        body = self._encoding.encode(value)
        self._incoming.reply(Payload(body, self._encoding.content_type), "progress")


class Dispatcher:
    """The endpoints of a server.

    Parameters:
        endpoints: objects whose public methods are called, with a :class:`Request` and the
            arguments. Their attributes ``namespace`` and ``version`` tell what they offer:
            no namespace and version "1.0" unless given.

    Raises:
        OptionError: an endpoint's version is none.
    """

    def __init__(self, endpoints: Sequence[object]) -> None:
        self._endpoints = tuple(endpoints)
        for endpoint in self._endpoints:
            version_of(getattr(endpoint, "version", None) or "1.0")

    def method(self, call: Call) -> Callable[..., Any]:
        """What `call` asks for.

        Raises:
            NoSuchMethodError: nobody has it.
        """
        served = False
        for endpoint in self._endpoints:
            if getattr(endpoint, "namespace", None) != call.namespace:
                continue
            if not serves(getattr(endpoint, "version", None), call.version):
                continue
            served = True
            # Looked up on the class: what is no method of it is nobody's to call.
            if not call.method.startswith("_") and inspect.isroutine(
                inspect.getattr_static(type(endpoint), call.method, None)
            ):
                found: Callable[..., Any] = getattr(endpoint, call.method)
                return found
        wanted = f"namespace {call.namespace!r}, version {call.version or '1.0'}"
        if served:
            raise NoSuchMethodError(f"no endpoint of {wanted} has a method {call.method!r}")
        raise NoSuchMethodError(
            f"no endpoint serves {wanted}; ask for one that the server offers, or update it"
        )
