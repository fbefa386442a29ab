"""Finds the method of an endpoint for a request."""

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
    """The first argument of a method.

    Attributes:
        context: what the client sent along.
        message_id: the same if the request is redelivered.
        may_have_run: it was delivered before, to this server or another one, which may have
            started it. With ``acknowledge="after"``, a request that crashes its process is
            redelivered: reject it here.
    """

    def __init__(self, incoming: Incoming, call: Call, encoding: Encoding) -> None:
        self._incoming = incoming
        self._encoding = encoding
        self.context: Mapping[str, Any] = call.context
        self.message_id = incoming.message_id
        self.may_have_run = incoming.may_have_run

    def expired(self) -> bool:
        """Whether the caller has timed out."""
        return self._incoming.expired()

    def progress(self, value: Any) -> None:
        """Report progress to the caller. It also counts as a keepalive.

        Raises:
            PayloadError: `value` cannot be sent.
            MessagingError: it was not sent.
        """
        body = self._encoding.encode(value)
        self._incoming.reply(Payload(body, self._encoding.content_type), "progress")


class Dispatcher:
    """The endpoints of a server.

    Parameters:
        endpoints: objects whose public methods are called with a :class:`Request` and the
            arguments. Their attributes ``namespace`` and ``version`` define what they offer; by
            default no namespace, and version "1.0".

    Raises:
        OptionError: the version of an endpoint is malformed.
    """

    def __init__(self, endpoints: Sequence[object]) -> None:
        self._endpoints = tuple(endpoints)
        for endpoint in self._endpoints:
            version_of(getattr(endpoint, "version", None) or "1.0")

    def method(self, call: Call) -> Callable[..., Any]:
        """Return the method that `call` names.

        Raises:
            NoSuchMethodError: no endpoint has it.
        """
        served = False
        for endpoint in self._endpoints:
            if getattr(endpoint, "namespace", None) != call.namespace:
                continue
            if not serves(getattr(endpoint, "version", None), call.version):
                continue
            served = True
            # Looked up on the class: callables set on an instance are not methods.
            if not call.method.startswith("_") and inspect.isroutine(
                _of_class(type(endpoint), call.method)
            ):
                found: Callable[..., Any] = getattr(endpoint, call.method)
                return found
        wanted = f"namespace {call.namespace!r}, version {call.version or '1.0'}"
        if served:
            raise NoSuchMethodError(f"no endpoint of {wanted} has a method {call.method!r}")
        raise NoSuchMethodError(
            f"no endpoint serves {wanted}; ask for one that the server offers, or update it"
        )


def _of_class(kind: type, name: str) -> object:
    """Return an attribute of a class, without those of its metaclass; None: it has none."""
    for each in kind.__mro__:
        if name in each.__dict__:
            return each.__dict__[name]
    return None
