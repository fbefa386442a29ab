"""Routers and clients: each test runs with both of both."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.amqp1.peers import Program, running
from tests.proton import require_proton
from tests.wsgi_harness.router.clients import Backend, Client
from tests.wsgi_harness.router.engine_client import EngineBackend
from wsgi_harness.engine.engine import Engine, ensure_engine
from wsgi_harness.errors import HarnessError
from wsgi_harness.router.container import RouterContainer, ensure_router_image
from wsgi_harness.router.plan import Plan, RunningRouter, free_port
from wsgi_harness.router.process import RouterProcess

Starts = Callable[[Plan, int], RunningRouter]


class ProtonBackend:
    """One of the clients in a process with proton."""

    def __init__(self, program: Program, number: int) -> None:
        self._program = program
        self._number = number

    def do(self, command: str, **arguments: Any) -> Any:
        return json.loads(self._program.ask(json.dumps([self._number, command, arguments])))

    def snapshot(self) -> dict[str, Any]:
        found: dict[str, Any] = self.do("snapshot")
        return found

    def end(self) -> None:
        self.do("end")


@pytest.fixture(scope="session")
def proton() -> Path:
    """An interpreter with proton."""
    return require_proton()


@pytest.fixture(scope="session")
def router_engine() -> Engine:
    """A container engine, for a real router."""
    try:
        return ensure_engine()
    except HarnessError as error:
        pytest.skip(f"no real router: no containers here: {error}")


@pytest.fixture(scope="session", params=["test-router", "real-router"])
def starts(request: pytest.FixtureRequest) -> Starts:
    """Starts a router of one of the two kinds."""
    if request.param == "test-router":
        python = request.getfixturevalue("proton")
        return lambda plan, port: RouterProcess(plan, python=python)
    engine = request.getfixturevalue("router_engine")
    try:
        image = ensure_router_image(engine)
    except HarnessError as error:
        pytest.skip(f"no real router: {error}")
    return lambda plan, port: RouterContainer(engine, image, plan, port)


@pytest.fixture
def start(starts: Starts) -> Iterator[Callable[[Plan, int], RunningRouter]]:
    """Start a router with a plan; the port is one of its own, which is waited for."""
    with ExitStack() as stack:

        def start(plan: Plan, port: int) -> RunningRouter:
            router = starts(plan, port)
            stack.callback(router.stop)
            return router

        yield start


@pytest.fixture(scope="session")
def proton_clients(proton: Path) -> Iterator[Callable[[], Backend]]:
    """Makes clients on proton, in one process."""
    program = Path(__file__).parent / "proton_client.py"
    numbers = itertools.count(1)
    with running(proton, program, stops=False) as clients:
        yield lambda: ProtonBackend(clients, next(numbers))


@pytest.fixture(params=["engine", "proton"])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., Client]]:
    """Connect a client to a port."""
    with ExitStack() as stack:

        def connect(port: int, **options: Any) -> Client:
            backend: Backend = EngineBackend()
            if request.param == "proton":
                backend = request.getfixturevalue("proton_clients")()
            stack.callback(backend.end)
            return Client(backend, port, **options)

        yield connect


@pytest.fixture(scope="session")
def shared_router(starts: Starts) -> Iterator[int]:
    """The port of a router that has no virtual hosts; tests use addresses of their own."""
    port = free_port()
    plan = Plan(
        [
            ("router", {"mode": "standalone", "id": "shared"}),
            ("listener", {"host": "127.0.0.1", "port": port, "role": "normal"}),
            ("address", {"prefix": "multicast", "distribution": "multicast"}),
            ("address", {"prefix": "closest", "distribution": "closest"}),
            ("address", {"prefix": "closed", "distribution": "unavailable"}),
        ]
    )
    router = starts(plan, port)
    try:
        yield port
    finally:
        router.stop()


@pytest.fixture
def client(connect: Callable[..., Client], shared_router: int) -> Callable[[], Client]:
    """Connect another client to the shared router."""
    return lambda: connect(shared_router)
