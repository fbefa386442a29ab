"""Very much input, and very little to take it with: the proxy goes on serving."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import zmq

from hbshim.messaging import Client, Server
from hbshim.messaging.zmq import frames
from hbshim.messaging.zmq.frames import Header, Kind
from hbshim.messaging.zmq.proxy.control import ask
from tests.messaging.zmq.hostile import (
    GREETING,
    READY,
    TARGET,
    Attack,
    Attacker,
    Context,
    Endpoint,
    Host,
)
from tests.messaging.zmq.nodes import (
    LIMIT,
    Node,
    figures,
)
from tests.waiting import wait_until


def test_more_than_a_payload_may_have(attacked: Host, attack: Attack) -> None:
    """As one frame it ends the connection; in parts it is what its server refuses."""
    large = b"x" * (16 * 2**20 + 1)
    header = Header(Kind.CALL, bytes(16), exchange="openstack_rpc", topic="compute")
    for port, kind in ((9501, zmq.DEALER), (9502, zmq.PUB), (9503, zmq.PUB), (9504, zmq.PUSH)):
        attack(kind, f"tcp://{attacked.node.address}:{port}").send(frames.encode(header) + large)
    client = attack(zmq.DEALER, f"tcp://{attacked.node.address}:9501")
    for frame in frames.pack(header, large):
        client.send(frame)
    (frame,) = client.receive()
    answer = frames.unpack(frame)
    assert answer.header.kind is Kind.ERROR
    assert b"payload_limit" in answer.body
    attacked.is_well("large")


def test_a_client_that_asks_for_very_many_requests_and_reads_no_answer(
    attacked: Host, attack: Attack
) -> None:
    """Each request is answered, and the answers wait in the proxy; of too many it keeps nothing."""
    attacker = attack(zmq.DEALER, f"tcp://{attacked.node.address}:9501")
    asked = Header(Kind.OUTSTANDING, bytes(16))
    for number, frame in enumerate(frames.pack(asked, bytes(24 * 5_000_000))):
        attacker.send(frame)
        if number % Attacker.MARKS == 0:
            attacker.wait_until_counted(attacked)
            attacked.is_well(f"part {number}")
    for _ in range(20):
        attacker.send(*frames.pack(asked, bytes(24 * 10_000)))
    attacked.is_well("outstanding")


def test_a_server_with_very_many_keys(attacked: Host, attack: Attack) -> None:
    attacker = attack(zmq.DEALER, f"ipc://{attacked.node.ipc}/servers")
    greeting = Header(Kind.HELLO, b"many keys of it!")
    before = figures(attacked.node)["servers"]
    keys = [frames.key_of("e", f"t{number}") for number in range(500_000)]
    for frame in frames.pack(greeting, frames.encode_hello(1, keys)):
        attacker.send(frame)
    attacker.wait_until_counted(attacked)
    assert figures(attacked.node)["servers"] == before
    attacked.is_well("keys")


def test_a_million_subscriptions_at_the_port_for_fanouts(attacked: Host) -> None:
    """A publisher has none: to the proxy they are messages that nothing is subscribed to."""
    before = received(attacked)
    with socket.create_connection((attacked.node.address, 9502), timeout=LIMIT) as sock:
        sock.sendall(GREETING + READY)
        wait_until(lambda: sock.recv(4096, socket.MSG_PEEK)[64:65] == b"\4", LIMIT)
        for start in range(0, 1_000_000, 10_000):
            subscriptions = (b"\1%d" % number for number in range(start, start + 10_000))
            sock.sendall(b"".join(bytes((0, len(each))) + each for each in subscriptions))
        wait_until(lambda: received(attacked) >= before + 1_000_000, LIMIT)
    attacked.is_well("subscriptions")


def received(attacked: Host) -> float:
    """Messages that the process for fanouts has received."""
    figures = ask(attacked.node.ipc, ("fanout",))["fanout"]
    return 0.0 if figures is None else figures["messages_received"]


def test_subscriptions_of_a_listener_that_leaves(attacked: Host, context: Context) -> None:
    """They are the only ones that a proxy keeps; the user of its host sends them."""
    with context.socket(zmq.SUB) as listener:
        listener.connect(f"ipc://{attacked.node.ipc}/fanout")
        for number in range(50_000):
            listener.set(zmq.SUBSCRIBE, b"%d/" % number)
        listener.set(zmq.SUBSCRIBE, b"\xff" * 20_000)
        attacked.is_well("subscribed")
        listener.close(linger=0)
    attacked.is_well("left")


def test_without_descriptors_a_proxy_serves_those_that_are_connected() -> None:
    node = Node(within=["sh", "-c", 'ulimit -n 80; exec "$@"', "sh"])
    endpoint = Endpoint()
    try:
        node.start()
        driver = node.driver()
        server = Server(driver, TARGET, [endpoint])
        assert server.start(LIMIT)
        client = Client(driver, TARGET, timeout=LIMIT)
        assert client.call("echo", value="before") == "before"
        with ExitStack() as stack:
            for _ in range(200):
                address = node.address, 9501
                stack.enter_context(socket.create_connection(address, timeout=LIMIT))
            for number in range(20):
                assert client.call("echo", value=number) == number
        assert Client(node.driver(), TARGET, timeout=LIMIT).call("echo", value="new") == "new"
        assert server.stop(LIMIT)
    finally:
        node.close()
