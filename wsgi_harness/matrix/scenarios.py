"""The matrix: every cell, the expected result, and the reason, written down before any run.

Pure data. Expectations come from earlier measurements or documentation (docs/regression.md). A run
that contradicts one is reported as unexpected; the table is corrected afterwards, never by the run.

Longer than others: one table, with all that its rows are made of.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from wsgi_harness.errors import HarnessError

Library = Literal[
    "kombu",
    "pika",
    "rabbit",
    "hbrabbit",
    "hbkombu",
    "hbpika",
    "aio-pika",
    "pika-asyncio",
    "pika-tornado",
    "celery",
    "proton",
    "amqp",
    "hbamqp",
    "hybrid",
]
Fate = Literal["closed", "alive"]

#: What an application uses by itself.
LIBRARIES: tuple[Library, ...] = ("kombu", "pika")
#: Drivers of oslo.messaging, by the scheme of the transport's URL; the first is its own.
SCHEMES: tuple[Library, ...] = ("rabbit", "hbrabbit", "hbkombu", "hbpika")
STOCK, *_OURS = SCHEMES
#: One process with two transports: RPC over AMQP 1.0, notifications over AMQP 0-9-1.
HYBRID: Library = "hybrid"

#: What an application uses in an event loop; the last has no heartbeats of its own there.
IN_LOOP: tuple[Library, ...] = ("aio-pika", "pika-asyncio", "pika-tornado", "celery")

#: Clients of AMQP 1.0 that an application uses by itself.
AMQP1_LIBRARIES: tuple[Library, ...] = ("proton",)
#: oslo.messaging's own driver over AMQP 1.0, which 15.0 has removed.
REMOVED: Library = "amqp"
#: hbshim's driver over AMQP 1.0.
OVER_AMQP1: Library = "hbamqp"

#: Paths of other versions of oslo.messaging in the image, beside the latest.
OSLO_PATHS = {"17.3": "/opt/oslo17", "14.9": "/opt/oslo14"}

#: Length of the silence, in T. A client that sends heartbeats but does not read gives up after 2 T,
#: RabbitMQ closes up to 3 T after the last byte, and one T is for a busy machine.
SILENCE = 6

#: How long the handler blocks the event loop in the cells with one, in T: longer than RabbitMQ
#: waits, and over when the silence ends.
BLOCKED = 5

#: RabbitMQ closes between 2 and 3 T after the client's last byte (measured; it checks once in T).
BROKER_TIMEOUT = (2, 3)

#: Accepted values of T in seconds. Below, the delays of a busy machine end healthy connections.
HEARTBEATS = (2, 600)

#: Latency probes in T, of a green and a native thread in each cell.
PROBES = 16

#: Messages that the second request publishes.
MESSAGES = 20


class UnknownScenarioError(HarnessError):
    """No scenario has this name, or matches this pattern."""


@dataclass(frozen=True)
class Deployment:
    """The setup of the server and the process.

    Attributes:
        libraries: those that can hold a connection there.
        server: Apache with mod_wsgi, or uvicorn, which runs an event loop of asyncio. The rest up
            to `green` is about Apache.
        mpm: Apache's multi-processing module.
        mode: mod_wsgi's mode.
        interpreter: Python's main one (``%{GLOBAL}``), or a sub-interpreter.
        green: the green library, which is imported in any case.
        patched: whether it patches the standard library.
        tls: whether the cell connects over TLS, and so bypasses the relay.
        threads: request threads in the process; always one in prefork embedded.
        oslo: the version of oslo.messaging whose transports hold the connections; empty if the
            application holds its one connection itself.
        rabbitmq: RabbitMQ's minor version; empty for that of the run.
        loop: uvicorn's event loop.
        django: whether the application is an async view of Django; a bare one if not.
        protocol: the version of AMQP.
        router: whether the cell connects to the test router instead of RabbitMQ; a hybrid one for
            RPC only.
    """

    key: str
    title: str
    libraries: tuple[Library, ...] = LIBRARIES
    server: Literal["apache", "uvicorn"] = "apache"
    mpm: Literal["prefork", "event"] = "prefork"
    mode: Literal["embedded", "daemon"] = "embedded"
    interpreter: Literal["main", "sub"] = "main"
    green: Literal["eventlet", "gevent"] = "eventlet"
    patched: bool = True
    tls: bool = False
    threads: int = 1
    oslo: Literal["", "14.9", "17.3", "18.3"] = ""
    rabbitmq: Literal["", "3.10", "4.3"] = ""
    loop: Literal["asyncio", "uvloop"] = "asyncio"
    django: bool = False
    protocol: Literal["0-9-1", "1.0"] = "0-9-1"
    router: bool = False


@dataclass(frozen=True)
class Method:
    """One keepalive strategy, or none.

    Attributes:
        keepalive: what runs in the cell beside the application, see ``keepalive.STARTERS``.
        shim: the options of ``hbshim.install()``, or None if it is not called.
        driver: options of oslo.messaging's driver.
    """

    key: str
    title: str
    what: str
    keepalive: str = "none"
    shim: Mapping[str, str] | None = None
    driver: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Scenario:
    """One cell of the matrix.

    Attributes:
        expected: the expected state of the connection at the end of the silence.
        reason: why that is expected.
        warns: hbshim must have recorded a warning about the user's choice.
    """

    method: Method
    library: Library
    deployment: Deployment
    expected: Fate
    reason: str
    warns: bool = False

    @property
    def name(self) -> str:
        """For example ``none-kombu``, ``hbshim-auto-pika-daemon``."""
        parts = [self.method.key, self.library]
        return "-".join(
            parts if self.deployment is DEPLOYMENTS[0] else [*parts, self.deployment.key]
        )

    @property
    def is_control(self) -> bool:
        """Whether the cell runs without hbshim."""
        return self.method.shim is None and self.library not in (*_OURS, HYBRID, OVER_AMQP1)

    @property
    def is_green(self) -> bool:
        """Whether a green thread or a task sends the heartbeats: none without its hub or loop."""
        if self.method.keepalive == "driver":
            return self.deployment.patched and self.is_control and not self.method.driver
        return self.method.keepalive in ("green", "tpool", "loop")

    @property
    def is_fix(self) -> bool:
        """Whether hbshim must keep the connection: not if the user forced a worker that cannot."""
        return not self.is_control and self.expected == "alive"


DEPLOYMENTS = (
    Deployment("prefork", "prefork, embedded, monkey-patched"),
    Deployment("unpatched", "prefork, embedded, nothing patched", patched=False),
    Deployment("daemon", "prefork, daemon mode, monkey-patched", mode="daemon", threads=4),
    Deployment("event", "event MPM, embedded, monkey-patched", mpm="event", threads=4),
    Deployment("gevent", "prefork, embedded, patched by gevent", green="gevent"),
    Deployment("sub", "prefork, embedded, in a sub-interpreter, monkey-patched", interpreter="sub"),
    Deployment("tls", "prefork, embedded, monkey-patched, over TLS", tls=True),
    Deployment("rabbitmq310", "prefork, embedded, monkey-patched, RabbitMQ 3.10", rabbitmq="3.10"),
    Deployment("rabbitmq43", "prefork, embedded, monkey-patched, RabbitMQ 4.3", rabbitmq="4.3"),
    Deployment(
        "oslo", "oslo.messaging 18.3 in prefork, embedded, monkey-patched", SCHEMES, oslo="18.3"
    ),
    Deployment(
        "oslo-unpatched",
        "oslo.messaging 18.3 in prefork, embedded, nothing patched",
        SCHEMES,
        patched=False,
        oslo="18.3",
    ),
    Deployment(
        "hybrid",
        "oslo.messaging 18.3, RPC over AMQP 1.0; prefork, embedded, monkey-patched",
        (HYBRID,),
        oslo="18.3",
    ),
    Deployment(
        "hybrid-router",
        "oslo.messaging 18.3, RPC over a router; prefork, embedded, monkey-patched",
        (HYBRID,),
        oslo="18.3",
        router=True,
    ),
    Deployment(
        "oslo17", "oslo.messaging 17.3 in prefork, embedded, monkey-patched", SCHEMES, oslo="17.3"
    ),
    Deployment(
        "uvicorn",
        "uvicorn, an ASGI application that blocks its event loop",
        IN_LOOP,
        server="uvicorn",
        patched=False,
    ),
    Deployment(
        "uvicorn-tls",
        "uvicorn, the same over TLS",
        IN_LOOP[:1],
        server="uvicorn",
        patched=False,
        tls=True,
    ),
    Deployment(
        "uvloop",
        "uvicorn on uvloop, the same",
        IN_LOOP[:1],
        server="uvicorn",
        patched=False,
        loop="uvloop",
    ),
    Deployment(
        "django",
        "uvicorn, an async view of Django that blocks its event loop",
        IN_LOOP[:1],
        server="uvicorn",
        patched=False,
        django=True,
    ),
    Deployment(
        "amqp1",
        "AMQP 1.0 on RabbitMQ; prefork, embedded, monkey-patched",
        AMQP1_LIBRARIES,
        protocol="1.0",
    ),
    Deployment(
        "amqp1-unpatched",
        "AMQP 1.0 on RabbitMQ; prefork, embedded, nothing patched",
        AMQP1_LIBRARIES,
        protocol="1.0",
        patched=False,
    ),
    Deployment(
        "amqp1-gevent",
        "AMQP 1.0 on RabbitMQ; prefork, embedded, patched by gevent",
        AMQP1_LIBRARIES,
        protocol="1.0",
        green="gevent",
    ),
    Deployment(
        "router",
        "AMQP 1.0 on a router; prefork, embedded, monkey-patched",
        AMQP1_LIBRARIES,
        protocol="1.0",
        router=True,
    ),
    Deployment(
        "oslo14",
        "oslo.messaging 14.9 on a router; prefork, embedded, monkey-patched",
        (REMOVED,),
        oslo="14.9",
        protocol="1.0",
        router=True,
    ),
    Deployment(
        "oslo-amqp1",
        "oslo.messaging 18.3, AMQP 1.0 on RabbitMQ; prefork, embedded, monkey-patched",
        (OVER_AMQP1,),
        oslo="18.3",
        protocol="1.0",
    ),
    Deployment(
        "oslo-router",
        "oslo.messaging 18.3 on a router; prefork, embedded, monkey-patched",
        (OVER_AMQP1,),
        oslo="18.3",
        protocol="1.0",
        router=True,
    ),
    Deployment(
        "oslo-router-unpatched",
        "oslo.messaging 18.3 on a router; prefork, embedded, nothing patched",
        (OVER_AMQP1,),
        oslo="18.3",
        protocol="1.0",
        router=True,
        patched=False,
    ),
    Deployment(
        "oslo-router-gevent",
        "oslo.messaging 18.3 on a router; prefork, embedded, patched by gevent",
        (OVER_AMQP1,),
        oslo="18.3",
        protocol="1.0",
        router=True,
        green="gevent",
    ),
)

METHODS = (
    Method("none", "none", "Nothing is called between two requests."),
    Method(
        "green",
        "green thread",
        "eventlet.spawn or gevent.spawn: the library's heartbeat call every T/4.",
        keepalive="green",
    ),
    Method(
        "tpool",
        "tpool",
        "A green thread has the same call executed by eventlet.tpool.",
        keepalive="tpool",
    ),
    Method(
        "native",
        "native thread",
        "oslo.messaging's heartbeat_in_pthread as first proposed: the call from a native thread.",
        keepalive="native",
    ),
    Method(
        "native-drained",
        "native thread that reads",
        "The same as released: the thread also drains events for 1 ms after each call.",
        keepalive="native-drained",
    ),
    Method(
        "own",
        "the library's own",
        "The library's own heartbeats, from a task or a timer of the event loop.",
        keepalive="loop",
    ),
    Method("hbshim-auto", "hbshim", "hbshim.install() and nothing else.", shim={}),
    Method(
        "hbshim-pthread",
        "hbshim, pthread forced",
        'hbshim.install(worker="pthread").',
        shim={"worker": "pthread"},
    ),
    Method(
        "hbshim-greenthread",
        "hbshim, greenthread forced",
        'hbshim.install(worker="greenthread"), against the detector\'s advice.',
        shim={"worker": "greenthread"},
    ),
    Method(
        "hbshim-tpool",
        "hbshim, tpool forced",
        'hbshim.install(worker="tpool"), against the detector\'s advice.',
        shim={"worker": "tpool"},
    ),
    Method(
        "stock",
        "the driver",
        "oslo.messaging's own heartbeat thread, which is green where threading is patched.",
        keepalive="driver",
    ),
    Method(
        "stock-pthread",
        "the driver, heartbeat_in_pthread",
        "oslo.messaging's own heartbeat thread, made native by the option as it was released.",
        keepalive="driver",
        driver={"heartbeat_in_pthread": "true"},
    ),
    Method(
        "hbshim",
        "hbshim's driver",
        "A transport URL with a scheme of hbshim's, and nothing else.",
        keepalive="driver",
    ),
)

_NOBODY = "Nothing sends heartbeats, so the broker misses them."
_PARKED = (
    "No green thread runs between two requests: nothing switches to the hub after the handler "
    "has returned, so the heartbeat call is never made."
)
_POOLED = (
    "The pool's threads are native, but the green thread that would hand them the call never runs."
)
_UNREAD = (
    "The native thread sends, but py-amqp counts only what was read: after 2 T it raises "
    "“Too many heartbeats missed”, the thread ends, and the broker closes 2 to 3 T later."
)
_READS = (
    "A native thread runs, and it reads, so neither side misses the other in this quiet process. "
    "Under load it is not safe: two threads share one connection."
)
_BLOCKED = (
    "The library sends heartbeats from a task or a timer of the event loop, and the handler blocks "
    "the loop."
)
_SENDS = "hbshim sends heartbeats on the wire from its own native thread, beneath the client."
_ENCRYPTS = (
    "hbshim sends heartbeats through the connection's TLS session, from a native thread, with one "
    "thread at a time in the session."
)
_FORCED = (
    "The user forced a worker that runs in the parked hub. hbshim obeys, warns, and records "
    "that the worker is late."
)
_DRIVER_PARKED = (
    "The driver's heartbeat thread is green, and so is the one that waits for replies: both stand "
    "in the parked hub."
)
_DRIVER_NATIVE = (
    "Nothing is patched, so the driver's heartbeat thread and the one that waits for replies are "
    "native and run between two requests: here the stock driver needs no help."
)
_DRIVER_PTHREAD = (
    "The option makes the heartbeat threads native, and by a replaced global the one that waits "
    "for replies, too; all of them read. In a quiet process that holds; through a broker's restart "
    "under load it hung, and it was removed."
)
_DRIVER_SENDS = (
    "hbshim sends heartbeats on every connection of the driver, from its own native thread."
)
_BOTH_SENT = (
    "The process holds both transports: hbamqp:// for RPC, hbrabbit:// for notifications. hbshim "
    "sends the heartbeats of both protocols from one native thread."
)
_LOOP_STOPS = (
    "proton sends empty frames only while its loop runs, which nothing does between two requests."
)
_IO_PARKED = (
    "The driver's I/O thread, which runs proton, is green: it stands in the parked hub, and the "
    "router closes after its idle timeout."
)

_AMQP1 = tuple(each.key for each in DEPLOYMENTS if each.protocol == "1.0" and not each.oslo)
_OSLO_AMQP1 = tuple(each.key for each in DEPLOYMENTS if OVER_AMQP1 in each.libraries)

# (method, libraries, deployments, expected, reason)
_TABLE: tuple[tuple[str, Sequence[Library], Sequence[str], Fate, str], ...] = (
    (
        "none",
        LIBRARIES,
        tuple(
            each.key
            for each in DEPLOYMENTS
            if not each.oslo and each.server == "apache" and each.protocol == "0-9-1"
        ),
        "closed",
        _NOBODY,
    ),
    ("green", LIBRARIES, ("prefork", "unpatched", "gevent"), "closed", _PARKED),
    ("tpool", LIBRARIES, ("prefork", "unpatched"), "closed", _POOLED),
    ("native", ("kombu",), ("prefork", "unpatched"), "closed", _UNREAD),
    ("native", ("pika",), ("prefork", "unpatched"), "alive", _READS),
    ("native-drained", ("kombu",), ("prefork", "unpatched"), "alive", _READS),
    ("none", ("celery",), ("uvicorn",), "closed", _NOBODY),
    ("own", IN_LOOP[:3], ("uvicorn",), "closed", _BLOCKED),
    ("own", IN_LOOP[:1], ("uvicorn-tls", "uvloop", "django"), "closed", _BLOCKED),
    ("hbshim-auto", IN_LOOP, ("uvicorn",), "alive", _SENDS),
    ("hbshim-auto", IN_LOOP[:1], ("uvloop", "django"), "alive", _SENDS),
    ("hbshim-auto", IN_LOOP[:1], ("uvicorn-tls",), "alive", _ENCRYPTS),
    ("hbshim-auto", LIBRARIES, ("prefork", "unpatched", "daemon", "event"), "alive", _SENDS),
    ("hbshim-auto", LIBRARIES, ("gevent", "sub"), "alive", _SENDS),
    ("hbshim-auto", LIBRARIES, ("rabbitmq310", "rabbitmq43"), "alive", _SENDS),
    ("hbshim-auto", LIBRARIES, ("tls",), "alive", _ENCRYPTS),
    ("hbshim-pthread", LIBRARIES, ("prefork",), "alive", _SENDS),
    ("hbshim-greenthread", LIBRARIES, ("prefork",), "closed", _FORCED),
    ("hbshim-tpool", LIBRARIES, ("prefork",), "closed", _FORCED),
    ("stock", (STOCK,), ("oslo", "oslo17"), "closed", _DRIVER_PARKED),
    ("stock", (STOCK,), ("oslo-unpatched",), "alive", _DRIVER_NATIVE),
    ("stock-pthread", (STOCK,), ("oslo17",), "alive", _DRIVER_PTHREAD),
    ("hbshim", _OURS, ("oslo", "oslo-unpatched", "oslo17"), "alive", _DRIVER_SENDS),
    ("hbshim", (HYBRID,), ("hybrid", "hybrid-router"), "alive", _BOTH_SENT),
    ("none", AMQP1_LIBRARIES, _AMQP1, "closed", _LOOP_STOPS),
    ("hbshim-auto", AMQP1_LIBRARIES, _AMQP1, "alive", _SENDS),
    ("stock", (REMOVED,), ("oslo14",), "closed", _IO_PARKED),
    ("hbshim-auto", (REMOVED,), ("oslo14",), "alive", _DRIVER_SENDS),
    ("hbshim", (OVER_AMQP1,), _OSLO_AMQP1, "alive", _DRIVER_SENDS),
)


def _expand() -> tuple[Scenario, ...]:
    methods = {method.key: method for method in METHODS}
    deployments = {deployment.key: deployment for deployment in DEPLOYMENTS}
    return tuple(
        Scenario(
            methods[method],
            library,
            deployments[deployment],
            expected,
            reason,
            warns=reason is _FORCED,
        )
        for deployment in deployments
        for method, libraries, where, expected, reason in _TABLE
        for library in libraries
        if deployment in where
    )


SCENARIOS = _expand()


def select(patterns: Sequence[str]) -> tuple[Scenario, ...]:
    """Return the scenarios whose name matches any of `patterns`, in the table's order.

    Parameters:
        patterns: names or shell globs; none means all.

    Raises:
        UnknownScenarioError: a pattern matches nothing.
    """
    names = [scenario.name for scenario in SCENARIOS]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise UnknownScenarioError(
                f"no scenario matches {pattern!r}; `python -m wsgi_harness --list` shows them all"
            )
    return tuple(
        scenario
        for scenario in SCENARIOS
        if not patterns or any(fnmatch.fnmatchcase(scenario.name, glob) for glob in patterns)
    )


def orders(
    scenario: Scenario,
    heartbeat: int,
    address: tuple[str, int],
    notifications: tuple[str, int] | None = None,
) -> dict[str, Any]:
    """Return the configuration of the cell's WSGI script, its environment variable CELL.

    Parameters:
        scenario: the cell.
        heartbeat: T, in seconds.
        address: host and port by which the cell reaches the broker.
        notifications: the same, of another broker for its notifications.
    """
    return {
        "name": scenario.name,
        "library": scenario.library,
        "keepalive": scenario.method.keepalive,
        "green": scenario.deployment.green,
        "patched": scenario.deployment.patched,
        "router": scenario.deployment.router,
        "tls": scenario.deployment.tls,
        "django": scenario.deployment.django,
        "block": BLOCKED * heartbeat,
        "shim": None if scenario.method.shim is None else dict(scenario.method.shim),
        "reports": not scenario.is_control,
        "driver": _driver(scenario) if scenario.deployment.oslo else None,
        "heartbeat": heartbeat,
        "probe_interval": heartbeat / PROBES,
        "queue": queue_of(scenario),
        "host": address[0],
        "port": address[1],
        "notifications": notifications,
    }


def _driver(scenario: Scenario) -> dict[str, Any]:
    path = OSLO_PATHS.get(scenario.deployment.oslo)
    return {"path": [] if path is None else [path], "options": dict(scenario.method.driver)}


def queue_of(scenario: Scenario) -> str:
    """Return the queue that receives the cell's messages; with oslo.messaging, the topic."""
    return f"cell-{scenario.name}"
