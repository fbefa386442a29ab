"""Every call, cast, submit and notify ends by its timeout, whatever fails meanwhile.

A property test: random faults, random timeouts. It runs for a few seconds here, and for as many as
the environment variable HBSHIM_DEADLINES_SECONDS says.
"""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hbshim.errors import MessagingError
from hbshim.messaging.amqp.driver import AmqpDriver
from hbshim.messaging.hosts import Host
from hbshim.messaging.notify import Notifier
from hbshim.messaging.rpc import Client
from hbshim.messaging.server import Server
from hbshim.messaging.target import Target
from tests.messaging.conftest import LIMIT, unique
from tests.messaging.endpoints import Endpoint
from tests.waiting import wait_until
from wsgi_harness.wire.relay import Relay

Serve = Callable[..., Server]

SECONDS = float(os.environ.get("HBSHIM_DEADLINES_SECONDS", "6"))

#: Seconds by which an operation may exceed its timeout.
MARGIN = 0.5
#: Seconds that a callback takes.
CALLBACK = 0.2

CALLERS = 6


class Machine:
    """Measures by how much this machine is late."""

    def __init__(self) -> None:
        self._late: list[tuple[float, float]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.is_set():
            began = time.monotonic()
            time.sleep(0.02)
            now = time.monotonic()
            self._late.append((now, now - began - 0.02))

    def lateness(self, since: float) -> float:
        """Seconds by which one thread was kept from running, summed over all times, `since`."""
        return sum(late for at, late in list(self._late) if at >= since)

    def end(self) -> None:
        self._ended.set()
        self._thread.join(LIMIT)


class Faults(threading.Thread):
    """Lets one thing after another go wrong."""

    def __init__(
        self, relay: Relay, broker: Host, driver: AmqpDriver, chance: random.Random
    ) -> None:
        super().__init__(daemon=True)
        self._broker = (broker.hostname, broker.port)
        self.ended = threading.Event()
        self.happened: list[str] = []
        self._relay, self._driver, self._chance = relay, driver, chance
        self._resolves = threading.Event()
        self._resolves.set()
        self._found = socket.getaddrinfo

    def getaddrinfo(self, *arguments: Any, **named: Any) -> Any:
        """In place of the resolver, for the clients; the relay dials an address."""
        if arguments[0] == "localhost":
            assert self._resolves.wait(LIMIT)
        return self._found(*arguments, **named)

    def run(self) -> None:
        ways = (
            self.deaf,
            self.swallow,
            self.reset,
            self.drop,
            self.slow,
            self.no_resolver,
            self.blocked,
            self.nothing,
        )
        try:
            while not self.ended.is_set():
                way = self._chance.choice(ways)
                self.happened.append(way.__name__)
                way(self._chance.uniform(0.05, 0.8))
                self.ended.wait(self._chance.uniform(0.0, 0.3))
        finally:
            self._resolves.set()

    def deaf(self, seconds: float) -> None:
        self._relay.deaf()
        self.ended.wait(seconds)
        self._relay.resume()

    def swallow(self, seconds: float) -> None:
        self._relay.deaf(swallow=True)
        self.ended.wait(seconds)
        self._relay.resume()

    def reset(self, _seconds: float) -> None:
        self._relay.reset()

    def drop(self, seconds: float) -> None:
        """New connections are accepted and closed."""
        host, port = self._broker
        self._relay.dial_to(host, 1)
        self._relay.reset()
        self.ended.wait(seconds)
        self._relay.dial_to(host, port)

    def slow(self, seconds: float) -> None:
        self._relay.slow(2000)
        self.ended.wait(seconds)
        self._relay.slow(None)

    def no_resolver(self, seconds: float) -> None:
        self._resolves.clear()
        self._relay.reset()
        self.ended.wait(seconds)
        self._resolves.set()

    def blocked(self, seconds: float) -> None:
        """As with connection.blocked: a memory or disk alarm."""
        blocked = [each.connection for each in self._all_sendings()]
        for connection in blocked:
            _block(connection, True)
        self.ended.wait(seconds)
        for connection in blocked:
            _block(connection, False)

    def nothing(self, seconds: float) -> None:
        self.ended.wait(seconds)

    def _all_sendings(self) -> list[Any]:
        state = self._driver._sender.pool._state
        sending = self._driver._callers.get()._sending
        used = [claim.entry for claim in list(state.checked_out.values())]
        entries = [*list(state.idle.values()), *used]
        pooled = [each.item for each in entries if each is not None]
        return pooled + ([sending] if sending is not None else [])


def _block(connection: Any, blocked: bool) -> None:
    connection._stream.library.blocked = blocked


@pytest.fixture
def relay(host: Host) -> Iterator[Relay]:
    with Relay(host.hostname, host.port) as relay:
        yield relay


class Operations:
    """Operations of several threads, each with a timeout of its own."""

    def __init__(self, driver: AmqpDriver, target: Target) -> None:
        self.machine = Machine()
        self.late: list[str] = []
        self.wrong: list[str] = []
        self.done = 0
        self._driver, self._target = driver, target
        self._until = time.monotonic() + SECONDS

    def run(self, chance: random.Random) -> None:
        """Do one operation after another, until the time is over."""
        while time.monotonic() < self._until:
            timeout = chance.uniform(0.05, 1.5)
            ways = self._ways(timeout)
            name = chance.choice(list(ways))
            began = time.monotonic()
            try:
                ways[name]()
            except MessagingError as error:
                outcome = f"{type(error).__name__}: {error}"
            except BaseException as error:
                self.wrong.append(f"{name}: {error!r}")
                raise
            else:
                outcome = "done"
            took = time.monotonic() - began
            self.done += 1
            # A callback is the caller's own.
            own = CALLBACK if name == "call with progress" else 0.0
            if took > timeout + MARGIN + own + self.machine.lateness(began):
                self.late.append(f"{name}(timeout={timeout:.2f}) took {took:.2f} s: {outcome}")

    def _ways(self, timeout: float) -> dict[str, Callable[[], object]]:
        client = Client(self._driver, self._target, timeout=timeout)
        notifier = Notifier(self._driver, unique("events"), "here", timeout=timeout)
        mandatory = client.prepare(mandatory=True)
        with_progress = client.prepare(on_progress=lambda _report: time.sleep(CALLBACK))
        return {
            "call": lambda: client.call("echo", value=1),
            "mandatory call": lambda: mandatory.call("echo", value=1),
            "call with progress": lambda: with_progress.call("count", to=1),
            "cast": lambda: client.cast("echo", value="x" * 20_000),
            "submit": lambda: client.submit("echo", value=1),
            "notify": lambda: notifier.info("event", 1),
        }


def test_every_operation_ends_by_its_timeout(
    drivers: Callable[..., AmqpDriver],
    serve: Serve,
    target: Target,
    host: Host,
    relay: Relay,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    serving = drivers()
    serve(serving, target, Endpoint(), workers=8)
    # By name: it is resolved for each connection.
    driver = drivers(Host("localhost", relay.port, host.username, host.password))
    faults = Faults(relay, host, driver, chance)
    monkeypatch.setattr(socket, "getaddrinfo", faults.getaddrinfo)
    operations = Operations(driver, target)
    faults.start()
    threads = [
        threading.Thread(target=operations.run, args=(random.Random(seed + number),), daemon=True)
        for number in range(CALLERS)
    ]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join(SECONDS + 2 * LIMIT)
            assert not thread.is_alive(), f"an operation hangs (seed {seed}: {faults.happened})"
    finally:
        faults.ended.set()
        faults.join(LIMIT)
        operations.machine.end()
    assert not operations.wrong
    assert not operations.late, f"seed {seed}, faults {faults.happened}"
    assert operations.done > CALLERS
    assert len(set(faults.happened)) > 1
    # Afterwards everything works again. A relay that swallowed bytes resets its connections after
    # the fault, and a call that is in such a socket is never sent again: it may have been run.
    wait_until(lambda: answers(Client(driver, target, timeout=5)), 2 * LIMIT)


def answers(client: Client) -> bool:
    try:
        return bool(client.call("echo", value="after") == "after")
    except MessagingError:
        return False
