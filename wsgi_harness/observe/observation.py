"""What was seen of one cell, as plain values; all times are ``time.time()`` in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Request:
    """One HTTP request to the cell's application, as the application timed it.

    Attributes:
        status: HTTP status; 0 where no answer came.
        error: what the application, or the harness in its place, says went wrong.
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
    """One connection in RabbitMQ's log; `closed` is None where the log has no such line."""

    opened: float
    closed: float | None = None


@dataclass(frozen=True)
class BrokerView:
    """The connection as RabbitMQ tells it: management API and log.

    A cell with oslo.messaging has several. Then `closed` and `reason` are of the one that
    was closed first, and it is the others' story too.

    Attributes:
        opened, closed: from the log; None where the log has no such line.
        reason: the log's words for why it was closed; empty for a client's own close.
        heartbeat: T that was negotiated, in seconds, from the management API; the least.
        listed_until: the last sample of the management API that lists the connection.
        listed_after_silence: whether the sample taken right before the second request did;
            all of them, where there are several.
        connections: how many connections the cell has opened.
        held: how many of them it was to keep.
        lives: each of them.
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

    @property
    def missed_heartbeats(self) -> bool:
        """Whether the broker closed it for missed heartbeats."""
        return "missed heartbeats from client" in self.reason


@dataclass(frozen=True)
class WireView:
    """What went over the wire, as the relay between cell and broker saw it.

    Attributes:
        client_heartbeats, server_heartbeats: heartbeat frames of each side.
        ended: when the first of the two kernels ended its stream.
        ended_by: ``client`` or ``server``.
        errors: what was not whole AMQP frames.
        visible: False for an encrypted connection, which goes past the relay: then the
            fields above are empty and say nothing.
    """

    client_heartbeats: tuple[float, ...] = ()
    server_heartbeats: tuple[float, ...] = ()
    ended: float | None = None
    ended_by: str = ""
    errors: tuple[str, ...] = ()
    visible: bool = True


@dataclass(frozen=True)
class Ticks:
    """The ticks of one thread.

    Attributes:
        taken: pairs of when a tick was due and when it came.
        awaited: when the next one was due, at the time of asking.
        worst: the greatest lateness during the silence, in seconds; a tick that did not
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
        """Messages that did not arrive, refused ones included."""
        return self.asked - self.arrived

    @property
    def swallowed(self) -> int:
        """Messages that the library accepted and nobody received."""
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
    green: Ticks | None = None
    native: Ticks | None = None
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
        """Whether both of the broker's accounts say that the connection outlived the silence."""
        closed = self.broker.closed
        return self.broker.listed_after_silence and (closed is None or closed > self.silence[1])

    @property
    def client_last_heard(self) -> float | None:
        """When the client's last byte before the second request left; None where nobody saw."""
        if self.shim is not None and not self.wire.visible:
            return None
        opened = [request.ended for request in self.requests if request.kind == "open"]
        heard = [*opened, *(at for at in self.wire.client_heartbeats if at <= self.silence[1])]
        return max(heard, default=None)


def worst_lateness(
    taken: tuple[tuple[float, float], ...], awaited: float, silence: tuple[float, float]
) -> float:
    """The greatest lateness of the ticks that were due during the silence, in seconds."""
    began, ended = silence
    due = [(due, came) for due, came in taken if began <= due <= ended]
    lateness = [min(came, ended) - due for due, came in due]
    if awaited < ended:
        lateness.append(ended - max(awaited, began))
    # A tick due before the silence that was still awaited when it began.
    lateness += [min(came, ended) - began for due, came in taken if due < began < came]
    return max(lateness, default=0.0)
