"""CAST over one way: what arrives, what is dropped, and what a client keeps."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from hbshim import messaging
from hbshim.errors import ConnectError, UnroutableError
from hbshim.messaging import Client, Driver, Payload, Server, Target
from hbshim.messaging.zmq import frames, pusher
from hbshim.messaging.zmq.directory import HostRecord
from hbshim.messaging.zmq.frames import Header, Kind
from hbshim.messaging.zmq.loop import Loop
from hbshim.messaging.zmq.outcomes import Outcome
from hbshim.messaging.zmq.pusher import Cast, Pusher
from hbshim.messaging.zmq.settings import SocketSettings
from hbshim.messaging.zmq.sockets import make
from hbshim.messaging.zmq.traffic import Traffic
from hbshim.metrics import Metrics
from tests.messaging.endpoints import Endpoint
from tests.messaging.zmq.nodes import LIMIT, InBackground, Node, figure, own_address
from tests.waiting import wait_until

Serve = Callable[..., Server]

TARGET = Target("compute")

EXIT = """
import sys
from hbshim import messaging

driver = messaging.connect("hbzmq://", fanout_ds_address=sys.argv[1])
client = messaging.Client(driver, messaging.Target("compute"), timeout=30)
for number in range(300):
    client.cast("echo", value=number)
"""


@pytest.fixture
def directory(tmp_path: Path) -> str:
    return f"file://{tmp_path}/directory"


@pytest.fixture
def start(nodes: Callable[[], Node], directory: str) -> Callable[[str], Node]:
    """Start hosts that are in the directory."""

    def start(name: str) -> Node:
        node = nodes()
        node.start("--host", name, "--directory", directory)
        return node

    return start


@pytest.fixture
def driver(directory: str) -> Iterator[Driver]:
    """A client's, which finds hosts by the directory."""
    made = messaging.connect("hbzmq://", fanout_ds_address=directory, zmq_target_update=0.2)
    yield made
    made.close()


def test_casts_of_a_known_route_arrive_in_order_over_one_way(
    start: Callable[[str], Node], serve: Serve, driver: Driver, endpoint: Endpoint, directory: str
) -> None:
    """Also those of a program that ends at once, and does not close its driver."""
    node = start("one")
    serve(node.driver(), TARGET.to(server="one"), endpoint, workers=1)
    client = Client(driver, TARGET, timeout=LIMIT)
    for number in range(200):
        client.cast("echo", value=number)
    client.prepare(server="one").cast("echo", value="x" * 600_000)
    wait_until(lambda: len(endpoint.asked) == 201, LIMIT)
    assert endpoint.asked == [*range(200), "x" * 600_000]
    assert figure(node, "casts") == 201
    body = Payload(b'{"method": "echo", "args": {"value": "confirmed"}}')
    driver.cast(TARGET, body, LIMIT, mandatory=True)
    with pytest.raises(UnroutableError):
        driver.cast(TARGET.to(server="two"), body, LIMIT, mandatory=True)
    wait_until(lambda: len(endpoint.asked) == 202, LIMIT)
    subprocess.run([sys.executable, "-c", EXIT, directory], check=True, timeout=60)
    wait_until(lambda: len(endpoint.asked) == 502, LIMIT)
    assert endpoint.asked[201:] == ["confirmed", *range(300)]
    assert figure(node, "casts") == 501


def test_a_host_that_is_gone_is_passed_over_and_one_that_returns_is_used(
    start: Callable[[str], Node], serve: Serve, driver: Driver, directory: str
) -> None:
    first, second = Endpoint("first"), Endpoint("second")
    one, two = start("one"), start("two")
    serve(one.driver(), TARGET, first)
    serve(two.driver(), TARGET, second)
    client = Client(driver, TARGET, timeout=LIMIT)

    def reaches(endpoint: Endpoint) -> bool:
        client.cast("who")
        return bool(endpoint.asked)

    wait_until(lambda: reaches(first) and reaches(second), LIMIT)
    one.end(signal.SIGKILL)
    first.asked.clear()
    second.asked.clear()
    wait_until(lambda: reaches(second), LIMIT)
    one.start("--host", "one", "--directory", directory)
    wait_until(lambda: reaches(first), LIMIT)
    one.end()
    two.end()
    with pytest.raises(ConnectError, match="no host took the cast within"):
        for _ in range(100):
            client.prepare(timeout=0.5).cast("who")
            time.sleep(0.01)


