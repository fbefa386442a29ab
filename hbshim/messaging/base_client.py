"""The base of the clients: parameters, encoding of requests, decoding of replies."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any, Generic, Protocol, TypeVar

from hbshim.errors import OptionError
from hbshim.messaging.base import Payload, Reply
from hbshim.messaging.encoding import Encoding
from hbshim.messaging.remote import Call, error_from_value
from hbshim.messaging.target import Target
from hbshim.options import DEFAULT, Default

#: Modules whose errors keep their type in the client.
ERRORS_ALLOWED = ("builtins", "hbshim.errors")


class Limits(Protocol):
    """What is needed of a driver to encode a request."""

    @property
    def rpc_timeout(self) -> float: ...
    @property
    def payload_limit(self) -> int: ...


D = TypeVar("D", bound=Limits)
R = TypeVar("R", bound="BaseClient[Any]")


@dataclasses.dataclass(frozen=True)
class BaseClient(Generic[D]):
    """See :class:`hbshim.messaging.Client`; subclasses send what this class encodes."""

    driver: D
    target: Target
    timeout: float | Default = DEFAULT
    encoding: Encoding | None = None
    context: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    allowed_errors: Collection[str] = ERRORS_ALLOWED
    call_monitor_timeout: float | None = None
    on_progress: Callable[[Any], None] | None = None
    mandatory: bool = False
    ignore_result: bool = False
    result_lifetime: float | Default = DEFAULT

    def prepare(self: R, **changes: Any) -> R:
        """Return a client with some parameters, of its own or of its target, replaced.

        Example: ``client.prepare(timeout=5, server="host-1").call("ping")``.
        """
        own = {field.name for field in dataclasses.fields(self)}
        target = {name: changes.pop(name) for name in list(changes) if name not in own}
        if target:
            changes["target"] = changes.get("target", self.target).to(**target)
        return dataclasses.replace(self, **changes)

    def _refuse_fanout(self, way: str) -> None:
        if self.target.fanout:
            raise OptionError(
                f"{way}() goes to one server, and the target {self.target.topic!r} is a fanout; "
                "use cast(), or a target without fanout"
            )

    @functools.cached_property
    def _timeout(self) -> float:
        return self.driver.rpc_timeout if self.timeout is DEFAULT else self.timeout

    @functools.cached_property
    def _encoding(self) -> Encoding:
        return self.encoding or Encoding(limit=self.driver.payload_limit)

    def _payload(
        self, method: str, arguments: Mapping[str, Any], call_monitor_timeout: float | None = None
    ) -> Payload:
        target = self.target
        call = Call(
            method, arguments, target.namespace, target.version, self.context, call_monitor_timeout
        )
        return Payload(self._encoding.encode(call.as_value()), self._encoding.content_type)

    def _report(self, on_progress: Callable[[Any], None]) -> Callable[[Reply], None]:
        return lambda reply: on_progress(self._value(reply))

    def _value(self, reply: Reply) -> Any:
        return self._encoding.decode(reply.payload.body, reply.payload.content_type)

    def _result(self, reply: Reply) -> Any:
        value = self._value(reply)
        if reply.kind == "error":
            raise error_from_value(value, self.allowed_errors)
        return value
