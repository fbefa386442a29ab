"""The contract of the drivers, servers: who gets what, and what becomes of it when they end."""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hbshim.errors import (
    CallTimeoutError,
    OptionError,
    ResultGoneError,
    TopologyError,
    UnroutableError,
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
from tests.messaging.conftest import LIMIT, at_once, unique
from tests.messaging.endpoints import Endpoint
from tests.messaging.half_open import HalfOpenRelay
from tests.waiting import wait_until
from wsgi_harness.stack.broker import Broker
from wsgi_harness.wire.relay import Relay

Serve = Callable[..., Server]
Drivers = Callable[..., AmqpDriver]

CHECKOUT = Path(__file__).parent.parent.parent


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


# -- CAST and FANOUT -----------------------------------------------------------


def test_cast(asker: Client, serve: Serve, endpoints: list[Endpoint]) -> None:
    for endpoint in endpoints:
        serve(asker.driver, asker.target.to(server=endpoint.name), endpoint)
    for number in range(20):
        asker.cast("echo", value=number)
        asker.prepare(server="two").cast("echo", value=100 + number)
    one, two = endpoints
    wait_until(lambda: len(one.asked + two.asked) == 40, LIMIT)
    assert sorted(one.asked + two.asked) == [*range(20), *range(100, 120)]
    assert max(one.asked) < 100


def test_fanout(asker: Client, serve: Serve, endpoints: list[Endpoint]) -> None:
    for endpoint in endpoints:
        serve(asker.driver, asker.target.to(server=endpoint.name), endpoint)
    everybody = asker.prepare(fanout=True)
    for number in range(10):
        everybody.cast("echo", value=number)
    for endpoint in endpoints:
        wait_until(lambda endpoint=endpoint: len(endpoint.asked) == 10, LIMIT)
        assert sorted(endpoint.asked) == list(range(10))


def test_a_cast_that_nobody_takes_is_gone_in_time(
    asker: Client, serve: Serve, endpoints: list[Endpoint]
) -> None:
    asker.driver.declare_queue(asker.target, DEFAULT)
    asker.prepare(timeout=0.2).cast("echo", value="gone")
    asker.cast("echo", value="there")
    time.sleep(0.3)
    serve(asker.driver, asker.target, endpoints[0])
    assert asker.call("echo", value="last") == "last"
    wait_until(lambda: len(endpoints[0].asked) == 2, LIMIT)
    assert sorted(endpoints[0].asked) == ["last", "there"]


def test_a_cast_without_a_server_is_lost_and_no_error(
    asker: Client, serve: Serve, endpoints: list[Endpoint]
) -> None:
    """No queue keeps it for a server that starts later."""
    asker.cast("echo", value="lost")
    asker.prepare(fanout=True).cast("echo", value="lost")
    serve(asker.driver, asker.target, endpoints[0])
    assert asker.call("echo", value="call") == "call"
    everywhere = asker.prepare(fanout=True)
    everywhere.cast("echo", value="fanout")
    wait_until(lambda: "fanout" in endpoints[0].asked, LIMIT)
    assert endpoints[0].asked == ["call", "fanout"]


# -- queues whose lifetime is the caller's -------------------------------------


@pytest.fixture
def behind_relay(
    broker: Broker, host: Host, drivers: Drivers
) -> Iterator[tuple[Relay, AmqpDriver]]:
    """A driver whose connections a relay can cut."""
    with Relay(broker.host, broker.amqp_port) as relay:
        yield relay, drivers(Host(relay.host, relay.port, host.username, host.password))


def test_a_request_stored_before_its_server_starts(
    asker: Client,
    serve: Serve,
    drivers: Drivers,
    endpoints: list[Endpoint],
    behind_relay: tuple[Relay, AmqpDriver],
) -> None:
    """Progress and result arrive, too, though the connections of the asker were cut in between."""
    relay, cut = behind_relay
    cut.declare_queue(asker.target)
    through_relay = Client(cut, asker.target, timeout=LIMIT)
    plain, cut_before, cut_during = (
        asker.submit("count", to=2),
        through_relay.submit("count", to=3),
        through_relay.submit("hold", value="held"),
    )
    relay.reset()
    serve(drivers(), asker.target, endpoints[0], expires=NEVER)
    assert list(plain.progress(LIMIT)) == [0, 1]
    assert plain.result(0) == "counted"
    assert list(cut_before.progress(LIMIT)) == [0, 1, 2]
    wait_until(lambda: endpoints[0].asked, LIMIT)
    with pytest.raises(CallTimeoutError, match="later"):
        cut_during.result(0.2)
    relay.reset()
    endpoints[0].release.set()
    assert cut_during.result(LIMIT) == "held"
    assert asker.driver.delete_queue(asker.target) == 0


def test_nothing_is_stored_where_no_queue_was_declared(asker: Client) -> None:
    with pytest.raises(UnroutableError, match=asker.target.topic):
        asker.submit("echo", value=1)
    asker.driver.declare_queue(asker.target)
    asker.submit("echo", value=1).close()
    assert asker.driver.delete_queue(asker.target) == 1
    assert asker.driver.delete_queue(asker.target) == 0
    with pytest.raises(UnroutableError):
        asker.submit("echo", value=1)


def test_a_result_is_fetched_by_another_process(
    drivers: Drivers, target: Target, serve: Serve, endpoints: list[Endpoint]
) -> None:
    """The one that submitted is gone before the server starts."""
    first, second, serving = drivers(), drivers(), drivers()
    serving.declare_queue(target, 30)
    task_id = Client(first, target, timeout=LIMIT).submit("count", to=3).id
    first.close()
    client = Client(second, target, timeout=LIMIT)
    waiting = client.attach(task_id)
    with pytest.raises(CallTimeoutError):
        waiting.result(0.1)
    serve(serving, target, endpoints[0], expires=30)
    assert list(waiting.progress(LIMIT)) == [0, 1, 2]
    assert waiting.result(LIMIT) == "counted"
    # It is received once; what was received stays with the task.
    assert waiting.result(0) == "counted"
    with pytest.raises(ResultGoneError, match=task_id):
        client.attach(task_id).result(LIMIT)


def test_a_task_that_is_closed_leaves_its_replies_to_others(
    drivers: Drivers, target: Target, serve: Serve, endpoints: list[Endpoint]
) -> None:
    driver, serving = drivers(), drivers()
    client = Client(driver, target, timeout=LIMIT)
    serve(serving, target, endpoints[0])
    task = client.submit("count", to=3)
    assert next(task.progress(LIMIT)) == 0
    task.close()
    again = Client(drivers(), target, timeout=LIMIT).attach(task.id)
    assert list(again.progress(LIMIT)) == [1, 2]
    assert again.result(LIMIT) == "counted"


def test_without_a_result(drivers: Drivers, target: Target, serve: Serve) -> None:
    endpoint = Endpoint()
    driver = drivers()
    serve(driver, target, endpoint)
    task = Client(driver, target, timeout=LIMIT, ignore_result=True).submit("echo", value=1)
    wait_until(lambda: endpoint.asked == [1], LIMIT)
    for use in (lambda: task.id, lambda: task.result(LIMIT), lambda: next(task.progress(LIMIT))):
        with pytest.raises(OptionError, match="ignore_result"):
            use()
    task.close()


def test_a_result_has_its_own_lifetime(drivers: Drivers, target: Target) -> None:
    driver = drivers()
    driver.declare_queue(target, 30)
    client = Client(driver, target, timeout=LIMIT)
    names = {
        lifetime: driver._topology.results(
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
    caller = driver._caller
    assert not caller._role._waiting
    assert not caller._calls._calls
    for each in ids:
        with pytest.raises(ResultGoneError):
            client.attach(each).result(LIMIT)
    connection = caller._line.connection
    # The consumers of replies, and none of a task.
    wait_until(lambda: len(connection._consumers) == 2, LIMIT)


def test_a_queue_that_goes_by_itself(asker: Client) -> None:
    asker.driver.declare_queue(asker.target, 2)
    asker.submit("echo", value=1).close()

    def gone() -> bool:
        try:
            asker.submit("echo", value=1).close()
        except UnroutableError:
            return True
        time.sleep(0.1)
        return False

    wait_until(gone, LIMIT)


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


def test_a_server_that_stops_ends_what_it_has_begun(
    asker: Client, serve: Serve, endpoints: list[Endpoint]
) -> None:
    server = serve(asker.driver, asker.target, endpoints[0])
    results: list[Any] = []
    called = threading.Thread(target=lambda: results.append(asker.call("hold", value="done")))
    called.start()
    wait_until(lambda: endpoints[0].asked, LIMIT)
    stopping = threading.Thread(target=lambda: results.append(server.stop(LIMIT)))
    stopping.start()
    endpoints[0].release.set()
    called.join(LIMIT)
    stopping.join(LIMIT)
    assert sorted(results, key=str) == [True, "done"]


def test_pausing(asker: Client, serve: Serve, endpoints: list[Endpoint]) -> None:
    server = serve(asker.driver, asker.target, endpoints[0])
    assert asker.call("echo", value=1) == 1
    server.pause()
    with pytest.raises(CallTimeoutError):
        asker.prepare(timeout=0.5).call("echo", value="expired")
    asker.cast("echo", value="waits")
    assert endpoints[0].asked == [1]
    server.resume()
    wait_until(lambda: len(endpoints[0].asked) == 2, LIMIT)
    assert asker.call("echo", value=2) == 2
    assert endpoints[0].asked == [1, "waits", 2]


class Counting:
    """Counts how often each request is run."""

    def __init__(self) -> None:
        self.runs: Counter[int] = Counter()

    def note(self, _request: Request, number: int) -> None:
        self.runs[number] += 1


class Load:
    """Casts numbers as fast as it can until it is told to end."""

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


@pytest.mark.parametrize("quorum", [False, True], ids=["classic", "quorum"])
def test_pausing_and_stopping_under_load(
    quorum: bool, drivers: Drivers, serve: Serve, target: Target
) -> None:
    """Requests are on their way in every step of it: none is lost, and none runs twice."""
    counting, serving = Counting(), drivers(quorum_queues=quorum)
    paused = serve(serving, target, counting, workers=4, prefetch=32)
    load = Load(Client(drivers(), target, timeout=2 * LIMIT))
    for _ in range(20):
        load.under_way(20)
        stopped = serve(drivers(quorum_queues=quorum), target, counting, workers=2, prefetch=32)
        load.under_way(20)
        paused.pause()
        load.under_way(10)
        paused.resume()
        load.under_way(10)
        assert stopped.stop(LIMIT)
    sent = load.end()
    wait_until(lambda: len(counting.runs) == sent, LIMIT)
    assert sent > 1000
    assert [found for found in counting.runs.most_common(3) if found[1] > 1] == []


def test_bounded_workers(asker: Client, serve: Serve, endpoints: list[Endpoint]) -> None:
    endpoint = endpoints[0]
    serve(asker.driver, asker.target, endpoint, workers=3)
    for _ in range(9):
        asker.cast("hold")
    wait_until(lambda: len(endpoint.asked) == 3, LIMIT)
    endpoint.release.set()
    wait_until(lambda: len(endpoint.asked) == 9, LIMIT)
    assert endpoint.most == 3


def test_two_servers_share_the_work(asker: Client, serve: Serve, endpoints: list[Endpoint]) -> None:
    for endpoint in endpoints:
        serve(asker.driver, asker.target, endpoint, workers=2)
    outcomes = at_once(*[lambda: [asker.call("who") for _ in range(10)]] * 6)
    assert {name for names in outcomes for name in names} == {"one", "two"}


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


class Process:
    """A server in a process of its own, to be killed."""

    def __init__(self, library: str, broker: Broker, topic: str, acknowledge: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, CHECKOUT / "tests/messaging/serving.py", topic, acknowledge],
            env={
                **os.environ,
                "PYTHONPATH": str(CHECKOUT),
                "URL": broker.amqp_url().replace("amqp://", f"hb{library}://"),
            },
            stdout=subprocess.PIPE,
            text=True,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.strip())

    def says(self, line: str) -> None:
        assert self._lines.get(timeout=LIMIT) == line

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(LIMIT)
        self._reader.join(LIMIT)
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.mark.parametrize("acknowledge", ["before", "after"])
def test_a_server_is_killed_at_work(
    acknowledge: str,
    library: str,
    broker: Broker,
    asker: Client,
    serve: Serve,
    endpoints: list[Endpoint],
) -> None:
    doomed = Process(library, broker, asker.target.topic, acknowledge)
    try:
        doomed.says("started")
        results: list[Any] = []

        # Who bears no silence hears soon that nobody works for him.
        patient = asker if acknowledge == "after" else asker.prepare(silence=2)

        def call() -> None:
            try:
                results.append(patient.call("echo", value="work"))
            except CallTimeoutError as error:
                results.append("silent" if "silent" in str(error) else error)

        called = threading.Thread(target=call)
        called.start()
        doomed.says("begun")
    finally:
        doomed.kill()
    serve(asker.driver, asker.target, endpoints[0], acknowledge=acknowledge)
    assert asker.call("echo", value="another") == "another"
    called.join(LIMIT)
    if acknowledge == "before":
        assert (endpoints[0].asked, results) == (["another"], ["silent"])
    else:
        assert sorted(endpoints[0].asked) == ["another", "work"]
        assert results == ["work"]


def test_a_driver_is_closed_before_its_server(
    asker: Client, drivers: Drivers, serve: Serve, endpoints: list[Endpoint]
) -> None:
    """Its workers end: they would go on asking a listener that has nothing more to give."""
    driver = drivers()
    server = serve(driver, asker.target, endpoints[0])
    assert asker.call("echo", value=1) == 1
    driver.close()
    wait_until(lambda: not any(each.is_alive() for each in server._workers._threads), LIMIT)
    assert server.stop(LIMIT)
