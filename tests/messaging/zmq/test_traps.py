"""The rules for sockets: each as it is kept, and some with a control that fails without it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

import hbshim
from hbshim.messaging.zmq.frames import HEADER_LIMIT, INSTANCE_SIZE, NAME_LIMIT, PART_LIMIT
from hbshim.messaging.zmq.loop import try_send
from hbshim.messaging.zmq.settings import SocketSettings
from hbshim.messaging.zmq.sockets import LOCAL, ROLES, Role, make, options_of
from hbshim.messaging.zmq.subscriptions import Subscribers, end_marker
from tests.messaging.zmq.nodes import LIMIT, own_address
from tests.waiting import wait_until

SOURCES = sorted((Path(hbshim.__file__).parent / "messaging" / "zmq").rglob("*.py"))

#: The modules that run in the thread of a loop, or make one.
IN_THE_LOOP = {
    *("connector.py", "io.py", "loop.py", "outbox.py", "peers.py", "link.py", "sockets.py"),
    *("requests.py", "clients.py", "servers.py", "router.py"),
    *("publisher.py", "pusher.py", "subscriber.py"),
    # The sockets that ZeroMQ's own proxy owns, in its thread, and those for figures.
    *("access.py", "endpoints.py", "pubsub.py", "control.py"),
    # It makes keys, and no socket.
    "keys_command.py",
}


Make = Callable[..., "zmq.Socket[bytes]"]


@pytest.fixture
def new() -> Iterator[Make]:
    """Make sockets as hbshim does; each is closed when the test ends."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    made: list[zmq.Socket[bytes]] = []

    def socket(role: Role, name: bytes | None = None) -> zmq.Socket[bytes]:
        made.append(make(context, role, SocketSettings(), name))
        return made[-1]

    yield socket
    for each in made:
        each.close(linger=0)
    context.term()


@pytest.mark.parametrize("role", ROLES)
def test_the_options_of_every_socket(role: Role) -> None:
    options = options_of(role, SocketSettings(heartbeat_interval=32))
    assert options[zmq.RCVHWM] == 0
    if ROLES[role][0] in (zmq.SUB, zmq.XSUB):
        assert options[zmq.SNDHWM] == 0  # of subscriptions
    else:
        assert 0 < options[zmq.SNDHWM] < 100_000
    assert options[zmq.IMMEDIATE] == 1
    assert 0 <= options[zmq.LINGER] < 60_000
    longest = 5 * (NAME_LIMIT + 1) + INSTANCE_SIZE + HEADER_LIMIT + PART_LIMIT
    assert longest <= options[zmq.MAXMSGSIZE] < 2 * PART_LIMIT
    # The TTL has 16 bits for tenths of a second.
    assert options[zmq.HEARTBEAT_IVL] < options[zmq.HEARTBEAT_TIMEOUT] <= 32_000
    assert options[zmq.HEARTBEAT_TTL] <= 64_000
    kind, binds = ROLES[role]
    if kind == zmq.ROUTER:
        assert options[zmq.ROUTER_MANDATORY] == options[zmq.ROUTER_HANDOVER] == 1
    assert options[zmq.HANDSHAKE_IVL] == 5000
    assert (zmq.CONNECT_TIMEOUT in options) == (not binds)
    assert (zmq.TCP_KEEPALIVE in options) == (role not in LOCAL)


@pytest.mark.parametrize("role", ROLES)
def test_without_heartbeats_none_are_asked_for(new: Make, role: Role) -> None:
    options = options_of(role, SocketSettings(heartbeat_interval=0, keepalive=(0, -1, -1, -1)))
    assert not {zmq.HEARTBEAT_IVL, zmq.HEARTBEAT_TTL, zmq.TCP_KEEPALIVE_IDLE} & set(options)
    made = new(role, b"name")
    assert made.get(zmq.ROUTING_ID) == b"name"


def test_only_modules_of_the_loop_touch_sockets() -> None:
    assert len(SOURCES) > 20
    for source in SOURCES:
        text = source.read_text(encoding="utf-8")
        assert ("import zmq\n" in text) <= (source.name in IN_THE_LOOP), source
        # pyzmq's garbage thread, its authentication thread and its shared context use locks
        # that may be green; and a green socket, or its descriptor, belongs to a hub.
        for word in ("copy=False", "zmq.auth", "Context.instance", "zmq.green", "zmq.FD"):
            assert word not in text, source


