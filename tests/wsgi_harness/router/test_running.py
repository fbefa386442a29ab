"""R13, and a router that is killed, started again and frozen."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.adapters.amqp1_peer import HEADER, open_frame
from tests.amqp1.peers import running
from tests.wsgi_harness.router.clients import Client
from tests.wsgi_harness.router.conftest import Starts
from wsgi_harness.errors import StackError
from wsgi_harness.router.plan import Plan, RunningRouter, free_port
from wsgi_harness.router.process import RouterProcess

Connect = Callable[..., Client]
Start = Callable[[Plan, int], RunningRouter]

TEXT = """
# Comments, and lines of key: value
router {
    mode: standalone
    id: r13
}
listener {
    host: 127.0.0.1
    port: PORT
    authenticatePeer: no   # the default
    idleTimeoutSeconds: 20
}
address {
    prefix: everybody
    distribution: multicast
}
"""


def plan(port: int) -> Plan:
    return Plan([("router", {"id": "r13"}), ("listener", {"host": "127.0.0.1", "port": port})])


def test_r13_lines_of_keys_and_values(start: Start, connect: Connect) -> None:
    port = free_port()
    start(Plan([], text=TEXT.replace("PORT", str(port))), port)
    clients = [connect(port) for _ in range(2)]
    assert clients[0].opened["idle"] == 10_000
    receivers = [client.receiver("everybody/here", 1) for client in clients]
    clients[0].send(clients[0].sender("everybody/here"))
    for client, receiver in zip(clients, receivers, strict=True):
        assert client.message(receiver)


@pytest.mark.parametrize(
    "entities",
    [
        [("router", {"id": "x", "colour": "red"})],
        [("router", {"id": "x"}), ("listener", {"port": 1, "maxFrameSize": "large"})],
        [("router", {"id": "x"}), ("queue", {"name": "x"})],
    ],
    ids=["unknown-attribute", "wrong-type", "unknown-entity"],
)
def test_r13_what_a_router_does_not_know_it_refuses(
    starts: Starts, entities: list[tuple[str, dict[str, object]]]
) -> None:
    with pytest.raises(StackError):
        starts(Plan(entities), free_port()).stop()


def test_the_begin_and_the_end_of_connections_are_reported(proton: Path) -> None:
    port = str(free_port())
    options = ("--port", port, "--idle-timeout", "2", "--report")
    with running(str(proton), "-m", "wsgi_harness.router", *options, stops=False) as router:
        assert [router.line(), router.line()] == [f"listening 127.0.0.1 {port}", "ready"]
        # Speaks, and falls silent.
        with socket.create_connection(("127.0.0.1", int(port))) as client:
            client.sendall(HEADER + open_frame(None))
            events = [json.loads(router.line()) for _ in range(2)]
    assert [event["kind"] for event in events] == ["opened", "closed"]
    assert [event["container"] for event in events] == ["peer", "peer"]
    assert events[0]["idle_timeout"] == 2
    assert events[1]["reason"].endswith("local-idle-timeout expired")


def test_a_router_that_is_killed_forgets_everything(start: Start, connect: Connect) -> None:
    port = free_port()
    router = start(plan(port), port)
    server, caller = connect(port), connect(port)
    receiver = server.receiver("killed", 1)
    sender = caller.sender("killed")
    lost = caller.send(sender)
    server.message(receiver)
    router.kill()
    server.wait_closed()
    caller.wait_closed()
    assert caller.fate(lost) == (None, False)
    router.restart()
    again = connect(port)
    assert again.outcome(again.send(again.sender(), to="killed")) == "released"


def test_a_frozen_router(start: Start, connect: Connect) -> None:
    port = free_port()
    router = start(plan(port), port)
    client = connect(port, idle_timeout=1)
    router.freeze()
    try:
        condition, _ = client.wait_closed()
    finally:
        router.thaw()
    assert condition == "amqp:resource-limit-exceeded"
    connect(port)


def test_a_router_of_the_other_dialect(proton: object, connect: Connect) -> None:
    port = free_port()
    router = RouterProcess(plan(port), dialect="dispatch")
    try:
        assert connect(port).opened["product"] == "qpid-dispatch-router"
    finally:
        router.stop()


def test_the_test_router_tells_why_it_does_not_start(proton: object) -> None:
    with pytest.raises(StackError, match="router has no attribute 'colour'; it has id, mode"):
        RouterProcess(Plan([("router", {"colour": "red"})]))
