"""Requests, results and errors as plain values, as they are sent."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from hbshim.errors import PayloadError, RemoteError

#: The most bytes of text, and of a traceback, sent with an error; of a traceback, the last ones.
TEXT_LIMIT, TRACE_LIMIT = 10_000, 50_000


#: Those of hbshim's errors with which a server answers a request.
OWN_MODULE, ANSWERS = "hbshim.errors", frozenset(("NoSuchMethodError", "PayloadError"))

NEVER_REBUILT = frozenset((("builtins", "StopIteration"), ("builtins", "StopAsyncIteration")))


@dataclass(frozen=True, slots=True)
class Call:
    """A request.

    Attributes:
        method: the name of the method.
        arguments: the arguments by name.
        namespace: of the method.
        version: of the interface that the client needs.
        context: what the client sent along.
        call_monitor_timeout: seconds without a keepalive after which the caller gives up;
            None: it expects no keepalives.
    """

    method: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    namespace: str | None = None
    version: str | None = None
    context: Mapping[str, Any] = field(default_factory=dict)
    call_monitor_timeout: float | None = None

    def as_value(self) -> dict[str, Any]:
        """Return it for the serializer, without empty values."""
        value: dict[str, Any] = {"method": self.method, "args": self.arguments}
        for name in ("namespace", "version", "context", "call_monitor_timeout"):
            if given := getattr(self, name):
                value[name] = given
        return value

    @classmethod
    def from_value(cls, value: Any) -> Call:
        """Return the request of a decoded value.

        Raises:
            PayloadError: it is not a request.
        """
        if not isinstance(value, dict) or not isinstance(value.get("method"), str):
            raise PayloadError("a request has no method; check its sender")
        arguments, context = value.get("args") or {}, value.get("context") or {}
        if not isinstance(arguments, dict) or not isinstance(context, dict):
            raise PayloadError(
                "a request's arguments or context are not a mapping; check its sender"
            )
        call_monitor_timeout = value.get("call_monitor_timeout")
        if call_monitor_timeout is not None and not (
            isinstance(call_monitor_timeout, (int, float)) and call_monitor_timeout > 0
        ):
            raise PayloadError(
                "the call_monitor_timeout of a request is not a number of seconds; check its sender"
            )
        return cls(
            value["method"],
            arguments,
            value.get("namespace"),
            value.get("version"),
            context,
            call_monitor_timeout,
        )


def error_as_value(error: BaseException, *, brief: bool = False) -> dict[str, Any]:
    """Return an error with its type, for the serializer.

    Parameters:
        error: the error.
        brief: leave out its arguments and traceback, which may be what cannot be sent.
    """
    kind = type(error)
    value = {
        "module": str(kind.__module__),
        "kind": kind.__qualname__,
        "text": _text(error)[:TEXT_LIMIT],
    }
    if brief:
        return {**value, "text": value["text"][:100], "args": [value["text"][:100]]}
    return {
        **value,
        "args": _arguments(error),
        "trace": _trace(error)[-TRACE_LIMIT:],
    }


def _text(value: object) -> str:
    """Return ``str(value)``, which is code of the application and may raise."""
    try:
        return str(value)
    except Exception as error:
        return f"<no text: str() of {type(value).__qualname__} raised {type(error).__name__}>"


def _arguments(error: BaseException) -> list[Any]:
    try:
        return [each if _plain(each) else _text(each) for each in error.args]
    except Exception:
        # A class may have changed the type of `args`.
        return [_text(error)]


def _trace(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except Exception:
        return ""


def error_from_value(value: Any, allowed: Collection[str]) -> BaseException:
    """Return the error to raise in the client.

    hbshim's own errors become a RemoteError: they happened in a call that the method made, and the
    caller must not mistake them for errors of its own call. So do errors with which Python ends a
    loop.

    Parameters:
        value: the decoded error.
        allowed: modules whose errors keep their type; others become a :class:`RemoteError`. A
            peer must not choose what is imported or called here.
    """
    value = value if isinstance(value, dict) else {"text": str(value)}
    module, kind = str(value.get("module")), str(value.get("kind"))
    remote = RemoteError(f"{module}.{kind}", str(value.get("text")), str(value.get("trace")))
    if module not in allowed or (module, kind) in NEVER_REBUILT:
        return remote
    if module == OWN_MODULE and kind not in ANSWERS:
        return remote
    try:
        found: Any = importlib.import_module(module)
        for name in kind.split("."):
            found = getattr(found, name)
        if not (isinstance(found, type) and issubclass(found, Exception)):
            return remote
        if found.__module__ == OWN_MODULE and found.__qualname__ not in ANSWERS:
            return remote
        error: Any = found(*(value.get("args") or ()))
        if not isinstance(error, Exception):
            return remote
    except Exception:
        return remote
    error.__cause__ = remote
    return error


def _plain(value: object) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))
