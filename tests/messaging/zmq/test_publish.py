"""FANOUT and NOTIFY end to end: real proxies, from the first message of a publisher on."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import zmq

from hbshim.errors import ConnectError, UnroutableError
from hbshim.heartbeat import service
from hbshim.messaging import (
    REQUEUE,
    Client,
    Driver,
    Notification,
    NotificationServer,
    Notifier,
    Payload,
    Server,
    Target,
)
from hbshim.messaging.zmq import publisher
from hbshim.messaging.zmq.driver import ZmqDriver
from hbshim.messaging.zmq.frames import Header, Kind, encode, notification_key
from hbshim.messaging.zmq.loop import Loop
from hbshim.messaging.zmq.publisher import Publication, Publisher
from hbshim.messaging.zmq.settings import SocketSettings
from hbshim.messaging.zmq.sockets import make
from hbshim.messaging.zmq.traffic import Traffic
from hbshim.metrics import Metrics
from hbshim.observe.drivers import ZmqStatus
from tests.messaging.endpoints import Endpoint
from tests.messaging.zmq.nodes import LIMIT, InBackground, Node, children, figure, server_process
from tests.waiting import wait_until

TARGET = Target("compute")

Serve = Callable[..., Server]


class Sink:
    """Notes what it is notified of.

    Parameters:
        again: how often each notification is handled again.
    """

    def __init__(self, again: int = 0) -> None:
        self.seen: list[tuple[str, int]] = []
        self.release = threading.Event()
        self.release.set()
        self._again = again

    def _take(self, notification: Notification) -> str | None:
        assert self.release.wait(LIMIT)
        self.seen.append((notification.priority, notification.payload))
        if self.seen.count((notification.priority, notification.payload)) <= self._again:
            return REQUEUE
        return None

    info = error = _take


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Node, Node]]:
    """Two hosts with the whole proxy."""
    made = Node(), Node()
    for node in made:
        node.start(whole=True)
    yield made
    for node in made:
        node.close()


@pytest.fixture
def drivers(pair: tuple[Node, Node]) -> Iterator[Callable[..., Driver]]:
    """Make drivers whose servers are on the first or the second host."""
    made: list[Driver] = []

    def make(host: int = 0, **options: object) -> Driver:
        made.append(pair[host].driver(pair[1 - host], **options))
        return made[-1]

    yield make
    for driver in made:
        driver.close()


@pytest.fixture
def listen() -> Iterator[Callable[..., NotificationServer]]:
    """Start servers of notifications; each is stopped when the test ends."""
    started: list[NotificationServer] = []

    def start(driver: Driver, sink: Sink, pool: str | None = None, **how: object) -> None:
        started.append(NotificationServer(driver, ["events"], [sink], pool=pool, **how))  # type: ignore[arg-type]
        assert started[-1].start(LIMIT)

    yield start  # type: ignore[misc]
    for server in started:
        server.stop(LIMIT)


def test_hosts_that_were_idle_are_connected_again(
    drivers: Callable[..., Driver], serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though they are those of the fanout before."""
    monkeypatch.setattr(publisher, "_CHECK_EVERY", 0.05)
    endpoint = Endpoint()
    serve(drivers(), TARGET, endpoint)
    driver = drivers(zmq_idle_disconnect=0.2)
    assert isinstance(driver, ZmqDriver)
    client = Client(driver, TARGET.to(fanout=True), timeout=LIMIT)
    for number in range(3):
        client.cast("echo", value=number)
        wait_until(lambda number=number: endpoint.asked == list(range(number + 1)), LIMIT)  # type: ignore[misc]
        caller = driver._callers.get()
        wait_until(lambda caller=caller: caller.connected["fanout"] == 0, LIMIT)  # type: ignore[misc]


def test_the_first_fanout_of_a_publisher_reaches_every_listener(
    drivers: Callable[..., Driver], serve: Serve
) -> None:
    endpoints = [Endpoint() for _ in range(4)]
    for number, each in enumerate(endpoints):
        serve(drivers(number % 2), TARGET.to(server=f"s{number}"), each)
    other = Endpoint()
    serve(drivers(), Target("compute2"), other)
    for attempt in range(5):
        # A new driver each time: its connections have seen no subscription yet.
        Client(drivers(), TARGET).prepare(fanout=True).cast("echo", value=attempt)
    wait_until(lambda: all(len(each.asked) == 5 for each in endpoints), LIMIT)
    assert all(each.asked == [0, 1, 2, 3, 4] for each in endpoints)
    assert other.asked == []


