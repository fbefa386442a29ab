"""Counters of one driver in one process; each counts for the whole process, too."""

from __future__ import annotations

from hbshim.messaging.zmq.frames import Kind
from hbshim.metrics import Event, Metrics

_PATTERNS: dict[int, str] = {
    Kind.CALL: "call",
    Kind.CAST: "cast",
    Kind.FANOUT: "fanout",
    Kind.NOTIFY: "notify",
}


class Traffic(Metrics):
    """See the module. Events belong to the process alone.

    Parameters:
        process: the counters of the process.
    """

    __slots__ = ("_process",)

    def __init__(self, process: Metrics) -> None:
        super().__init__()
        self._process = process

    def count(self, name: str, amount: int = 1) -> None:
        super().count(name, amount)
        self._process.count(name, amount)

    def record(self, kind: str, link: str = "", detail: str = "") -> None:
        self._process.record(kind, link, detail)

    def record_once(self, kind: str, link: str = "", detail: str = "") -> None:
        self._process.record_once(kind, link, detail)

    @property
    def latest(self) -> Event | None:
        return self._process.latest

    def recorded(self) -> list[Event]:
        return self._process.recorded()

    def take_events(self) -> list[Event]:
        return self._process.take_events()

    def sent(self, kind: int) -> None:
        """Count a message that was handed to a connection.

        Parameters:
            kind: of its header; only requests and publications are counted.
        """
        if pattern := _PATTERNS.get(kind):
            super().count(f"zmq_sent_{pattern}")

    def received(self, kind: int) -> None:
        """Count a message that arrived at a listener."""
        if pattern := _PATTERNS.get(kind):
            super().count(f"zmq_received_{pattern}")