@pytest.mark.parametrize("immediate", [1, 0])
def test_a_host_that_is_down_is_known_at_once_and_not_with_immediate_off(
    new: Make, immediate: int
) -> None:
    address = f"tcp://{own_address()}:9501"
    proxy = new("proxy-call", b"host")
    proxy.bind(address)
    client = new("client-call", b"client")
    client.set(zmq.IMMEDIATE, immediate)
    client.connect(address)
    # Its probe; the answer names the peer to the client. An untouched socket sends none.
    wait_until(lambda: client.get(zmq.EVENTS) is not None and proxy.poll(10), LIMIT)
    assert proxy.recv_multipart() == [b"client", b""]
    assert not try_send(proxy, [b"client", b"hello"])
    wait_until(lambda: client.poll(10), LIMIT)
    assert client.recv_multipart() == [b"host", b"hello"]
    assert not try_send(client, [b"host", b"request"])
    proxy.close(linger=0)
    if immediate:
        wait_until(lambda: try_send(client, [b"host", b"lost"]) == zmq.EHOSTUNREACH, LIMIT)
        return
    until = time.monotonic() + 0.5
    taken = 0
    while time.monotonic() < until:
        taken += not try_send(client, [b"host", b"lost"])
        time.sleep(0.005)
    assert taken > 20
    assert try_send(client, [b"host", b"lost"]) != zmq.EHOSTUNREACH


def test_a_router_that_is_not_mandatory_drops_without_a_word(new: Make) -> None:
    client = new("client-call")
    assert try_send(client, [b"unknown", b"lost"]) == zmq.EHOSTUNREACH
    client.set(zmq.ROUTER_MANDATORY, 0)
    assert try_send(client, [b"unknown", b"lost"]) == 0


@pytest.mark.parametrize("kind", ["XPUB", "PUB"])
def test_a_marker_tells_when_nothing_is_lost_and_a_plain_publisher_loses_the_first(
    new: Make, kind: str
) -> None:
    """The slow joiner: a publisher that has just connected knows of no subscription yet."""
    address = f"tcp://{own_address()}:9502"
    subscriber = new("server-subscribe")
    subscriber.set(zmq.SUBSCRIBE, b"topic/")
    subscriber.set(zmq.SUBSCRIBE, end_marker(bytes(16)))
    # Here it binds, as the proxy does for it; the publisher is the one that connects.
    subscriber.bind(address)
    publisher = new("client-publish")
    publisher.connect(address)
    if kind == "XPUB":
        subscribers = Subscribers()

        def complete() -> bool:
            # A socket that nothing touches sends no subscription to a new connection.
            subscriber.get(zmq.EVENTS)
            while publisher.poll(10):
                subscribers.take(publisher.recv())
            return not subscribers.missing([bytes(16)])

        wait_until(complete, LIMIT)
    for number in range(100):
        assert not try_send(publisher, [b"topic/", b"%d" % number])
    assert not try_send(publisher, [b"topic/", b"last"]) or kind == "PUB"
    received: list[bytes] = []

    def last() -> bool:
        if kind == "PUB":
            try_send(publisher, [b"topic/", b"last"])
        while subscriber.poll(10):
            received.append(subscriber.recv_multipart()[1])
        return b"last" in received

    wait_until(last, LIMIT)
    first = [each for each in received if each != b"last"]
    assert len(first) == (100 if kind == "XPUB" else 0)


@pytest.mark.parametrize("limit", [0, 10])
def test_subscriptions_beyond_the_limit_are_lost_so_there_is_none(new: Make, limit: int) -> None:
    address = f"tcp://{own_address()}:9502"
    subscriber = new("server-subscribe")
    if limit:
        subscriber.set(zmq.SNDHWM, limit)
    for number in range(2000):
        subscriber.set(zmq.SUBSCRIBE, b"%d/" % number)
    subscriber.connect(address)
    publisher = new("client-publish")
    publisher.bind(address)
    seen: set[bytes] = set()

    def take() -> bool:
        subscriber.get(zmq.EVENTS)  # see above
        while publisher.poll(200):
            seen.add(publisher.recv())
        return bool(seen) and (limit > 0 or len(seen) == 2000)

    wait_until(take, LIMIT)
    assert (len(seen) == 2000) == (limit == 0)


@pytest.mark.parametrize("nodrop", [1, 0])
def test_a_subscriber_that_does_not_keep_up_is_an_error_and_silence_without_the_option(
    new: Make, nodrop: int
) -> None:
    address = f"tcp://{own_address()}:9502"
    publisher = new("client-publish")
    publisher.set(zmq.SNDHWM, 10)
    publisher.set(zmq.SNDBUF, 8192)
    publisher.set(zmq.XPUB_NODROP, nodrop)
    publisher.bind(address)
    subscriber = new("server-subscribe")
    subscriber.set(zmq.RCVHWM, 1)  # as a process that does not run: it stops reading
    subscriber.set(zmq.RCVBUF, 8192)
    subscriber.set(zmq.HEARTBEAT_IVL, 0)
    subscriber.set(zmq.SUBSCRIBE, b"topic/")
    subscriber.connect(address)
    wait_until(lambda: subscriber.get(zmq.EVENTS) is not None and publisher.poll(10), LIMIT)
    assert publisher.recv() == b"\1topic/"
    errors = {try_send(publisher, [b"topic/", bytes(10_000)]) for _ in range(2000)}
    assert errors == ({0, zmq.EAGAIN} if nodrop else {0})