def test_a_burst_of_casts_is_not_dropped_for_its_number(
    start: Callable[[str], Node], serve: Serve, driver: Driver, endpoint: Endpoint
) -> None:
    """Nothing slows the sender down: bytes and time bound what waits, and not a number."""
    node = start("one")
    serve(node.driver(), TARGET, endpoint, workers=1)
    client = Client(driver, TARGET, timeout=LIMIT)
    for number in range(5000):
        client.cast("echo", value=number)
    wait_until(lambda: len(endpoint.asked) == 5000, LIMIT)
    assert endpoint.asked == list(range(5000))
    assert figure(node, "casts_dropped") == 0


def test_a_proxy_counts_casts_that_it_cannot_place(node: Node) -> None:
    """Why a host that may not have the server gets none over one way: nothing else shows it."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    push = make(context, "client-cast", SocketSettings())
    try:
        push.connect(f"tcp://{node.address}:9504")
        unknown = Header(Kind.CAST, bytes(16), topic="unknown")
        wait_until(lambda: push.poll(100, zmq.POLLOUT), LIMIT)
        for frame in (
            frames.encode(unknown),
            b"no header",
            frames.encode(Header(Kind.CALL, bytes(16))),
        ):
            push.send(frame + b"{}")
        wait_until(lambda: figure(node, "malformed") == 2, LIMIT)
        assert figure(node, "casts") == figure(node, "casts_dropped") == 1
    finally:
        push.close(linger=0)
        context.term()


class Receiver:
    """A host's PULL socket, and the pusher of a client, whose loop runs when the test runs it."""

    def __init__(self, most_bytes: int, idle: float = 0.0) -> None:
        self.loop = Loop()
        self.metrics = Traffic(Metrics())
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self._context.socket(zmq.PULL)
        # As a proxy that does not run: nothing reads.
        self.socket.set(zmq.RCVHWM, 1)
        self.socket.set(zmq.RCVBUF, 65536)
        address = f"tcp://{own_address()}:9504"
        self.socket.bind(address)
        self.record = HostRecord("one", "1", {"cast": address}, frames.VERSION)
        settings = SocketSettings(linger=30.0)
        self.pusher = Pusher(self.loop, settings, most_bytes, idle, self.metrics)
        self.pusher.start()
        self.failures: list[Outcome | None] = []

    def send(self) -> bool:
        """Send a cast whose sender waits; return whether it was sent."""
        self.failures.clear()
        header = Header(Kind.CAST, bytes(16))
        self.pusher.send(self.record, Cast(header, b"", 60.0, self.failures.append))
        wait_until(lambda: self.run() or self.failures, LIMIT)
        return self.failures[0] is None

    def run(self) -> None:
        self.loop.run_once(0.01)

    def close(self) -> None:
        self.loop.end()
        self.socket.close(linger=0)
        self._context.term()


@pytest.fixture
def receiver() -> Iterator[Callable[..., Receiver]]:
    made: list[Receiver] = []

    def make(*settings: float) -> Receiver:
        made.append(Receiver(*settings))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_a_client_keeps_no_more_than_its_limit_and_loses_nothing_of_it(
    receiver: Callable[..., Receiver],
) -> None:
    host = receiver(1_000_000)
    assert host.send()
    body = bytes(200_000)
    offered = 0
    until = time.monotonic() + LIMIT
    # What the kernel and ZeroMQ keep comes first.
    while host.pusher.size < 700_000:
        assert time.monotonic() < until
        offered += host.pusher.offer(host.record, Cast(Header(Kind.CAST, bytes(16)), body, 60.0))
        if not host.pusher.offer(host.record, Cast(Header(Kind.CAST, bytes(16)), body, 60.0)):
            break
        offered += 1
    assert host.pusher.size <= 1_000_000
    # Behind the casts, as a driver that is closed does it.
    host.loop.post(host.pusher.close)
    received = 0
    while received < offered + 1:
        assert time.monotonic() < until
        host.run()
        while host.socket.poll(0):
            host.socket.recv_multipart()
            received += 1
    assert host.metrics.snapshot().get("zmq_casts_dropped", 0) == 0


