"""A deployment that is migrated from RabbitMQ to a router and back, under load."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hbshim.doctor.phase_gate import Gate, evaluate
from hbshim.messaging.hybrid.phases import NAMES, Direction
from tests.stress.migration.invariant import KINDS, Result, check_invariant
from wsgi_harness.errors import HarnessError
from wsgi_harness.paths import CHECKOUT

SERVERS = ("host-1", "host-2")

#: Seconds for a service to start or stop, and for a gate to open; the machine may be busy.
LIMIT = 120.0


@dataclass(frozen=True)
class Urls:
    """Where the deployment's backends are.

    Attributes:
        rabbitmq, router: for RPC.
        notifications: RabbitMQ.
        management: its management API, with a login.
    """

    rabbitmq: str
    router: str
    notifications: str
    management: str


#: Where the servers receive from, in each phase.
RECEIVING = {
    "rabbitmq": ("rabbitmq",),
    "dual": ("rabbitmq", "router"),
    "cutover": ("rabbitmq", "router"),
    "draining": ("rabbitmq", "router"),
    "hybrid": ("router",),
}

#: Where the clients send to, when each phase has been entered from the one before, and back.
SENDING = {
    direction: dict(zip(NAMES, ("rabbitmq", "rabbitmq", cutover, "router", "router"), strict=True))
    for direction, cutover in (("forward", "router"), ("back", "rabbitmq"))
}


class Service:
    """One process; started again for each change of its configuration, as a service is."""

    def __init__(self, kind: str, name: str, journal: Path, threads: int) -> None:
        self._config = {"kind": kind, "name": name, "journal": str(journal), "threads": threads}
        self._process: subprocess.Popen[str] | None = None
        # It has imported everything, and waits for its configuration.
        self._next = _spawn()
        self._starts = 0

    def start(self, rpc: str, notifications: str, listen_also: list[str]) -> None:
        self._starts += 1
        config = {
            **self._config,
            "start": self._starts,
            "rpc": rpc,
            "notifications": notifications,
            "listen_also": listen_also,
        }
        self._process = process = self._next
        assert process.stdin is not None
        assert process.stdout is not None
        # By its standard input: the arguments of a process are for all to see.
        process.stdin.write(json.dumps(config) + "\n")
        process.stdin.flush()
        if process.stdout.readline() != "ready\n":
            raise HarnessError(f"{self._config['name']} did not start")
        self._next = _spawn()

    def stop(self) -> None:
        """Let it finish what it has begun."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        if process.wait(LIMIT):
            raise HarnessError(f"{self._config['name']} did not stop well")
        assert process.stdout is not None
        process.stdout.close()

    def kill(self) -> None:
        for process in (self._process, self._next):
            if process is not None:
                with process:
                    process.kill()


def _spawn() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.stress.migration.host"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=CHECKOUT,
        text=True,
    )


class Migration:
    """The deployment; a context manager.

    Parameters:
        urls: its backends.
        directory: for the journals.
        clients: how many.
        threads: of each client.
        interval: seconds for which a gate observes the senders.
        progress: called with what happens.
    """

    def __init__(
        self,
        urls: Urls,
        directory: Path,
        *,
        clients: int = 2,
        threads: int = 8,
        interval: float = 3.0,
        progress: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self._urls = urls
        self._directory = directory
        self._interval = interval
        self._say = progress
        self._names = (*SERVERS, *(f"client-{number + 1}" for number in range(clients)))
        self._servers = [
            Service("server", name, directory / f"{name}.journal", 0) for name in SERVERS
        ]
        self._clients = [
            Service("client", name, directory / f"{name}.journal", threads)
            for name in self._names[len(SERVERS) :]
        ]
        self.gates: list[Gate] = []

    def __enter__(self) -> Migration:
        try:
            self._set_servers("rabbitmq")
            self._set_clients("rabbitmq")
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self._kill()

    def _kill(self) -> None:
        for each in (*self._servers, *self._clients):
            each.kill()

    def go(self, direction: Direction, messages: int) -> None:
        """Go through all phases.

        Parameters:
            direction: to the router, or back.
            messages: of each kind, to send at least; a share of them in each phase.
        """
        names = NAMES if direction == "forward" else NAMES[::-1]
        target = self.count()
        for name, following in zip(names, (*names[1:], None), strict=True):
            target += -(-messages // len(names))
            self._wait_for(lambda: self.count() >= target, f"messages in {name}")  # noqa: B023
            self._say(f"{name}: {self.count()} messages of each kind so far")
            if following is not None:
                self._pass(name, direction)
                self._enter(name, following, direction)

    def _pass(self, name: str, direction: Direction) -> None:
        def is_open() -> bool:
            gate = evaluate(
                name,
                direction,
                router=self._urls.router,
                rabbitmq=self._urls.notifications,
                management=self._urls.management,
                interval=self._interval,
                timeout=LIMIT,
            )
            self.gates.append(gate)
            if not gate.is_open:
                self._say(f"{name}: not yet: {gate.missing}")
            return gate.is_open

        self._wait_for(is_open, f"the gate from {name}")

    def _enter(self, name: str, following: str, direction: Direction) -> None:
        """Change what differs between two phases, host by host."""
        self._say(f"{name} -> {following}")
        if RECEIVING[name] != RECEIVING[following]:
            self._set_servers(following)
        if SENDING[direction][name] != SENDING[direction][following]:
            self._set_clients(SENDING[direction][following])

    def _set_servers(self, phase: str) -> None:
        urls = [self._url(each) for each in RECEIVING[phase]]
        for each in self._servers:
            each.stop()
            each.start(urls[0], self._urls.notifications, urls[1:])

    def _set_clients(self, backend: str) -> None:
        for each in self._clients:
            each.stop()
            each.start(self._url(backend), self._urls.notifications, [])

    def _url(self, backend: str) -> str:
        return self._urls.router if backend == "router" else self._urls.rabbitmq

    def count(self) -> int:
        """Return how many messages of each kind were sent so far."""
        counts = dict.fromkeys(KINDS, 0)
        for line in self._lines(self._names[len(SERVERS) :]):
            if line.startswith("done "):
                counts[line.split(" ", 2)[1]] += 1
        return min(counts.values())

    def finish(self) -> Result:
        """Stop the load, wait until all is handled, and check the invariant."""
        for each in self._clients:
            each.stop()
        deadline = time.monotonic() + LIMIT
        result = check_invariant(self._lines(self._names))
        while (result.lost or result.missed) and time.monotonic() < deadline:
            time.sleep(0.2)
            result = check_invariant(self._lines(self._names))
        for each in self._servers:
            each.stop()
        return check_invariant(self._lines(self._names))

    def _lines(self, names: tuple[str, ...]) -> list[str]:
        lines: list[str] = []
        for name in names:
            path = self._directory / f"{name}.journal"
            if path.exists():
                text = path.read_text(encoding="utf-8")
                # What is being written is not counted yet.
                lines += text[: text.rfind("\n") + 1].splitlines()
        return lines

    def _wait_for(self, condition: Callable[[], bool], what: str) -> None:
        seen, deadline = self.count(), time.monotonic() + LIMIT
        while not condition():
            now = self.count()
            if now != seen:
                seen, deadline = now, time.monotonic() + LIMIT
            if time.monotonic() > deadline:
                raise HarnessError(f"no progress within {LIMIT:g} s: {what}")
            time.sleep(0.3)