def test_a_fanout_without_a_listener_is_no_error(drivers: Callable[..., Driver]) -> None:
    driver = drivers()
    Client(driver, Target("nothing")).prepare(fanout=True).cast("echo", value=1)
    with pytest.raises(UnroutableError, match="no listener of topic 'nothing' is known"):
        driver.cast(Target("nothing", fanout=True), Payload(b"{}"), LIMIT, mandatory=True)


def test_a_notification_without_a_listener_is_counted(drivers: Callable[..., Driver]) -> None:
    def counted() -> int:
        metrics = service.current().metrics.snapshot()
        return metrics.get("zmq_notifications_without_listener", 0)

    before = counted()
    Notifier(drivers(), "unheard", "test", timeout=LIMIT).info("happened", 1)
    assert counted() == before + 1


def test_what_its_sender_has_given_up_is_not_published_later() -> None:
    """It may send the message again: the listeners would get it twice."""
    loop = Loop()
    publisher = Publisher(loop, SocketSettings(), "fanout", 0, Traffic(Metrics()))
    sent: list[int] = []
    header = Header(Kind.FANOUT, bytes(16), topic="t")
    late = Publication(b"key", header, b"", [bytes(16)], time.monotonic() + 0.05, sent.append)
    publisher.publish([], late)
    late.given_up = True
    later = Publication(b"key", header, b"", [b"1" * 16], time.monotonic() + 0.1, sent.append)
    publisher.publish([], later)
    wait_until(lambda: loop.run_once(0.01) or sent, LIMIT)
    assert sent == [1]
    publisher.close()
    loop.end()


def test_a_large_fanout_arrives_whole(drivers: Callable[..., Driver], serve: Serve) -> None:
    endpoint = Endpoint()
    serve(drivers(), TARGET, endpoint)
    value = "x" * 3_000_000
    Client(drivers(1), TARGET).prepare(fanout=True).cast("echo", value=value)
    wait_until(lambda: endpoint.asked, LIMIT)
    assert endpoint.asked == [value]


def test_each_pool_gets_all_notifications_and_shares_them(
    drivers: Callable[..., Driver], listen: Callable[..., None]
) -> None:
    shared = [Sink(), Sink()]
    for host, sink in enumerate(shared):
        listen(drivers(host), sink, "shared")
    alone, default = Sink(), Sink()
    listen(drivers(), alone, "alone")
    listen(drivers(1), default)
    notifier = Notifier(drivers(), "events", "test", timeout=LIMIT)
    for number in range(10):
        notifier.notify("info" if number % 2 else "error", "happened", number)
    expected = {("info" if number % 2 else "error", number) for number in range(10)}
    wait_until(lambda: len(alone.seen) == len(default.seen) == 10, LIMIT)
    wait_until(lambda: sum(len(sink.seen) for sink in shared) == 10, LIMIT)
    assert set(alone.seen) == set(default.seen) == expected
    assert {*shared[0].seen, *shared[1].seen} == expected
    assert shared[0].seen
    assert shared[1].seen


def test_a_notification_is_handled_again_here(
    drivers: Callable[..., Driver], listen: Callable[..., None]
) -> None:
    sink = Sink(again=2)
    listen(drivers(notification_retry_delay=0.01), sink)
    Notifier(drivers(), "events", "test").info("happened", 1)
    wait_until(lambda: len(sink.seen) == 3, LIMIT)


def test_notifications_and_calls_of_the_same_names_do_not_mix(
    drivers: Callable[..., Driver], listen: Callable[..., None], serve: Serve
) -> None:
    sink, endpoint = Sink(), Endpoint()
    both = {"default_rpc_exchange": "one", "default_notification_exchange": "one"}
    listen(drivers(**both), sink)
    serve(drivers(**both), Target("events.info"), endpoint)
    Notifier(drivers(**both), "events", "test").info("happened", 1)
    Client(drivers(**both), Target("events.info")).prepare(fanout=True).cast("echo", value=2)
    wait_until(lambda: sink.seen and endpoint.asked, LIMIT)
    assert (sink.seen, endpoint.asked) == ([("info", 1)], [2])


