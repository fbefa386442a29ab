"""RabbitMQ's drivers, servers: their queues; the rest is in tests/messaging/contract/."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from hbshim.errors import (
    CallTimeoutError,
    ResultGoneError,
    TopologyError,
)
from hbshim.heartbeat import service
from hbshim.messaging.amqp.driver import AmqpDriver
from hbshim.messaging.base import NEVER
from hbshim.messaging.dispatch import Request
from hbshim.messaging.hosts import Host
from hbshim.messaging.rpc import Client
from hbshim.messaging.server import Server
from hbshim.messaging.target import Target
from hbshim.options import DEFAULT
from tests.messaging.conftest import LIMIT, unique
from tests.messaging.endpoints import Endpoint
from tests.messaging.half_open import HalfOpenRelay
from tests.waiting import wait_until
from wsgi_harness.stack.broker import Broker

Serve = Callable[..., Server]
Drivers = Callable[..., AmqpDriver]

#: How often a server is stopped, and another one paused, under load.
STOPS = int(os.environ.get("HBSHIM_STOPS", "20"))


@pytest.fixture
def endpoints() -> Iterator[list[Endpoint]]:
    """Two of them, by name."""
    found = [Endpoint("one"), Endpoint("two")]
    yield found
    for endpoint in found:
        endpoint.release.set()


@pytest.fixture
def asker(driver: AmqpDriver, target: Target) -> Client:
    return Client(driver, target, timeout=LIMIT)


# -- queues whose lifetime is the caller's -------------------------------------


def test_a_result_has_its_own_lifetime(drivers: Drivers, target: Target) -> None:
    driver = drivers()
    driver.declare_queue(target, 30)
    client = Client(driver, target, timeout=LIMIT)
    names = {
        lifetime: driver._results(
            client.prepare(result_lifetime=lifetime).submit("echo", value=1).id
        ).name
        for lifetime in (0.2, 30, DEFAULT, NEVER)
    }

    def exists(name: str) -> bool:
        soon = time.monotonic() + LIMIT
        return driver._sender.with_connection(
            lambda found: found.connection.queue_exists(name), soon
        )

    def gone() -> bool:
        # To ask for it, as a caller that waits does, begins its time anew.
        time.sleep(0.5)
        return not exists(names[0.2])

    wait_until(gone, LIMIT)
    assert [exists(names[each]) for each in (30, DEFAULT, NEVER)] == [True] * 3


def test_tasks_leave_nothing_behind(
    drivers: Drivers, target: Target, serve: Serve, endpoints: list[Endpoint]
) -> None:
    driver = drivers()
    serve(driver, target, endpoints[0])
    client = Client(driver, target, timeout=LIMIT)
    ids = []
    for number in range(50):
        task = client.submit("echo", value=number)
        ids.append(task.id)
        assert task.result(LIMIT) == number
    caller = driver._callers.get()
    assert not caller._role._waiting
    assert not caller._calls._calls
    for each in ids:
        with pytest.raises(ResultGoneError):
            client.attach(each).result(LIMIT)
    connection = caller._sending.connection
    # The consumers of replies, and none of a task.
    wait_until(lambda: len(connection._consumers) == 2, LIMIT)


def test_an_exchange_of_another_type(driver: AmqpDriver, target: Target, asker: Client) -> None:
    name = unique("exchange")
    driver._sender.with_connection(
        lambda found: found.connection.declare_exchange(name, "topic"), time.monotonic() + LIMIT
    )
    elsewhere = target.to(exchange=name)
    with pytest.raises(TopologyError, match=name):
        Server(driver, elsewhere, [Endpoint()]).start(LIMIT)
    with pytest.raises(TopologyError, match=name):
        asker.prepare(target=elsewhere).cast("echo", value=1)
    with pytest.raises(TopologyError, match=name):
        asker.prepare(target=elsewhere).call("echo", value=1)


def test_quorum_queues(broker: Broker, drivers: Drivers, target: Target, serve: Serve) -> None:
    driver = drivers(quorum_queues=True)
    serve(driver, target, Endpoint())
    assert Client(driver, target, timeout=LIMIT).call("echo", value=1) == 1
    name = f"{driver.options.default_rpc_exchange}.{target.topic}"
    assert broker.management.get(f"queues/%2F/{name}")["type"] == "quorum"


def reports() -> int:
    """How many queues were reported that are not replicated."""
    return service.current().metrics.snapshot().get("event:queue-not-replicated", 0)


@pytest.mark.parametrize("there", [False, True], ids=["classic", "quorum"])
def test_a_queue_of_another_type_and_lifetime(
    there: bool, drivers: Drivers, target: Target, serve: Serve
) -> None:
    """It stays as it is, and is served; a classic one for a quorum queue is reported."""
    drivers(quorum_queues=there).declare_queue(target, NEVER)
    before = reports()
    serve(drivers(quorum_queues=not there), target, Endpoint())
    assert reports() - before == (0 if there else 1)
    assert drivers().delete_queue(target) == 0


# -- stopping, pausing, bounds -------------------------------------------------


def test_stopping_loses_nothing(
    asker: Client, serve: Serve, drivers: Drivers, endpoints: list[Endpoint]
) -> None:
    """What the first server holds and has not begun, the second one gets, at once."""
    one, two = endpoints
    first = serve(drivers(), asker.target, one, workers=1, prefetch=10)
    asker.cast("hold", value="begun")
    wait_until(lambda: one.asked, LIMIT)
    for number in range(5):
        asker.cast("echo", value=number)
    called = threading.Thread(target=lambda: one.asked.append(asker.call("echo", value="call")))
    called.start()
    wait_until(lambda: len(first._listener._inbox) == 6, LIMIT)  # type: ignore[attr-defined]
    serve(drivers(), asker.target, two)
    assert first.stop(0.1) is False
    wait_until(lambda: len(two.asked) == 6, LIMIT)
    assert sorted(two.asked, key=str) == [*range(5), "call"]
    called.join(LIMIT)
    assert one.asked == ["begun", "call"]
    one.release.set()


class Counting:
    """Counts how often each request is run."""

    def __init__(self) -> None:
        self.runs: Counter[int] = Counter()

    def note(self, _request: Request, number: int) -> None:
        self.runs[number] += 1


class Load:
    """Casts numbers as fast as it can until it has to end."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._over = threading.Event()
        self.sent = 0
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def _send(self) -> None:
        while not self._over.is_set():
            self._client.cast("note", number=self.sent)
            self.sent += 1
            time.sleep(0.0005)

    def under_way(self, count: int) -> None:
        before = self.sent
        wait_until(lambda: self.sent >= before + count, LIMIT)

    def end(self) -> int:
        self._over.set()
        self._thread.join(LIMIT)
        return self.sent


