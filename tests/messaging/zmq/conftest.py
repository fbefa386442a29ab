"""Hosts of the ZeroMQ driver, without a broker; and Redis servers for its directory.

The container outlives each of its servers: one that is killed and started again has the same
address.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from hbshim import messaging
from tests.messaging.endpoints import Endpoint
from tests.messaging.zmq.curve import Keys
from tests.messaging.zmq.hostile import Attack, Attacker, Context, Host
from tests.messaging.zmq.machines import SETUP
from tests.messaging.zmq.nodes import LIMIT, Node
from tests.messaging.zmq.redis_server import Container, RedisServer
from tests.messaging.zmq.stage import Stage
from wsgi_harness.engine.engine import Engine
from wsgi_harness.engine.images import Images
from wsgi_harness.stack.leftovers import OWNER_LABEL, owner


@pytest.fixture
def nodes() -> Iterator[Callable[[], Node]]:
    """Make hosts whose proxies do not run yet."""
    made: list[Node] = []

    def make() -> Node:
        made.append(Node())
        return made[-1]

    yield make
    for node in made:
        node.close()


@pytest.fixture
def node(nodes: Callable[[], Node]) -> Node:
    """A host whose proxy runs."""
    made = nodes()
    made.start()
    return made


@pytest.fixture(params=[SETUP])
def stage() -> Iterator[Stage]:
    """Machines of the test's own; its name says what they are here."""
    with Stage() as made:
        yield made


@pytest.fixture
def serve() -> Iterator[Callable[..., messaging.Server]]:
    """Start servers; each is stopped when the test ends."""
    started: list[messaging.Server] = []

    def start(
        driver: messaging.Driver, target: messaging.Target, *endpoints: object, **how: Any
    ) -> messaging.Server:
        started.append(messaging.Server(driver, target, endpoints, **how))
        assert started[-1].start(LIMIT)
        return started[-1]

    yield start
    for server in started:
        server.stop(LIMIT)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """What servers offer; what holds it is released when the test ends."""
    found = Endpoint()
    yield found
    found.release.set()


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    """Key pairs, of which one is a client's that may connect."""
    made = Keys(tmp_path)
    made.allow("client")
    return made


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    made = Host(tmp_path_factory.mktemp("hostile"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def context() -> Iterator[Context]:
    made: Context = zmq.Context()
    yield made
    made.destroy(linger=0)


@pytest.fixture
def attack(context: Context) -> Iterator[Attack]:
    made: list[Attacker] = []

    def start(kind: int, address: str) -> Attacker:
        made.append(Attacker(context, kind, address))
        return made[-1]

    yield start
    for each in made:
        each.close()


@pytest.fixture(scope="session")
def redis_container(engine: Engine, images: Images) -> Iterator[Container]:
    """A container in which Redis can be started."""
    name = f"hbshim-redis-{secrets.token_hex(4)}"
    engine.run(
        *("run", "--detach", "--rm", "--init", "--name", name),
        *("--label", f"{OWNER_LABEL}={owner()}", "--publish", "127.0.0.1::6379", images.redis),
    )
    try:
        yield Container(engine, name)
    finally:
        engine.run("rm", "--force", name)


@pytest.fixture(scope="session")
def started_redis(redis_container: Container) -> RedisServer:
    """One server for all tests of the session."""
    return RedisServer(redis_container)


@pytest.fixture
def redis_server(started_redis: RedisServer) -> RedisServer:
    """A Redis that runs, and is empty."""
    started_redis.start()
    started_redis.command("FLUSHALL")
    return started_redis
