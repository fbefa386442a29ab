"""One run: hosts, clients and a directory, faults as planned, and the count."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.messaging.zmq.machines import SETUP, Network
from tests.stress.chaos.zmq.directory import Way, redis
from tests.stress.chaos.zmq.faults import FAULTS, Fault, FaultKind, Target
from tests.stress.chaos.zmq.hosts import Host
from tests.stress.chaos.zmq.invariant import Result, Violation, check_invariant
from tests.stress.chaos.zmq.journal import Journal
from tests.stress.chaos.zmq.plan import Step
from tests.stress.chaos.zmq.processes import Process
from wsgi_harness.engine.engine import Engine
from wsgi_harness.engine.images import Images
from wsgi_harness.errors import HarnessError

MODELS = ("native", "eventlet")

#: Messages of each kind that each client sends at the end.
_LAST = 3

#: Units of T until all has connected again after the last fault.
_SETTLED = 4.0


@dataclass(frozen=True)
class Setting:
    """What a run is made of.

    Attributes:
        heartbeat: T in seconds.
        hosts: how many.
        models: of the clients, one for each.
    """

    heartbeat: int
    seed: int
    hosts: int = 3
    models: Sequence[str] = MODELS

    @property
    def host_names(self) -> list[str]:
        return [f"host{number}" for number in range(1, self.hosts + 1)]

    @property
    def clients(self) -> list[str]:
        return [f"client-{model}" for model in self.models]

    @property
    def kinds(self) -> list[FaultKind]:
        """The faults that can be made on this machine."""
        alone = SETUP != "namespaces"
        return [kind for kind in FAULTS.values() if not (alone and kind.needs_network)]

    @property
    def environment(self) -> dict[str, str]:
        """Options of all processes."""
        return {
            "HBSHIM_ZMQ_HEARTBEAT_INTERVAL": str(self.heartbeat),
            "HBSHIM_ZMQ_ZMQ_TARGET_EXPIRE": str(1.5 * self.heartbeat),
        }


@dataclass
class Outcome:
    """What a run gave."""

    setting: Setting
    faults: list[Fault]
    result: Result
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)


class Testbed:
    """Machines with all that runs on them; a context manager."""

    def __init__(self, setting: Setting, engine: Engine, images: Images, logs: Path) -> None:
        self.setting = setting
        self._engine, self._images, self._logs = engine, images, logs
        self._stack = contextlib.ExitStack()
        self.journal = Journal()
        self.faults: list[Fault] = []
        self._failures: list[BaseException] = []
        self._hosts: dict[str, Host] = {}
        self._clients: dict[str, Process] = {}
        self._broken: list[Violation] = []
        names = [*setting.host_names, *setting.clients, ""]
        self._targets = {name: threading.Lock() for name in names}

    def __enter__(self) -> Testbed:
        with self._stack:
            setting = self.setting
            self._container, self._redis = self._stack.enter_context(
                redis(self._engine, self._images)
            )
            machines = self._stack.enter_context(Network(setting.hosts + 1)).machines
            urls = [self._stack.enter_context(Way(each, self._redis)).url for each in machines]
            for name, machine, url in zip(setting.host_names, machines[1:], urls[1:], strict=True):
                environment = setting.environment | {"HBSHIM_ZMQ_FANOUT_DS_ADDRESS": url}
                host = Host(name, machine, machines[0], environment, self.journal, self._logs)
                self._stack.callback(host.close)
                self._hosts[name] = host
            with ThreadPoolExecutor() as at_once:
                list(at_once.map(Host.start, self._hosts.values()))
            ipc = next(iter(self._hosts.values())).ipc
            for name, model in zip(setting.clients, setting.models, strict=True):
                environment = setting.environment | {"HBSHIM_ZMQ_FANOUT_DS_ADDRESS": urls[0]}
                client = Process(
                    *(machines[0], (model, "client"), name, name, ipc, environment),
                    *(self.journal, self._logs),
                )
                self._stack.callback(client.kill)
                self._clients[name] = client
            for client in self._clients.values():
                client.wait_for("started")
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def carry_out(
        self, steps: Sequence[Step], reported: Callable[[Step], None] = lambda step: None
    ) -> None:
        """Let the faults happen, each at its time; return when all are over.

        Raises:
            HarnessError: a fault could not be made or ended.
        """
        origin = time.monotonic()
        threads = []
        for step in steps:
            time.sleep(max(0.0, origin + step.at - time.monotonic()))
            reported(step)
            threads.append(threading.Thread(target=self._happen, args=(step,), daemon=True))
            threads[-1].start()
        for thread in threads:
            thread.join()
        for failure in self._failures:
            raise failure

    def _happen(self, step: Step) -> None:
        # On a busy machine the end of a fault may come later than planned.
        with self._targets[step.target]:
            self._carry_out(step)

    def _carry_out(self, step: Step) -> None:
        began = time.monotonic()
        try:
            if step.kind.target is Target.HOST:
                self._hosts[step.target].suffer(step.kind.name, step.lasts)
            elif step.kind.target is Target.CLIENT:
                self._on_client(step.kind.name, self._clients[step.target], step.lasts)
            else:
                self._on_directory(step.kind.name, step.lasts)
        except BaseException as failure:
            self._failures.append(failure)
        self.faults.append(Fault(step.kind, step.target, began, time.monotonic()))

    def _on_client(self, name: str, client: Process, seconds: float) -> None:
        if name == "client-paused":
            client.signal(signal.SIGSTOP)
            time.sleep(seconds)
            client.signal(signal.SIGCONT)
        elif name == "client-blocked":
            client.command("block", seconds=seconds)
            time.sleep(seconds)
        else:
            client.command("fork")
            line = client.wait_for("forked")
            if '"status": 0' not in line:
                text = f"a forked child of {client.label} got no answer: {line}"
                self._broken.append(Violation("stayed", client.label, text))

    def _on_directory(self, name: str, seconds: float) -> None:
        if name == "directory-empty":
            self._redis.command("FLUSHALL")
        elif name == "directory-killed":
            self._redis.kill()
            time.sleep(seconds)
            self._redis.start()
        else:
            for number in ("STOP", "CONT"):
                self._container.run("sh", "-c", f"kill -{number} $(pidof redis-server)")
                time.sleep(seconds if number == "STOP" else 0.0)

    def outcome(self) -> Outcome:
        """End the load, send the last messages, and check the invariant."""
        hosts, clients = self._hosts.values(), self._clients.values()
        for client in clients:
            client.command("rest")
        for client in clients:
            with contextlib.suppress(HarnessError):  # what has not ended is a violation
                client.wait_for("rested")
        time.sleep(_SETTLED * self.setting.heartbeat)
        self.faults.sort(key=lambda fault: fault.began)
        for client in clients:
            client.command("last", count=_LAST)
            with contextlib.suppress(HarnessError):
                client.wait_for("said")
        figures = {host.name: host.figures() for host in hosts}
        with ThreadPoolExecutor() as at_once:
            list(at_once.map(Host.stop, hosts))
        counted = sum(host.counted for host in hosts)
        result = check_invariant(
            self.journal, self.faults, self.setting.heartbeat, self.setting.host_names, counted
        )
        for name, each in figures.items():
            for figure in ("outstanding", "waiting"):
                if each.get(figure, 1):
                    text = f"{figure} is {each.get(figure)} in its proxy at the end"
                    result.violations.append(Violation("stayed", name, text))
        result.violations += self._broken
        return Outcome(self.setting, self.faults, result, figures)