def serving_threads() -> list[str]:
    """Names of the threads of listeners and servers that run."""
    names = [thread.name for thread in threading.enumerate() if thread.is_alive()]
    return [name for name in names if name.startswith(("hbshim-server", "hbshim-prefetch"))]


@pytest.mark.parametrize("quorum", [False, True], ids=["classic", "quorum"])
def test_pausing_and_stopping_under_load(
    quorum: bool, drivers: Drivers, serve: Serve, target: Target
) -> None:
    """Requests are on their way in every step of it: none is lost, and none runs twice. No thread
    of a server that stopped remains."""
    counting, serving = Counting(), drivers(quorum_queues=quorum)
    paused = serve(serving, target, counting, workers=4, prefetch=32)
    load = Load(Client(drivers(), target, timeout=2 * LIMIT))
    for _ in range(STOPS):
        load.under_way(20)
        stopped = serve(drivers(quorum_queues=quorum), target, counting, workers=2, prefetch=32)
        load.under_way(20)
        paused.pause()
        load.under_way(10)
        paused.resume()
        load.under_way(10)
        assert stopped.stop(LIMIT)
        assert not any(each.is_alive() for each in stopped._workers._threads)
    sent = load.end()
    wait_until(lambda: len(counting.runs) == sent, LIMIT)
    assert sent > 50 * STOPS
    assert [found for found in counting.runs.most_common(3) if found[1] > 1] == []
    assert paused.stop(LIMIT)
    # Other threads of a listener's end by themselves, soon after it.
    wait_until(lambda: not serving_threads(), LIMIT)


# -- a connection that only one side knows to be lost --------------------------


def test_a_half_open_connection_is_replaced_at_once(
    broker: Broker, host: Host, drivers: Drivers, asker: Client, serve: Serve
) -> None:
    """The broker knows of it after 3 T = 60 s; until then its exclusive queue is locked."""
    with HalfOpenRelay(broker.host, broker.amqp_port) as relay:
        way = Host("127.0.0.1", relay.port, host.username, host.password)
        driver = drivers(way, heartbeat_interval=20)
        server = serve(driver, asker.target, Endpoint(), on_error=lambda _error: None)
        assert asker.call("echo", value=1) == 1
        before = relay.opened
        relay.close_client_sides()
        began = time.monotonic()

        def served() -> bool:
            # The broker still gives some to the consumer that is gone.
            with contextlib.suppress(CallTimeoutError):
                return bool(asker.prepare(timeout=1).call("echo", value=2) == 2)
            return False

        wait_until(served, 2 * LIMIT)
        assert time.monotonic() - began < LIMIT
        assert relay.opened - before < 20
        assert server.stop(LIMIT)
        driver.close()


# -- acknowledgement -----------------------------------------------------------


def test_the_workers_of_a_server_end_with_its_driver(
    asker: Client, drivers: Drivers, serve: Serve, endpoints: list[Endpoint]
) -> None:
    """They would go on polling a listener that has nothing more to give."""
    driver = drivers()
    server = serve(driver, asker.target, endpoints[0])
    assert asker.call("echo", value=1) == 1
    driver.close()
    wait_until(lambda: not any(each.is_alive() for each in server._workers._threads), LIMIT)
    assert server.stop(LIMIT)
