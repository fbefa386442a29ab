"""The transport of AMQP 1.0: bytes as they arrive, because the engine splits them into frames."""

from __future__ import annotations

from typing import Any

from hbshim.adapters.transport import Transport
from hbshim.protocol.frames import Splitter


class _Whole(Splitter):
    """Leaves the splitting to the engine."""

    __slots__ = ()

    def split(self, data: bytes) -> list[Any]:
        return [data]


class EngineTransport(Transport):
    """See :class:`hbshim.adapters.transport.Transport`; `read` returns what has arrived."""

    def __init__(self, sock: Any) -> None:
        super().__init__(sock)
        self._splitter = _Whole()
