"""Requests, results and errors as plain values, as they travel."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from hbshim.errors import PayloadError, RemoteError

#: Octets of text, and of a trace, that travel with an error; of a trace, the last ones.
TEXT_LIMIT, TRACE_LIMIT = 10_000, 50_000


#: Of hbshim's own errors, those by which a server answers a request.
OWN_MODULE, ANSWERS = "hbshim.errors", frozenset(("NoSuchMethodError", "PayloadError"))

NEVER_REBUILT = frozenset((("builtins", "StopIteration"), ("builtins", "StopAsyncIteration")))


@dataclass(frozen=True, slots=True)
class Call:
    """What is to be done.

    Attributes:
        silence: seconds without a sign of life that the caller bears; None: any number.
    """

    method: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    namespace: str | None = None
    version: str | None = None
    context: Mapping[str, Any] = field(default_factory=dict)
    silence: float | None = None

    def as_value(self) -> dict[str, Any]:
        """For the serializer; what is not given is left out."""
        value: dict[str, Any] = {"method": self.method, "args": self.arguments}
        for name in ("namespace", "version", "context", "silence"):
            if given := getattr(self, name):
                value[name] = given
        return value

    @classmethod
    def from_value(cls, value: Any) -> Call:
        """Raises: PayloadError: it is no call."""
        if not isinstance(value, dict) or not isinstance(value.get("method"), str):
            raise PayloadError("a request names no method; look at its sender")
        arguments, context = value.get("args") or {}, value.get("context") or {}
        if not isinstance(arguments, dict) or not isinstance(context, dict):
            raise PayloadError("a request's arguments or context are no mapping; see its sender")
        silence = value.get("silence")
        if silence is not None and not (isinstance(silence, (int, float)) and silence > 0):
            raise PayloadError("a request's silence is no number of seconds; look at its sender")
        return cls(
            value["method"],
            arguments,
            value.get("namespace"),
            value.get("version"),
            context,
            silence,
        )


def error_as_value(error: BaseException, *, brief: bool = False) -> dict[str, Any]:
    """An error with its type, for the serializer.

    Parameters:
        brief: without its arguments and trace, which may be what cannot be sent.
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
    """``str(value)``, which is code of the application and may raise."""
    try:
        return str(value)
    except Exception as error:
        return f"<no text: str() of {type(value).__qualname__} raised {type(error).__name__}>"


def _arguments(error: BaseException) -> list[Any]:
    try:
        return [each if _plain(each) else _text(each) for each in error.args]
    except Exception:
        # A class may have made something else of `args`.
        return [_text(error)]


def _trace(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except Exception:
        return ""


def error_from_value(value: Any, allowed: Collection[str]) -> BaseException:
    """The error to raise here.

    Parameters:
        allowed: modules whose errors are raised as what they were; any other becomes a
            :class:`RemoteError`. A peer must not choose what is imported or called here.

    hbshim's own errors become a RemoteError, too: the method had them in a call of its own, and
    the caller must not take them for those of this call. So do errors that mean the end of a
    loop to Python.
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
