"""Over a router, a request is not run after its caller has left, and a caller learns of a death."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from hbshim import messaging
from hbshim.errors import CallTimeoutError, LostServerError, MessagingError
from hbshim.messaging.amqp1.connection import Connection
from hbshim.messaging.amqp1.driver import Amqp1Driver
from hbshim.messaging.amqp1.routed import RoutedIncoming
from tests.concurrency import MODEL
from tests.messaging.amqp1.routers import HOST, Router
from tests.messaging.conftest import LIMIT, at_once
from tests.messaging.endpoints import Endpoint
from tests.waiting import wait_until

Drivers = Callable[..., messaging.Driver]
Serve = Callable[..., messaging.Server]

CHECKOUT = Path(__file__).parents[3]

CALLERS, REQUESTS = 20, 10


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """What the server offers."""
    found = Endpoint()
    yield found
    found.release.set()


@pytest.fixture
def server(router_drivers: Drivers) -> Amqp1Driver:
    """The driver of the server."""
    found = router_drivers()
    assert isinstance(found, Amqp1Driver)
    return found


@pytest.fixture
def client(
    server: Amqp1Driver,
    router_drivers: Drivers,
    target: messaging.Target,
    serve: Serve,
    endpoint: Endpoint,
) -> messaging.Client:
    """A client of a server whose only worker is busy, until the endpoint is released."""
    serve(server, target, endpoint, workers=1)
    serve(router_drivers(), messaging.Target(f"{target.topic}-idle"), Endpoint())
    found = messaging.Client(router_drivers(), target, timeout=LIMIT)
    found.cast("hold", value="busy")
    wait_until(lambda: endpoint.asked, LIMIT)
    return found


# -- the time of the caller is over --------------------------------------------------------


def leave(client: messaging.Client) -> None:
    """Send many calls and casts that no server begins in time."""
    brief = client.prepare(timeout=0.1)

    def caller() -> None:
        for _ in range(REQUESTS):
            for send in (brief.call, brief.cast):
                with pytest.raises(MessagingError):
                    send("echo", value="late")

    assert at_once(*[caller] * CALLERS, limit=4 * LIMIT) == [None] * CALLERS
    # The router handles what a connection sends in its order: it knows of all of them now.
    idle = client.prepare(topic=f"{client.target.topic}-idle")
    assert idle.call("echo", value="barrier") == "barrier"


def test_a_request_whose_time_is_over_is_not_run(
    client: messaging.Client, endpoint: Endpoint
) -> None:
    """Neither what its server had received already, nor what waited in the router."""
    leave(client)
    endpoint.release.set()
    assert client.call("echo", value="last") == "last"
    assert endpoint.asked == ["busy", "last"]


def test_control_without_withdrawal_it_is_run(
    client: messaging.Client, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RoutedIncoming, "_withdrawn", lambda _self: False)
    leave(client)
    endpoint.release.set()
    assert client.call("echo", value="last") == "last"
    assert "late" in endpoint.asked


# -- the caller is interrupted ---------------------------------------------------------------


class CancelledCallError(BaseException):
    """What interrupts a caller."""


@contextmanager
def cancelled_when(condition: Callable[[], object]) -> Iterator[None]:
    """Interrupt what runs in the block once `condition` is true."""
    if MODEL == "native":
        main = threading.main_thread().ident
        assert main is not None

        def interrupt(*_arguments: Any) -> None:
            raise CancelledCallError

        before = signal.signal(signal.SIGUSR1, interrupt)

        def send() -> None:
            wait_until(condition, LIMIT)
            signal.pthread_kill(main, signal.SIGUSR1)

    else:
        before = None
        current = import_module("greenlet").getcurrent()

        def send() -> None:
            wait_until(condition, LIMIT)
            if MODEL == "eventlet":
                import_module("eventlet").kill(current, CancelledCallError)
            else:
                import_module("gevent").kill(current, CancelledCallError)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    try:
        with pytest.raises(CancelledCallError):
            yield
    finally:
        thread.join(LIMIT)
        if before is not None:
            signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("way", ["call", "cast"])
def test_a_request_whose_caller_is_interrupted_is_not_run(
    way: str,
    server: Amqp1Driver,
    client: messaging.Client,
    endpoint: Endpoint,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = threading.Event()
    write_whole = Connection._write_whole

    def note(*arguments: Any) -> None:
        write_whole(*arguments)
        written.set()

    monkeypatch.setattr(Connection, "_write_whole", note)
    with cancelled_when(written.is_set):
        getattr(client, way)("echo", value="cancelled")
    (listener,) = server._listeners

    def is_known() -> bool:
        connection = listener._connection
        assert connection is not None
        return any(held.withdrawn for held in list(connection._held.values()))

    wait_until(is_known, LIMIT)
    endpoint.release.set()
    assert client.call("echo", value="last") == "last"
    assert endpoint.asked == ["busy", "last"]


def test_a_method_that_runs_learns_that_its_caller_has_left(
    router_drivers: Drivers, target: messaging.Target, serve: Serve
) -> None:
    learned = threading.Event()

    class Patient:
        def work(self, request: messaging.Request) -> str:
            # By the clock of this process, its time is not over for long.
            wait_until(request.expired, LIMIT)
            learned.set()
            return "to no caller"

    serve(router_drivers(), target, Patient())
    client = messaging.Client(router_drivers(), target, timeout=0.3)
    with pytest.raises(CallTimeoutError):
        client.call("work")
    assert learned.wait(LIMIT)


# -- the server is gone ------------------------------------------------------------------------


class Process:
    """A server in a process of its own."""

    def __init__(self, router: Router, topic: str, acknowledge: str = "before") -> None:
        url = f"hbamqp://{HOST}:{router.port}/?login_method=ANONYMOUS"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.messaging.contract.server_process", topic, acknowledge],
            cwd=CHECKOUT,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT), "URL": url},
            stdout=subprocess.PIPE,
            text=True,
        )

    def wait_for(self, line: str) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline().strip() == line

    def kill(self) -> None:
        with self._process:
            self._process.kill()


@pytest.mark.skipif(MODEL != "native", reason="it reads from the process without waiting greenly")
def test_the_death_of_a_server_is_known_at_once(
    router: Router, router_drivers: Drivers, target: messaging.Target
) -> None:
    server = Process(router, target.topic)
    try:
        server.wait_for("started")
        client = messaging.Client(router_drivers(), target, timeout=2 * LIMIT)

        def call() -> float:
            with pytest.raises(LostServerError, match="may have run"):
                client.call("echo", value=1)
            return time.monotonic()

        def kill() -> float:
            server.wait_for("begun")
            server.kill()
            return time.monotonic()

        known, killed = at_once(call, kill)
        # Milliseconds, where the machine is not busy.
        assert known - killed < LIMIT / 2
    finally:
        server.kill()