def test_a_pause_holds_publications_and_the_limit_drops_the_newest(
    drivers: Callable[..., Driver], serve: Serve
) -> None:
    endpoint = Endpoint()
    server = serve(drivers(zmq_inbox_bytes=10_000), TARGET, endpoint)
    server.pause()

    def dropped() -> int:
        return service.current().metrics.snapshot().get("zmq_publications_dropped", 0)

    before = dropped()
    client = Client(drivers(), TARGET).prepare(fanout=True)
    for number in range(20):
        client.cast("echo", value=number)
    # Each counts for a little more than 1000 bytes.
    wait_until(lambda: dropped() == before + 11, LIMIT)
    server.resume()

    def arrives() -> bool:
        # The limit holds until those before it are handled.
        client.cast("echo", value="last")
        return "last" in endpoint.asked

    wait_until(arrives, LIMIT)
    held = [value for value in endpoint.asked if value != "last"]
    assert held == list(range(9))


def test_what_was_given_back_by_a_pause_comes_before_what_arrives_in_it(
    drivers: Callable[..., Driver], serve: Serve
) -> None:
    endpoint = Endpoint()
    server = serve(drivers(), TARGET, endpoint, workers=1)
    client = Client(drivers(), TARGET).prepare(fanout=True)
    client.cast("hold", value="held")
    wait_until(lambda: endpoint.asked, LIMIT)
    for number in range(5):
        client.cast("echo", value=number)
    server.pause()
    for number in range(5, 10):
        client.cast("echo", value=number)
    endpoint.release.set()
    server.resume()
    wait_until(lambda: len(endpoint.asked) == 11, LIMIT)
    assert endpoint.asked == ["held", *range(10)]


def test_what_a_publisher_names_is_called_only_if_it_is_subscribed_to(
    pair: tuple[Node, Node], drivers: Callable[..., Driver], listen: Callable[..., None]
) -> None:
    """The header has the priority, which is the name of a method."""

    class Endpoint(Sink):
        def secret(self, notification: Notification) -> None:
            self.seen.append(("secret", notification.payload))

    sink = Endpoint()
    listen(drivers(), sink, "pool")
    Notifier(drivers(), "events", "test", timeout=LIMIT).info("happened", 1)
    wait_until(lambda: sink.seen, LIMIT)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    publisher = make(context, "client-publish", SocketSettings())
    try:
        publisher.connect(f"tcp://{pair[0].address}:9503")
        key = notification_key("openstack_notification", "events", "info")
        assert publisher.poll(int(LIMIT * 1000))
        subscribed: list[bytes] = []
        wait_until(
            lambda: (
                (publisher.poll(10) and subscribed.append(publisher.recv()[1:]))
                or any(each.startswith(key + b"/") for each in subscribed)
            ),
            LIMIT,
        )
        (mine,) = [each for each in subscribed if each.startswith(key + b"/")]
        value = {
            "event_type": "",
            "payload": 2,
            "publisher_id": "",
            "message_id": "",
            "timestamp": "",
        }
        body = json.dumps(value).encode()
        for topic in ("events.secret", "events.info"):
            header = Header(Kind.NOTIFY, bytes(16), exchange="openstack_notification", topic=topic)
            publisher.send(mine + bytes(16) + encode(header) + body)
            publisher.send(mine + b"more" + bytes(16) + encode(header) + body)
        wait_until(lambda: len(sink.seen) > 1, LIMIT)
        assert sink.seen == [("info", 1), ("info", 2)]
    finally:
        publisher.close(linger=0)
        context.term()


def test_a_proxy_that_hangs_or_is_gone_delays_the_others_little(
    nodes: Callable[[], Node], serve: Serve
) -> None:
    good, other = nodes(), nodes()
    for node in (good, other):
        node.start(whole=True)
    endpoint = Endpoint()
    serve(good.driver(), TARGET, endpoint)
    client = Client(good.driver(other), TARGET, timeout=LIMIT).prepare(fanout=True)
    client.cast("echo", value=0)
    requests = children(other.pid)["requests"]
    os.kill(requests, signal.SIGSTOP)
    began = time.monotonic()
    client.cast("echo", value=1)
    assert time.monotonic() - began < LIMIT / 2
    os.kill(requests, signal.SIGCONT)
    other.end(signal.SIGKILL)
    client.cast("echo", value=2)
    wait_until(lambda: len(endpoint.asked) == 3, LIMIT)
    good.end(signal.SIGKILL)

    def refuses() -> bool:
        """Whether its processes, which end with their supervisor, have ended, too."""
        try:
            socket.create_connection((good.address, 9501), timeout=LIMIT).close()
        except OSError:
            return True
        return False

    wait_until(refuses, LIMIT)
    with pytest.raises(ConnectError, match="none of its hosts can be reached"):
        Client(good.driver(), TARGET, timeout=0.3).prepare(fanout=True).cast("echo", value=3)


