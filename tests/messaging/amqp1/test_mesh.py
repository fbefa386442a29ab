"""Two routers of a mesh, of which one is killed under load."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from hbshim import messaging
from hbshim.errors import CallTimeoutError, LostServerError, MessagingError
from tests.concurrency import needs_os_threads
from tests.messaging.amqp1.routers import HOST, plan
from tests.messaging.conftest import LIMIT
from tests.proton import require_proton
from wsgi_harness.router.plan import Plan, free_port
from wsgi_harness.router.process import RouterProcess

pytestmark = [pytest.mark.alone, needs_os_threads]

CALLERS = 40
#: Seconds of one call, and of the load before and after the router is killed.
TIMEOUT, BEFORE, AFTER = 4.0, 2.0, 8.0

#: What errors say that calls of the router that is killed may end with.
NAMED = re.compile("server .* is gone; it may have run it|it was sent, but not answered")


class Counting:
    """Counts how often it runs each request."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.runs: Counter[str] = Counter()
        self._lock = threading.Lock()

    def work(self, _request: messaging.Request, number: str) -> str:
        with self._lock:
            self.runs[number] += 1
        time.sleep(0.02)
        return f"{number} {self.name}"


@dataclass
class Mesh:
    """Two routers, and the URL of a client that begins with the first or the second."""

    routers: list[RouterProcess]
    ports: list[int]

    def url(self, first: int) -> str:
        hosts = [f"{HOST}:{self.ports[first]}", f"{HOST}:{self.ports[1 - first]}"]
        return f"hbamqp://{','.join(hosts)}/?login_method=ANONYMOUS&hosts_shuffle=false"


@pytest.fixture
def mesh() -> Iterator[Mesh]:
    python = require_proton()
    ports, between = [free_port(), free_port()], free_port()
    inner = {"host": HOST, "role": "inter-router", "port": between}
    found = Mesh([], ports)
    try:
        for number, entity in enumerate(("listener", "connector")):
            whole = plan(ports[number], mode="interior", id=f"router-{number}")
            entities = [*whole.entities, (entity, inner)]
            found.routers.append(RouterProcess(Plan(entities), python=python))
        yield found
    finally:
        for router in found.routers:
            router.stop()


@dataclass
class Call:
    """One call: its number, when it began and ended, and its error."""

    number: str
    began: float
    ended: float
    reply: str
    error: MessagingError | None


def load(client: messaging.Client, caller: int, until: float, calls: list[Call]) -> None:
    serial = 0
    while time.monotonic() < until:
        serial += 1
        number, began, reply, error = f"{caller}-{serial}", time.monotonic(), "", None
        try:
            reply = client.call("work", number=number)
        except MessagingError as failure:
            error = failure
        calls.append(Call(number, began, time.monotonic(), reply, error))


def test_a_router_of_a_mesh_is_killed_under_forty_callers(
    mesh: Mesh, target: messaging.Target
) -> None:
    endpoints = [Counting("first"), Counting("second")]
    drivers = [messaging.connect(mesh.url(number)) for number in (0, 1, 0, 1)]
    servers = [
        messaging.Server(driver, messaging.Target(target.topic, endpoint.name), [endpoint])
        for driver, endpoint in zip(drivers[:2], endpoints, strict=True)
    ]
    calls: list[Call] = []
    try:
        for server in servers:
            assert server.start(LIMIT)
        clients = [messaging.Client(driver, target, timeout=TIMEOUT) for driver in drivers[2:]]
        # Both routers know both servers.
        for client in clients:
            for endpoint in endpoints:
                own = client.prepare(server=endpoint.name, timeout=LIMIT)
                assert own.call("work", number="before") == f"before {endpoint.name}"
        until = time.monotonic() + BEFORE + AFTER
        threads = [
            threading.Thread(target=load, args=(clients[each % 2], each, until, calls), daemon=True)
            for each in range(CALLERS)
        ]
        for thread in threads:
            thread.start()
        time.sleep(BEFORE)
        killed = time.monotonic()
        mesh.routers[0].kill()
        for thread in threads:
            thread.join(BEFORE + AFTER + TIMEOUT + LIMIT)
        assert not any(thread.is_alive() for thread in threads)
    finally:
        for driver in drivers:
            driver.close()
        for server in servers:
            server.stop(LIMIT)
    for endpoint in endpoints:
        del endpoint.runs["before"]
    runs = endpoints[0].runs + endpoints[1].runs
    assert not {number: count for number, count in runs.items() if count > 1}
    assert not [call for call in calls if call.ended - call.began > TIMEOUT + 2]
    for call in calls:
        # Its request reached the router, or a server, before that was gone.
        assert call.error is None or isinstance(call.error, LostServerError | CallTimeoutError)
        assert call.error is None or NAMED.search(str(call.error)), call.error
    # Each was run once, unless it failed.
    for call in calls:
        assert call.error is not None or (call.reply.startswith(call.number) and runs[call.number])
    # The callers go on with the router that is left, and with the server that had the other one.
    last = {call.number.partition("-")[0]: call for call in calls}
    assert len(last) == CALLERS
    assert all(call.error is None for call in last.values())
    for name in ("first", "second"):
        assert any(call.reply.endswith(name) and call.began > killed for call in calls)
