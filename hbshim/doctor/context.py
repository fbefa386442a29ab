"""Everything that the checks examine, gathered before the first check runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from hbshim.adapters.celery.apps import AppFacts
from hbshim.doctor.activity import Activity
from hbshim.doctor.amqp1_facts import Amqp1Facts
from hbshim.doctor.proposals import Proposal
from hbshim.doctor.zmq_facts import ZmqFacts
from hbshim.observe.loops import LoopStatus
from hbshim.runtime.detect import RuntimeReport


@dataclass(frozen=True)
class Negotiated:
    """What client and broker negotiated.

    Attributes:
        heartbeat: T, in seconds; 0 for none.
        asked: the T that the doctor requested.
        suggested: the T that the broker suggested.
        frame_max: bytes.
        channel_max: channels.
        product, version: from the broker's properties.
    """

    heartbeat: int
    asked: int
    suggested: int
    frame_max: int
    channel_max: int
    product: str
    version: str


@dataclass(frozen=True)
class ConnectionProbe:
    """A connection that the doctor opened, observed and closed.

    Attributes:
        peer: host and port.
        client: the client library, with its version.
        route: how a heartbeat is sent, "plain" or "tls".
        negotiated: what was negotiated.
        worker: the heartbeat worker.
        watched: how long the connection was observed, in seconds.
        sent_after: seconds until the first heartbeat was sent; None if none was.
        received_after: seconds until the first heartbeat arrived; None if none did.
        error_text: what ended or prevented the observation; "" if nothing did.
    """

    peer: str
    client: str
    route: str
    negotiated: Negotiated
    worker: str
    watched: float
    sent_after: float | None
    received_after: float | None
    error_text: str = ""


@dataclass(frozen=True)
class Queues:
    """The queues of one virtual host, as RabbitMQ's management API lists them.

    Attributes:
        seen: how many were examined.
        total: how many there are.
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
        why: what determined T; "" if nothing requested a heartbeat.
        adjusting: how a shorter T is had; "" for the usual way, the client's request.
    """

    timeout: float
    whose: str
    why: str
    adjusting: str = ""


@dataclass(frozen=True)
class Context:
    """One process, and the parameters of its examination.

    Attributes:
        runtime: the result of :func:`hbshim.detect`.
        installed: versions of the libraries that are loaded or installed, by name.
        ranges: the versions that hbshim supports, by name; empty if unknown.
        pythons: the Python versions that hbshim is tested with, as "3.12"; empty if unknown.
        tls: TLS is in use, in an open connection or by the URL.
        activity: what hbshim does and has done in this process.
        clients: "amqp" and "pika", those that the program uses.
        proposals: what each client of the program requests.
        apps: the program's Celery apps, as far as they are known.
        kombu_transport: module and class of the transport that kombu selects for the program's
            URL, if it is not py-amqp's; "" if it is, or if kombu is not in use.
        other_clients: AMQP clients that are loaded and that hbshim does not know.
        live: T of the connections that are kept alive in this process now.
        idle_limit: seconds after which a device on the path drops a silent connection.
        probe: the connection to the broker, if one was requested and succeeded.
        broker_error: why it failed, and the remedy.
        queues: what the management API listed; or why that failed, and the remedy.
        loops: the event loops that have connections which are kept alive.
        zmq: what was found out for a URL of the driver over ZeroMQ.
        amqp1: what was found out for a URL of the driver over AMQP 1.0.
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
    probe: ConnectionProbe | None = None
    broker_error: tuple[str, str] | None = None
    queues: Queues | tuple[str, str] | None = None
    loops: tuple[LoopStatus, ...] = ()
    zmq: ZmqFacts | None = None
    amqp1: Amqp1Facts | None = None

    @property
    def expected(self) -> tuple[Expected, ...]:
        """T of the program's connections: of the open ones, otherwise of those it will open."""
        opened = [Expected(t, "a connection of this process", "negotiated") for t in self.live]
        if without := self.activity.without_heartbeat:
            opened.append(Expected(0, f"connections opened in this process ({without})", ""))
        if opened:
            return tuple(opened)
        if self.amqp1 is not None and self.amqp1.error is None:
            return (_of_amqp1(self.amqp1),)
        suggested = None if self.probe is None else self.probe.negotiated.suggested
        found = [(each, each.negotiated(suggested)) for each in self.proposals]
        return tuple(
            Expected(timeout, each.client, each.source)
            for each, timeout in found
            if timeout is not None
        )


def _of_amqp1(facts: Amqp1Facts) -> Expected:
    if facts.peer_idle is None:
        return Expected(facts.timeout or 0, f"{facts.scheme}://", "heartbeat_interval")
    return Expected(
        facts.peer_idle,
        f"{facts.scheme}://",
        "the peer's idle-time-out",
        "Have the peer advertise a shorter idle-time-out (RabbitMQ: half of heartbeat in "
        "rabbitmq.conf; a router: half of idleTimeoutSeconds), or raise the idle limit.",
    )