def test_what_one_host_does_not_read_is_counted_at_both_ends_and_the_other_gets_all(
    nodes: Callable[[], Node], serve: Serve, endpoint: Endpoint
) -> None:
    """A fanout returns although a proxy does not read; the buffers of the kernel have an end."""
    node, quick, value, sent = nodes(), nodes(), "x" * 200_000, 150
    other = Endpoint()
    for each in (node, quick):
        each.start(whole=True)
    listening, sending = node.driver(), node.driver(quick, zmq_fanout_hwm=10)
    serve(listening, TARGET, endpoint)
    serve(quick.driver(), TARGET, other)
    fanout = Client(sending, TARGET, timeout=LIMIT).prepare(fanout=True)
    fanout.cast("echo", value=value)
    wait_until(lambda: endpoint.asked and other.asked, LIMIT)
    proxy = children(node.pid)["fanout"]
    os.kill(proxy, signal.SIGSTOP)
    try:
        for number in range(sent):
            fanout.cast("echo", value=value)
            # So that it is never behind, too.
            wait_until(lambda number=number: len(other.asked) == number + 2, LIMIT)  # type: ignore[misc]
    finally:
        os.kill(proxy, signal.SIGCONT)

    def counted() -> bool:
        # A message that arrives shows what is missing before it.
        nonlocal sent
        sent += 1
        fanout.cast("echo", value=sent)
        arrived = time.monotonic() + 1
        while endpoint.asked[-1] != sent and time.monotonic() < arrived:
            time.sleep(0.005)
        # With the first one.
        return len(endpoint.asked) + status(listening).gaps == sent + 1

    wait_until(counted, LIMIT)
    assert status(listening).gaps > 0
    assert status(sending).dropped > 0


def status(driver: Driver) -> ZmqStatus:
    assert isinstance(driver, ZmqDriver)
    found = driver.zmq_status()
    assert found is not None
    return found


def test_a_listener_that_was_killed_is_left_out_once(
    pair: tuple[Node, Node], drivers: Callable[..., Driver], serve: Serve
) -> None:
    """It is registered until its proxy notices; only one publication waits for it."""
    endpoint = Endpoint()
    serve(drivers(), TARGET, endpoint)
    with server_process(pair[1], TARGET.topic) as process:
        client = Client(drivers(), TARGET, timeout=LIMIT).prepare(fanout=True)
        process.kill()
        process.wait()
        for number in range(20):
            client.cast("echo", value=number)
    wait_until(lambda: len(endpoint.asked) == 20, LIMIT)


def test_a_restarted_proxy_is_used_again(
    nodes: Callable[[], Node], serve: Serve, listen: Callable[..., None]
) -> None:
    node = nodes()
    node.start(whole=True)
    endpoint, sink = Endpoint(), Sink()
    serve(node.driver(), TARGET, endpoint)
    listen(node.driver(), sink)
    driver = node.driver()
    client = Client(driver, TARGET, timeout=LIMIT).prepare(fanout=True)
    notifier = Notifier(driver, "events", "test")
    client.cast("echo", value=1)
    notifier.info("happened", 1)
    wait_until(lambda: endpoint.asked and sink.seen, LIMIT)
    node.end(signal.SIGKILL)
    node.start(whole=True)

    def arrives() -> bool:
        client.cast("echo", value=2)
        notifier.info("happened", 2)
        return 2 in endpoint.asked and ("info", 2) in sink.seen

    wait_until(arrives, LIMIT)


def test_a_fanout_waits_for_listeners_that_connect_to_a_proxy_that_has_just_started(
    nodes: Callable[[], Node], serve: Serve
) -> None:
    """As after a restart: the listeners are there, and their proxy does not know them yet."""
    node = nodes()
    node.start(whole=True)
    endpoint = Endpoint()
    client = Client(node.driver(), TARGET, timeout=LIMIT).prepare(fanout=True)
    cast = InBackground(lambda: client.cast("echo", value=1))
    wait_until(lambda: figure(node, "clients") == 1, LIMIT)
    serve(node.driver(), TARGET, endpoint)
    assert cast.join() is None
    wait_until(lambda: endpoint.asked == [1], LIMIT)
