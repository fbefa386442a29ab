"""Requests, results and errors as plain values, as they travel."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from hbshim.errors import PayloadError, RemoteError


@dataclass(frozen=True, slots=True)
class Call:
    """What is to be done."""

    method: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    namespace: str | None = None
    version: str | None = None
    context: Mapping[str, Any] = field(default_factory=dict)

    def as_value(self) -> dict[str, Any]:
        """For the serializer; what is not given is left out."""
        value: dict[str, Any] = {"method": self.method, "args": self.arguments}
        for name in ("namespace", "version", "context"):
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
        return cls(
            value["method"], arguments, value.get("namespace"), value.get("version"), context
        )


def error_as_value(error: BaseException) -> dict[str, Any]:
    """An error with its type, for the serializer."""
    kind = type(error)
    return {
        "module": kind.__module__,
        "kind": kind.__qualname__,
        "text": str(error),
        "args": [each if _plain(each) else str(each) for each in error.args],
        "trace": "".join(traceback.format_exception(error)),
    }


def error_from_value(value: Any, allowed: Collection[str]) -> BaseException:
    """The error to raise here.

    Parameters:
        allowed: modules whose errors are raised as what they were; any other becomes a
            :class:`RemoteError`. A peer must not choose what is imported or called here.
    """
    value = value if isinstance(value, dict) else {"text": str(value)}
    module, kind = str(value.get("module")), str(value.get("kind"))
    remote = RemoteError(f"{module}.{kind}", str(value.get("text")), str(value.get("trace")))
    if module not in allowed:
        return remote
    try:
        found: Any = importlib.import_module(module)
        for name in kind.split("."):
            found = getattr(found, name)
        if not (isinstance(found, type) and issubclass(found, Exception)):
            return remote
        error: Exception = found(*(value.get("args") or ()))
    except Exception:
        return remote
    error.__cause__ = remote
    return error


def _plain(value: object) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))
