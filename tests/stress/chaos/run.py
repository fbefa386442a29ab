"""One run: applications behind relays before a broker, faults as planned, and the count."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import pika

from tests.stress.chaos.actions import Actions
from tests.stress.chaos.faults import Fault, Scope
from tests.stress.chaos.invariant import Position, SessionResult, Violation, check_invariant
from tests.stress.chaos.journal import Journal
from tests.stress.chaos.plan import Step
from tests.stress.chaos.processes import Application
from tests.stress.chaos.workloads import WORKLOADS
from wsgi_harness.errors import HarnessError
from wsgi_harness.stack.broker import Broker
from wsgi_harness.stack.stack import Stack
from wsgi_harness.wire.relay import Relay

MODELS = ("native", "eventlet")
LIBRARIES = ("kombu", "pika")

_CONNECT_LIMIT = 60.0
#: Seconds that a session may take to come back after the last fault: a try to connect may
#: just have begun, and the kernel repeats a lost SYN after 1, 3 and 7 s.
_RETURN_LIMIT = 45.0
_QUEUE_EXPIRES = 900_000  # ms
#: The body of a message of the testbed's own; those of the applications are numbers.
_MARKER = b""


@dataclass(frozen=True)
class Setting:
    """What a run is made of.

    Attributes:
        heartbeat: T in seconds.
        zones: names of the relays.
        workloads: names of workloads; each process has a connection of each in each zone.
        shim: False runs the control.
    """

    heartbeat: int
    seed: int
    zones: Sequence[str]
    models: Sequence[str] = MODELS
    libraries: Sequence[str] = LIBRARIES
    workloads: Sequence[str] = tuple(WORKLOADS)
    shim: bool = True

    @property
    def processes(self) -> list[str]:
        """Names of the applications."""
        return [f"{model}-{library}" for model in self.models for library in self.libraries]

    @property
    def places(self) -> list[Position]:
        """Every session."""
        return [
            Position(f"{process}-{zone}-{workload}", zone, process, workload)
            for process in self.processes
            for zone in self.zones
            for workload in self.workloads
        ]


@dataclass
class Outcome:
    """What a run gave."""

    setting: Setting
    steps: Sequence[Step]
    faults: list[Fault] = field(default_factory=list)
    session_results: list[SessionResult] = field(default_factory=list)
    journals: dict[str, Journal] = field(default_factory=dict)

    @property
    def violations(self) -> list[Violation]:
        """Every breach of the invariant."""
        return [
            each for session_result in self.session_results for each in session_result.violations
        ]


class ChaosTestbed:
    """Relays and applications, and the faults that befall them; a context manager.

    Parameters:
        broker: where the relays lead.
        stack: the broker's, for faults of the broker.
        relays: relays of the caller's own by zone, in place of plain ones.
        logs: directory for the output of the applications; a temporary one when left out.

    Attributes:
        faults: what has happened so far.
    """

    def __init__(
        self,
        setting: Setting,
        broker: Broker,
        stack: Stack | None = None,
        relays: Mapping[str, Relay] | None = None,
        logs: Path | None = None,
    ) -> None:
        self.setting = setting
        self._broker = broker
        self._stack = stack
        self.zones: dict[str, Relay] = dict(relays or {})
        self.applications: dict[str, Application] = {}
        self.faults: list[Fault] = []
        self._logs = logs
        self._news = threading.Lock()
        self._targets: dict[str, threading.Lock] = {}
        self._failures: list[BaseException] = []
        self._on_exit = contextlib.ExitStack()

    def __enter__(self) -> ChaosTestbed:
        with contextlib.ExitStack() as on_error:
            for zone in self.setting.zones:
                if zone not in self.zones:
                    relay = Relay(self._broker.host, self._broker.amqp_port)
                    self.zones[zone] = on_error.enter_context(relay)
            self._declare_queues()
            if self._logs is None:
                self._logs = Path(on_error.enter_context(TemporaryDirectory(prefix="chaos-")))
            for model in self.setting.models:
                for library in self.setting.libraries:
                    application = self._start(model, library, self._logs)
                    on_error.callback(application.end)
                    self.applications[application.name] = application
            self.wait_until_connected()
            self._targets = {name: threading.Lock() for name in [*self.zones, *self.applications]}
            self._actions = Actions(
                self._stack, self.zones, self.applications, self._store_messages
            )
            self._on_exit = on_error.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._on_exit.close()

    def _start(self, model: str, library: str, logs: Path) -> Application:
        name = f"{model}-{library}"
        config = {
            "shim": self.setting.shim,
            "seed": self.setting.seed,
            "heartbeat": self.setting.heartbeat,
            "host": Relay.host,
            "user": self._broker.user,
            "password": self._broker.password,
            "connections": [
                {
                    "name": place.name,
                    "port": self.zones[place.zone].port,
                    "workload": place.workload,
                }
                for place in self.setting.places
                if place.process == name
            ],
        }
        return Application(model, library, config, logs)

    def wait_until_connected(self) -> None:
        """Return when every session has an open connection that is not given up.

        Raises:
            HarnessError: some have none after a minute.
        """
        deadline = time.monotonic() + _CONNECT_LIMIT
        while len(self._connected()) < len(self.setting.places):
            if time.monotonic() > deadline:
                raise HarnessError(
                    f"the applications could not connect within {_CONNECT_LIMIT:g} s"
                    f"{self._latest_error()}; is the machine busy, or the broker down?"
                )
            time.sleep(0.05)

    def _connected(self) -> set[str]:
        up: set[str] = set()
        for application in self.applications.values():
            application.check()
            for entry in list(application.journal.entries):
                if entry.kind == "up":
                    up.add(entry.name)
                elif entry.kind in ("lost", "down"):
                    up.discard(entry.name)
        return up

    def _latest_error(self) -> str:
        errors = [
            entry.error
            for application in self.applications.values()
            for entry in application.journal.entries
            if entry.error
        ]
        return f" ({errors[-1]})" if errors else ""

    def carry_out(
        self, steps: Sequence[Step], reported: Callable[[Step], None] = lambda step: None
    ) -> None:
        """Let the faults happen, each at its time; return when all are over.

        Raises:
            HarnessError: a fault could not be made or ended.
        """
        origin = time.monotonic()
        threads = []
        for step in sorted(steps, key=lambda step: step.at):
            time.sleep(max(0.0, origin + step.at - time.monotonic()))
            reported(step)
            thread = threading.Thread(target=self._happen, args=(step,), daemon=True)
            thread.start()
            threads.append(thread)
        for thread in threads:
            thread.join()
        for failure in self._failures:
            raise failure

    def _happen(self, step: Step) -> None:
        hit = sorted(self.zones) if step.kind.scope is Scope.BROKER else [step.target]
        try:
            with contextlib.ExitStack() as held:
                for name in hit:
                    held.enter_context(self._targets[name])
                began = time.monotonic()
                end = self._actions.begin(step.kind, step.target, step.lasts)
                effective = time.monotonic()
                time.sleep(step.lasts)
                ended = time.monotonic()
                end()
                healed = time.monotonic()
        except BaseException as failure:
            self._failures.append(failure)
            return
        with self._news:
            fault = Fault(step.kind, step.target, began, effective, ended, healed)
            self.faults.append(fault)

    def outcome(self, steps: Sequence[Step]) -> Outcome:
        """End the applications, count what arrived, and check the invariant."""
        for application in self.applications.values():
            application.send({"do": "end"})
        deadline = time.monotonic() + _RETURN_LIMIT
        for application in self.applications.values():
            application.wait(max(0.1, deadline - time.monotonic()))
        self._write_relayed()
        journals = {name: each.journal for name, each in self.applications.items()}
        arrived = self._count()
        places = self.setting.places
        heard = self._heard()
        session_results = check_invariant(
            self.setting.heartbeat, self.faults, places, journals, arrived, heard
        )
        return Outcome(self.setting, steps, self.faults, session_results, journals)

    def _heard(self) -> dict[tuple[str, int], list[float]]:
        """When each relay heard heartbeats of the broker, by the client's port."""
        to_monotonic = time.monotonic() - time.time()
        heard: dict[tuple[str, int], list[float]] = {}
        for name, relay in self.zones.items():
            ports = {event.connection: int(event.detail) for event in relay.seen("opened")}
            for event in relay.seen("heartbeat", "server"):
                key = (name, ports[event.connection])
                heard.setdefault(key, []).append(event.at + to_monotonic)
        return heard

    def _write_relayed(self) -> None:
        """Keep what the relays saw beside the journals, to find the cause of a violation."""
        assert self._logs is not None
        for name, relay in self.zones.items():
            lines = [json.dumps(dataclasses.asdict(event)) + "\n" for event in list(relay.events)]
            (self._logs / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")

    def _declare_queues(self) -> None:
        with self._channel() as channel:
            for place in self.setting.places:
                channel.queue_declare(
                    place.name, durable=True, arguments={"x-expires": _QUEUE_EXPIRES}
                )
                channel.queue_purge(place.name)

    def _store_messages(self) -> None:
        """Have each queue written to disk: before it confirms a message, it writes all of them."""
        persistent = pika.BasicProperties(delivery_mode=2)
        with self._channel() as channel:
            channel.confirm_delivery()
            for place in self.setting.places:
                channel.basic_publish("", place.name, _MARKER, persistent)

    def _count(self) -> dict[str, set[int]]:
        """The messages that lie in each queue; the queues are gone afterwards."""
        arrived: dict[str, set[int]] = {}
        with self._channel() as channel:
            for place in self.setting.places:
                left = channel.queue_declare(place.name, passive=True).method.message_count
                numbers = arrived.setdefault(place.name, set())
                while left:
                    for _, _, body in channel.consume(place.name, auto_ack=True):
                        if body != _MARKER:
                            numbers.add(int(body))
                        left -= 1
                        if not left:
                            break
                    channel.cancel()
                channel.queue_delete(place.name)
        return arrived

    @contextlib.contextmanager
    def _channel(self) -> Iterator[pika.adapters.blocking_connection.BlockingChannel]:
        broker = self._broker if self._stack is None else self._stack.broker
        connection = pika.BlockingConnection(
            pika.ConnectionParameters(
                broker.host,
                broker.amqp_port,
                credentials=pika.PlainCredentials(broker.user, broker.password),
            )
        )
        try:
            yield connection.channel()
        finally:
            connection.close()