def test_each_close_waits_until_all_was_sent_or_the_linger_time_is_over(
    start: Callable[[str], Node], serve: Serve, endpoint: Endpoint, directory: str
) -> None:
    node = start("one")
    serve(node.driver(), TARGET.to(server="one"), endpoint)
    patient, hasty = (
        messaging.connect("hbzmq://", fanout_ds_address=directory, zmq_linger=linger)
        for linger in (LIMIT, 0.2)
    )
    for each in (patient, hasty):
        Client(each, TARGET, timeout=LIMIT).cast("echo", value="first")
    wait_until(lambda: len(endpoint.asked) == 2, LIMIT)
    node.send_signal(signal.SIGSTOP)
    # More than the kernel takes.
    for each in (patient, hasty):
        for _ in range(3):
            Client(each, TARGET, timeout=LIMIT).cast("length", value="x" * 10_000_000)
    Client(patient, TARGET, timeout=LIMIT).cast("echo", value="last")
    closed: list[None] = []

    def close() -> None:
        patient.close()
        closed.append(None)

    closing = [InBackground(close) for _ in range(2)]
    hasty.close()
    assert not closed
    node.send_signal(signal.SIGCONT)
    for thread in closing:
        assert thread.join() is None
    wait_until(lambda: "last" in endpoint.asked, LIMIT)
    patient.close()


def test_a_signal_handler_that_casts_finds_no_lock(receiver: Callable[..., Receiver]) -> None:
    """It may run between any two lines of a cast of the same thread."""
    host = receiver(1_000_000)
    assert host.send()
    inner: list[bool] = []
    cast = Cast(Header(Kind.CAST, bytes(16)), b"", 60.0)
    post = host.loop.post

    def handler(command: Callable[[], None]) -> None:
        inner.append(host.pusher.offer(host.record, cast))
        post(command)

    host.loop.post = handler
    assert host.pusher.offer(host.record, cast)
    host.loop.post = post
    assert inner == [False]  # that one waits for the I/O thread instead
    wait_until(lambda: host.run() or host.pusher.size == 0, LIMIT)


def test_a_closed_pusher_is_forgotten(receiver: Callable[..., Receiver]) -> None:
    host = receiver(1_000_000)
    assert host.send()
    host.pusher.close()
    assert host.loop._keeping == []


def test_an_idle_host_is_disconnected_and_casts_that_are_late_are_dropped(
    receiver: Callable[..., Receiver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pusher, "_CHECK_EVERY", 0.02)
    host = receiver(1_000_000)
    assert host.send()
    (before,) = host.pusher._peers.values()
    host.pusher._idle = 0.1
    wait_until(lambda: host.run() or not host.pusher._peers, LIMIT)
    assert before.socket.closed
    host.pusher._idle = 0
    assert host.send()
    host.socket.close(linger=0)
    wait_until(lambda: not host.send(), LIMIT)
    (peer,) = host.pusher._peers.values()
    peer.ready = True  # as it is until the loss of the connection is noticed
    late = Cast(Header(Kind.CAST, bytes(16), topic="t"), b"", 0.05)
    assert host.pusher.offer(host.record, late)
    wait_until(lambda: host.run() or host.metrics.recorded(), LIMIT)
    assert [event.kind for event in host.metrics.recorded()] == ["zmq-cast-dropped"]
