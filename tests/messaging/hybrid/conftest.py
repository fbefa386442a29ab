"""Two backends that know nothing of each other: two virtual hosts, each behind relays."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from hbshim import messaging
from hbshim.errors import MessagingError
from tests.brokers import virtual_host
from tests.messaging.amqp1.routers import Router, running
from tests.messaging.conftest import LIMIT, unique
from tests.messaging.wires import Wires
from tests.waiting import wait_until
from wsgi_harness.stack.broker import Broker

#: The driver of each of two backends.
PAIRS = [
    ("hbpika", "hbkombu"),
    ("hbamqp", "hbpika"),
    ("hbkombu", "router"),
]


@dataclass
class Backend:
    """A backend behind a relay.

    Attributes:
        url: through the relay.
        uncut: the same, past the relay.
    """

    url: str
    uncut: str
    wires: Wires


@pytest.fixture(params=PAIRS, ids="-".join)
def backends(
    request: pytest.FixtureRequest, broker: Broker, router: Router
) -> Iterator[list[Backend]]:
    """Two backends, each of one scheme; "router" is ``hbamqp://`` over the test router."""
    yield from _backends(broker, request.param, router)


@pytest.fixture(scope="session")
def router() -> Iterator[Router]:
    """A router that no test restarts."""
    yield from running()


@pytest.fixture
def one_pair(broker: Broker) -> Iterator[list[Backend]]:
    """Two backends of one pair of schemes, for what does not depend on the driver."""
    yield from _backends(broker, PAIRS[1])


def _backends(
    broker: Broker, schemes: tuple[str, str], router: Router | None = None
) -> Iterator[list[Backend]]:
    with (
        virtual_host(broker, f"test-{secrets.token_hex(6)}") as first,
        virtual_host(broker, f"test-{secrets.token_hex(6)}") as second,
    ):
        made = [
            _backend(broker, scheme, vhost) if scheme != "router" else _over(router, vhost)
            for scheme, vhost in zip(schemes, (first, second), strict=True)
        ]
        yield made
        for each in made:
            each.wires.close()


def _backend(broker: Broker, scheme: str, vhost: str) -> Backend:
    port = free_port()
    wires = Wires({("127.0.0.1", port): (broker.host, broker.amqp_port)})
    uncut = broker.amqp_url(vhost=vhost).replace("amqp://", f"{scheme}://")
    here = f"127.0.0.1:{port}"
    return Backend(uncut.replace(f"{broker.host}:{broker.amqp_port}", here), uncut, wires)


def _over(router: Router | None, vhost: str) -> Backend:
    assert router is not None
    port = free_port()
    wires = Wires({("127.0.0.1", port): ("127.0.0.1", router.port)})
    uncut = f"hbamqp://127.0.0.1:{router.port}/{vhost}?login_method=ANONYMOUS"
    return Backend(uncut.replace(f":{router.port}/", f":{port}/"), uncut, wires)


def free_port() -> int:
    """A port of this machine that nothing listens at."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        number: int = sock.getsockname()[1]
    return number


@pytest.fixture
def connect() -> Iterator[Callable[..., messaging.Driver]]:
    """Make drivers; each is closed when the test ends."""
    made: list[messaging.Driver] = []

    def make(url: str, **how: Any) -> messaging.Driver:
        made.append(messaging.connect(url, **how))
        return made[-1]

    yield make
    for driver in made:
        driver.close()


@pytest.fixture
def topic() -> messaging.Target:
    """A topic that no other test uses."""
    return messaging.Target(unique("topic"))


@pytest.fixture
def start() -> Iterator[Callable[..., messaging.Server]]:
    """Start servers; each is stopped when the test ends."""
    started: list[messaging.Server] = []

    def start(
        driver: messaging.Driver,
        target: messaging.Target,
        *endpoints: object,
        limit: float = LIMIT,
        **how: Any,
    ) -> messaging.Server:
        started.append(messaging.Server(driver, target, endpoints, **how))
        started[-1].start(limit)
        return started[-1]

    yield start
    for server in started:
        server.stop(LIMIT)


def answers(client: messaging.Client) -> bool:
    """Whether a server answers by now."""
    try:
        return bool(client.prepare(timeout=1.0).call("echo", value=1) == 1)
    except MessagingError:
        return False


def wait_until_served(client: messaging.Client) -> None:
    """Wait until a server answers."""
    wait_until(lambda: answers(client), LIMIT)
