"""Everything the checks look at, gathered before the first of them is asked."""

from __future__ import annotations

from dataclasses import dataclass, field

from hbshim.adapters.celery.apps import AppFacts
from hbshim.doctor.activity import Activity
from hbshim.doctor.proposals import Proposal
from hbshim.runtime.detect import RuntimeReport


@dataclass(frozen=True)
class Negotiated:
    """What client and broker agreed on.

    Attributes:
        heartbeat: T, in seconds; 0 for none.
        asked: the T that the doctor proposed; suggested: the one that the broker did.
        frame_max: octets; channel_max: channels.
        product, version: as the broker calls itself.
    """

    heartbeat: int
    asked: int
    suggested: int
    frame_max: int
    channel_max: int
    product: str
    version: str


@dataclass(frozen=True)
class Visit:
    """A connection that the doctor opened, watched and closed.

    Attributes:
        peer: host and port.
        client: the library that spoke, with its version.
        route: how a heartbeat reaches the wire, "plain" or "tls".
        negotiated: what was agreed on.
        worker: where beats came from.
        watched: seconds that were watched.
        beat_out: seconds until the first beat went out; None if none did.
        beat_in: seconds until the first one came in; None if none did.
        trouble: what ended the watch early, or blinded it; "" if nothing did.
    """

    peer: str
    client: str
    route: str
    negotiated: Negotiated
    worker: str
    watched: float
    beat_out: float | None
    beat_in: float | None
    trouble: str = ""


@dataclass(frozen=True)
class Queues:
    """The queues of one virtual host, as RabbitMQ's management API lists them.

    Attributes:
        seen: how many were looked at; total: how many there are.
        transient: names of those that are neither durable nor exclusive.
        version: the broker's version.
    """

    seen: int
    total: int
    transient: tuple[str, ...]
    version: str


@dataclass(frozen=True)
class Expected:
    """T of some connections of the program.

    Attributes:
        timeout: T, in seconds; 0 for none.
        whose: the connections, for reports.
        why: what decided T; "" where nothing asked for a heartbeat.
    """

    timeout: float
    whose: str
    why: str


@dataclass(frozen=True)
class Case:
    """One process, and what it was asked to be examined for.

    Attributes:
        runtime: what :func:`hbshim.detect` says.
        installed: versions of the libraries that are loaded or installed, by name.
        ranges: the versions hbshim supports, by name; empty where nobody tells.
        pythons: the Python versions hbshim is tested with, as "3.12"; likewise.
        tls: TLS is in use, in a live connection or in the URL.
        activity: what hbshim does and did in this process.
        clients: "amqp" and "pika", those that the program uses.
        proposals: what each client of the program asks for.
        apps: the program's Celery apps, as far as they are known.
        kombu_transport: module and class that kombu takes for the program's URL, where
            that is not py-amqp's; "" where it is, or where kombu is not in use.
        other_clients: AMQP clients that are loaded and that hbshim does not know.
        live: T of the connections kept alive in this process now.
        idle_limit: seconds after which something in between cuts a silent connection.
        visit: the connection to the broker, if one was asked for and came about.
        refusal: why it did not come about, and what to do.
        queues: what the management API listed; or why it did not, and what to do.
    """

    runtime: RuntimeReport
    installed: dict[str, str] = field(default_factory=dict)
    ranges: dict[str, str] = field(default_factory=dict)
    pythons: tuple[str, ...] = ()
    tls: bool = False
    activity: Activity = field(default_factory=Activity)
    clients: tuple[str, ...] = ()
    proposals: tuple[Proposal, ...] = ()
    apps: tuple[AppFacts, ...] = ()
    kombu_transport: str = ""
    other_clients: tuple[str, ...] = ()
    live: tuple[float, ...] = ()
    idle_limit: float | None = None
    visit: Visit | None = None
    refusal: tuple[str, str] | None = None
    queues: Queues | tuple[str, str] | None = None

    @property
    def expected(self) -> tuple[Expected, ...]:
        """T of the program's connections: of those that it opened, else of those it will open."""
        opened = [Expected(t, "a connection of this process", "negotiated") for t in self.live]
        if without := self.activity.without_heartbeat:
            opened.append(Expected(0, f"connections opened in this process ({without})", ""))
        if opened:
            return tuple(opened)
        suggested = None if self.visit is None else self.visit.negotiated.suggested
        found = [(each, each.negotiated(suggested)) for each in self.proposals]
        return tuple(
            Expected(timeout, each.client, each.source)
            for each, timeout in found
            if timeout is not None
        )
