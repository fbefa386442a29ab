"""The observation of one cell, as plain values; all times are ``time.time()`` in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

_Number = TypeVar("_Number", int, float)

#: Reasons of a peer that has not heard from its client: RabbitMQ over AMQP 0-9-1, the same over
#: AMQP 1.0, and a router.
_MISSED = (
    "missed heartbeats from client",
    "no frame received from client within idle timeout",
    "local-idle-timeout expired",
)


@dataclass(frozen=True)
class Request:
    """One HTTP request to the cell's application, as the application timed it.

    Attributes:
        status: HTTP status; 0 if no answer arrived.
        error: what failed, as the application or the harness reports it.
    """

    kind: Literal["open", "publish"]
    began: float
    ended: float
    status: int
    error: str | None = None

    @property
    def failed(self) -> bool:
        """Whether a user of the application would have seen an error."""
        return self.status != 200


@dataclass(frozen=True)
class Life:
    """One connection in RabbitMQ's log; `closed` is None if the log has no such line."""

    opened: float
    closed: float | None = None


@dataclass(frozen=True)
class BrokerView:
    """The connection as RabbitMQ reports it: management API and log.

    A cell with oslo.messaging has several. `closed` and `reason` are then those of the connection
    that was closed first, for all of them.

    Attributes:
        opened, closed: from the log; None if the log has no such line.
        reason: the log's reason for closing it; empty if the client closed it.
        heartbeat: T that was negotiated, in seconds, from the management API; the minimum.
        listed_until: the last sample of the management API that lists the connection.
        listed_after_silence: whether the sample taken directly before the second request lists
            it; all of them, if there are several.
        connections: how many connections the cell has opened.
        kept: how many of them it had to keep.
        lives: the lifetime of each.
    """

    opened: float | None = None
    closed: float | None = None
    reason: str = ""
    heartbeat: int | None = None
    listed_until: float | None = None
    listed_after_silence: bool = False
    connections: int = 0
    kept: int = 1
    lives: tuple[Life, ...] = ()

    def joined(self, other: BrokerView) -> BrokerView:
        """Return the view of both brokers; what is from the management API is that of this one."""
        first = min(
            (each for each in (self, other) if each.closed is not None),
            key=lambda each: each.closed or 0.0,
            default=self,
        )
        return replace(
            self,
            opened=_least(self.opened, other.opened),
            closed=first.closed,
            reason=first.reason,
            heartbeat=_least(self.heartbeat, other.heartbeat),
            connections=self.connections + other.connections,
            lives=(*self.lives, *other.lives),
        )

    @property
    def missed_heartbeats(self) -> bool:
        """Whether the broker closed it for missed heartbeats."""
        return any(text in self.reason for text in _MISSED)


def _least(one: _Number | None, other: _Number | None) -> _Number | None:
    return min((each for each in (one, other) if each is not None), default=None)


@dataclass(frozen=True)
class WireView:
    """What was sent between cell and broker, as the relay saw it.

    Attributes:
        client_heartbeats, server_heartbeats: heartbeat frames of each side.
        ended: when the first of the two kernels ended its stream.
        ended_by: ``client`` or ``server``.
        errors: what was not a complete AMQP frame.
        visible: False for an encrypted connection, which bypasses the relay: then the
            fields above are empty.
    """

    client_heartbeats: tuple[float, ...] = ()
    server_heartbeats: tuple[float, ...] = ()
    ended: float | None = None
    ended_by: str = ""
    errors: tuple[str, ...] = ()
    visible: bool = True


@dataclass(frozen=True)
class Probe:
    """The latency probe of one thread.

    Attributes:
        taken: pairs of when a run was due and when it came.
        awaited: when the next one was due, at the time of the report.
        worst: the maximum lateness during the silence, in seconds; a run that did not
            come before the silence ended counts as late until then.
    """

    taken: tuple[tuple[float, float], ...]
    awaited: float
    worst: float


@dataclass(frozen=True)
class Messages:
    """The messages of the second request.

    Attributes:
        asked: how many the application was asked to publish.
        accepted: how many the library took without an error.
        arrived: how many were in the queue afterwards, each once.
    """

    asked: int = 0
    accepted: int = 0
    arrived: int = 0

    @property
    def lost(self) -> int:
        """Messages that did not arrive, rejected ones included."""
        return self.asked - self.arrived

    @property
    def swallowed(self) -> int:
        """Messages that the library accepted and that did not arrive."""
        return max(0, self.accepted - self.arrived)


@dataclass(frozen=True)
class Observation:
    """Everything about one cell.

    Attributes:
        problems: why the cell could not be measured; empty when it could.
        silence: begin and end of the time in which no request was made.
        keepalive: the cell's own record of its heartbeat calls.
        shim: recorded by hbshim; None in a cell without it.
        versions: of Python and the libraries in the cell.
        log: the end of Apache's log, kept where something is unclear.
    """

    scenario: str
    problems: tuple[str, ...] = ()
    silence: tuple[float, float] = (0.0, 0.0)
    requests: tuple[Request, ...] = ()
    broker: BrokerView = field(default_factory=BrokerView)
    wire: WireView = field(default_factory=WireView)
    green: Probe | None = None
    native: Probe | None = None
    messages: Messages = field(default_factory=Messages)
    keepalive: Mapping[str, Any] = field(default_factory=dict)
    shim: Mapping[str, Any] | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    log: tuple[str, ...] = ()

    @property
    def failed_requests(self) -> int:
        """How many requests to the application failed."""
        return sum(request.failed for request in self.requests)

    @property
    def survived(self) -> bool:
        """Whether log and management API both show an open connection after the silence."""
        closed = self.broker.closed
        return self.broker.listed_after_silence and (closed is None or closed > self.silence[1])

    @property
    def client_last_heard(self) -> float | None:
        """When the client sent its last byte before the second request; None if unknown."""
        if self.shim is not None and not self.wire.visible:
            return None
        opened = [request.ended for request in self.requests if request.kind == "open"]
        heard = [*opened, *(at for at in self.wire.client_heartbeats if at <= self.silence[1])]
        return max(heard, default=None)


def worst_lateness(
    taken: tuple[tuple[float, float], ...], awaited: float, silence: tuple[float, float]
) -> float:
    """Return the maximum lateness of the probes that were due during the silence, in seconds."""
    began, ended = silence
    due = [(due, came) for due, came in taken if began <= due <= ended]
    lateness = [min(came, ended) - due for due, came in due]
    if awaited < ended:
        lateness.append(ended - max(awaited, began))
    # A probe due before the silence that had not run when it began.
    lateness += [min(came, ended) - began for due, came in taken if due < began < came]
    return max(lateness, default=0.0)
