"""The phases of a migration from RabbitMQ to a router, and the gates between them.

Each phase is safe to stay in. A deployment goes through the rows downwards, and rolls back through
the same rows upwards. A gate is what must be true before a step: it is a function of what the
doctor has observed, and returns what is still in the way, each with the name of a host, a topic or
a queue. Nothing here asks a broker, and nothing is deleted at one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from hbshim.errors import OptionError

Direction: TypeAlias = Literal["forward", "back"]


@dataclass(frozen=True)
class Server:
    """A connection that consumes RPC at RabbitMQ.

    Attributes:
        name: of its host and program.
        version: of hbshim, which it announces; None: it announces none.
    """

    name: str
    version: str | None


@dataclass(frozen=True)
class Facts:
    """What was observed of both sides, at one time or over one interval.

    Attributes:
        servers: the consumers of RPC at RabbitMQ.
        consumers: how many of them each topic has at RabbitMQ.
        waiting: messages that are ready or unacknowledged, by RPC or reply queue.
        publishers: those that have sent RPC to RabbitMQ during the interval.
        router: problems with the router: it does not answer, or a probe failed.
        receivers: how many servers each topic has at the router.
        senders: the topics that RPC was sent to over the router during the interval.
        undelivered: messages that the router holds or that are not settled, by topic.
    """

    servers: tuple[Server, ...] = ()
    consumers: Mapping[str, int] = field(default_factory=dict)
    waiting: Mapping[str, int] = field(default_factory=dict)
    publishers: tuple[str, ...] = ()
    router: tuple[str, ...] = ()
    receivers: Mapping[str, int] = field(default_factory=dict)
    senders: tuple[str, ...] = ()
    undelivered: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Condition:
    """A part of a gate; docs/hybrid.md is generated from these.

    Attributes:
        name: as the doctor shows it.
        meaning: what must be true.
        missing: returns what is in the way.
        over_interval: it needs facts of a whole interval.
    """

    name: str
    meaning: str
    missing: Callable[[Facts], list[str]]
    over_interval: bool = False


@dataclass(frozen=True)
class Phase:
    """A row of the table.

    Attributes:
        servers: where servers receive from.
        clients: where clients send to.
        forward: the gate to the next phase; empty in the last one.
        back: the gate to the phase before; empty in the first one.
    """

    name: str
    servers: str
    clients: str
    forward: tuple[Condition, ...]
    back: tuple[Condition, ...]


def _old_servers(facts: Facts) -> list[str]:
    return [
        f"{each.name} announces no version of hbshim: update it"
        for each in facts.servers
        if each.version is None
    ]


def _router_problems(facts: Facts) -> list[str]:
    return list(facts.router)


def _fewer(wanted: Mapping[str, int], found: Mapping[str, int], of: str, where: str) -> list[str]:
    return [
        f"topic {topic}: {found.get(topic, 0)} of {count} {of} {where}"
        for topic, count in sorted(wanted.items())
        if found.get(topic, 0) < count
    ]


def _missing_at_router(facts: Facts) -> list[str]:
    return _fewer(facts.consumers, facts.receivers, "servers receive from", "the router")


def _missing_at_rabbitmq(facts: Facts) -> list[str]:
    return _fewer(facts.receivers, facts.consumers, "servers consume from", "RabbitMQ")


def _publishers(facts: Facts) -> list[str]:
    return [f"{each} sends RPC to RabbitMQ" for each in facts.publishers]


def _waiting(facts: Facts) -> list[str]:
    return [
        f"queue {queue} has {count} messages"
        for queue, count in sorted(facts.waiting.items())
        if count
    ]


def _senders(facts: Facts) -> list[str]:
    return [f"clients send to topic {each} over the router" for each in facts.senders]


def _undelivered(facts: Facts) -> list[str]:
    return [
        f"topic {topic} has {count} messages at the router that are not settled"
        for topic, count in sorted(facts.undelivered.items())
        if count
    ]


KNOWN = Condition(
    "servers-know-router",
    "every server at RabbitMQ announces a version of hbshim, so that it has `hbamqp://`",
    _old_servers,
)
ROUTER = Condition(
    "router-answers",
    "the router answers, and the probes of login, TLS and policies pass",
    _router_problems,
)
AT_ROUTER = Condition(
    "servers-at-router",
    "each topic has as many servers at the router as it has consumers at RabbitMQ",
    _missing_at_router,
)
AT_RABBITMQ = Condition(
    "servers-at-rabbitmq",
    "each topic has as many consumers at RabbitMQ as it has servers at the router",
    _missing_at_rabbitmq,
)
NO_PUBLISHER = Condition(
    "no-publisher-at-rabbitmq",
    "no client has published to an RPC exchange of RabbitMQ during the interval",
    _publishers,
    over_interval=True,
)
DRAINED = Condition(
    "rabbitmq-drained",
    "RPC queues of RabbitMQ, and the reply queues of clients that are connected, have no message "
    "that is ready or unacknowledged",
    _waiting,
)
NO_SENDER = Condition(
    "no-sender-at-router",
    "no client has sent RPC over the router during the interval",
    _senders,
    over_interval=True,
)
SETTLED = Condition(
    "router-settled",
    "the router has no RPC that is undelivered or not settled",
    _undelivered,
)

#: In the order of a migration.
PHASES = (
    Phase("rabbitmq", "RabbitMQ", "RabbitMQ", (KNOWN, ROUTER), ()),
    Phase("dual", "both", "RabbitMQ", (ROUTER, AT_ROUTER), (NO_SENDER, SETTLED)),
    Phase("cutover", "both", "either, client by client", (ROUTER, NO_PUBLISHER), (NO_SENDER,)),
    Phase("draining", "both", "router", (ROUTER, NO_PUBLISHER, DRAINED), (AT_RABBITMQ,)),
    Phase("hybrid", "router, and the store for `submit`", "router", (), (KNOWN,)),
)

NAMES = tuple(phase.name for phase in PHASES)

CONDITIONS = tuple(
    dict.fromkeys(each for phase in PHASES for each in (*phase.forward, *phase.back))
)


def gate(name: str, direction: Direction) -> tuple[Condition, ...]:
    """Return the conditions for leaving a phase.

    Parameters:
        name: of the phase in which the deployment is.
        direction: to the next phase, or back to the one before.

    Raises:
        OptionError: there is no such phase, or none in this direction.
    """
    for phase in PHASES:
        if phase.name == name:
            found = phase.forward if direction == "forward" else phase.back
            if not found:
                raise OptionError(f"{name} is the last phase in this direction; there is no gate")
            return found
    raise OptionError(f"there is no phase {name!r}; use one of {', '.join(NAMES)}")


def following(name: str, direction: Direction) -> str:
    """Return the name of the phase that a gate leads to."""
    return NAMES[NAMES.index(name) + (1 if direction == "forward" else -1)]
