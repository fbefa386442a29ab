"""Casts that servers acknowledge: none is lost, and none is run twice, whatever dies or is late.

Each has a control without the option, which loses the cast.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable

import pytest
import zmq

from hbshim import messaging
from hbshim.errors import ConnectError, DeliveryError, UnroutableError
from hbshim.heartbeat import service
from hbshim.messaging import Client, Driver, Payload, Server, Target
from hbshim.messaging.zmq.frames import Flag, Header, Kind, decode, encode
from hbshim.messaging.zmq.settings import SocketSettings
from hbshim.messaging.zmq.sockets import make
from tests.messaging.endpoints import Endpoint
from tests.messaging.zmq.nodes import LIMIT, InBackground, Node, figure, server_process
from tests.messaging.zmq.relay import Relay
from tests.waiting import wait_until

Serve = Callable[..., Server]
Nodes = Callable[[], Node]

TARGET = Target("compute")

#: Seconds for an acknowledgement: short where one server recognises what is sent again; longer
#: where another one must not get it too early on a busy machine.
SHORT, LONG = 0.4, 3.0


def acknowledged(driver: Callable[..., Driver], *others: Node, wait: float = SHORT) -> Client:
    """A client whose casts are acknowledged, and sent again as often as necessary."""
    options = {"rpc_use_acks": True, "rpc_ack_timeout_base": wait, "rpc_retry_attempts": -1}
    made = driver(*others, rpc_ack_timeout_multiplier=1, **options)
    return Client(made, TARGET, timeout=LIMIT)


def sent_again() -> int:
    """How often clients of this process have missed an acknowledgement."""
    return service.current().metrics.snapshot().get("zmq_unacknowledged", 0)


def read(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_cast_returns_when_a_server_has_begun_it(
    node: Node, serve: Serve, endpoint: Endpoint
) -> None:
    serve(node.driver(), TARGET.to(server="one"), endpoint, workers=1)
    client = acknowledged(node.driver)
    client.cast("hold", value="held")
    cast = InBackground(lambda: client.prepare(server="one").cast("echo", value="x" * 600_000))
    wait_until(lambda: endpoint.asked == ["held"], LIMIT)
    before = sent_again()
    # The server is slow: the cast is sent again, and run once.
    wait_until(lambda: sent_again() >= before + 2, LIMIT)
    assert cast.outcome is None
    assert endpoint.asked == ["held"]
    endpoint.release.set()
    assert cast.join() is None
    assert client.call("echo", value="last") == "last"
    assert endpoint.asked == ["held", "x" * 600_000, "last"]
    wait_until(lambda: figure(node, "outstanding") == 0, LIMIT)


@pytest.mark.parametrize("acknowledge", ["before", "after"])
def test_a_server_that_acknowledges_after_the_work_does_so_to_its_sender_before(
    node: Node, serve: Serve, endpoint: Endpoint, acknowledge: str
) -> None:
    serve(node.driver(), TARGET, endpoint, acknowledge=acknowledge, workers=2)
    client = acknowledged(node.driver)
    client.cast("hold", value="held")
    client.cast("echo", value=1)
    endpoint.release.set()
    wait_until(lambda: len(endpoint.asked) == 2, LIMIT)


@pytest.mark.parametrize("acks", [True, False])
def test_a_server_is_killed_before_it_began_and_another_one_runs_it(
    nodes: Nodes, serve: Serve, acks: bool
) -> None:
    one, two = nodes(), nodes()
    for node in (one, two):
        node.start()
    endpoint = Endpoint()
    sure = acknowledged(one.driver, two, wait=LONG)
    client = sure if acks else Client(one.driver(two), TARGET, timeout=LIMIT)
    with server_process(one, TARGET.topic) as process:
        for _ in range(2):
            sure.cast("hold")
            assert read(process) == "holding"
        # Both workers are busy: it waits in the server.
        cast = InBackground(lambda: client.cast("echo", value="waits"))
        wait_until(lambda: figure(one, "handed_over") == 3, LIMIT)
        serve(two.driver(), TARGET, endpoint)
        process.kill()
    cast.join()
    sure.cast("echo", value="last")
    wait_until(lambda: "last" in endpoint.asked, LIMIT)
    # What was begun is not run again.
    assert endpoint.asked == (["waits", "last"] if acks else ["last"])


@pytest.mark.parametrize("acks", [True, False])
def test_a_proxy_is_killed_and_its_queue_with_it(
    node: Node, serve: Serve, endpoint: Endpoint, acks: bool
) -> None:
    serve(node.driver(), TARGET, endpoint, workers=1, prefetch=1)
    sure = acknowledged(node.driver)
    client = sure if acks else Client(node.driver(), TARGET, timeout=LIMIT)
    sure.cast("hold", value="held")
    # One waits in the server, and the others in the proxy.
    casts = [InBackground(lambda n=n: client.cast("echo", value=n)) for n in range(4)]  # type: ignore[misc]
    wait_until(lambda: figure(node, "waiting") == 3, LIMIT)
    node.end(signal.SIGKILL)
    node.start()
    endpoint.release.set()
    for cast in casts:
        assert cast.join() is None
    sure.cast("echo", value="last")
    wait_until(lambda: "last" in endpoint.asked, LIMIT)
    assert endpoint.asked[0] == "held"
    if acks:
        assert sorted(endpoint.asked[1:-1]) == list(range(4))
    else:
        assert len(endpoint.asked) == 3


def test_an_acknowledgement_that_was_lost_with_a_proxy_is_sent_again_to_the_next_one(
    node: Node, serve: Serve, endpoint: Endpoint
) -> None:
    """Else the cast would be sent again, perhaps to another process."""
    serve(node.driver(), TARGET, endpoint, workers=1)
    client = acknowledged(node.driver, wait=600)
    client.cast("hold", value="held")
    cast = InBackground(lambda: client.cast("echo", value=1))
    wait_until(lambda: figure(node, "handed_over") == 2, LIMIT)
    node.send_signal(signal.SIGSTOP)
    endpoint.release.set()
    wait_until(lambda: endpoint.asked == ["held", 1], LIMIT)
    node.end(signal.SIGKILL)
    node.start()
    assert cast.join() is None
    assert endpoint.asked == ["held", 1]


def test_what_a_busy_server_has_not_begun_goes_to_another_host_and_runs_once(
    nodes: Nodes, serve: Serve
) -> None:
    one, two = nodes(), nodes()
    one.start()
    two.start()
    busy, idle = Endpoint("busy"), Endpoint("idle")
    serve(one.driver(), TARGET, busy, workers=1, prefetch=10)
    client = acknowledged(one.driver, two, wait=LONG)
    client.cast("hold", value="held")
    casts = [InBackground(lambda n=n: client.cast("echo", value=n)) for n in range(5)]  # type: ignore[misc]
    wait_until(lambda: figure(one, "handed_over") == 6, LIMIT)
    serve(two.driver(), TARGET, idle)
    for cast in casts:
        assert cast.join() is None
    busy.release.set()
    wait_until(lambda: client.call("echo", value="last") and "last" in busy.asked, LIMIT)
    assert [value for value in busy.asked if value != "last"] == ["held"]
    assert sorted(value for value in idle.asked if value != "last") == list(range(5))


def test_a_paused_server_leaves_them_to_another_host(nodes: Nodes, serve: Serve) -> None:
    one, two = nodes(), nodes()
    one.start()
    two.start()
    first, second = Endpoint("first"), Endpoint("second")
    paused = serve(one.driver(), TARGET, first)
    serve(two.driver(), TARGET, second)
    client = acknowledged(one.driver, two, wait=LONG)
    paused.pause()
    casts = [InBackground(lambda n=n: client.cast("echo", value=n)) for n in range(6)]  # type: ignore[misc]
    for cast in casts:
        assert cast.join() is None
    paused.resume()
    wait_until(lambda: client.call("echo", value="last") and "last" in first.asked, LIMIT)
    assert [value for value in first.asked if value != "last"] == []
    assert sorted(value for value in second.asked if value != "last") == list(range(6))


def test_an_acknowledgement_that_is_lost_has_nothing_run_twice(
    node: Node, serve: Serve, endpoint: Endpoint
) -> None:
    """The proxy recognises the copy, which could go to the other server."""
    for _ in range(2):
        serve(node.driver(), TARGET, endpoint)
    with Relay(node.address, 9501) as relay:
        driver = messaging.connect(
            f"hbzmq://{relay.address}/", rpc_use_acks=True, rpc_ack_timeout_base=SHORT
        )
        client = Client(driver, TARGET, timeout=LIMIT)
        try:
            client.cast("echo", value=0)
            for number in range(1, 4):
                relay.swallows = True
                cast = InBackground(lambda n=number: client.cast("echo", value=n))  # type: ignore[misc]
                wait_until(lambda n=number: n in endpoint.asked, LIMIT)  # type: ignore[misc]
                wait_until(lambda: relay.swallowed, LIMIT)
                assert cast.outcome is None
                relay.cut()
                relay.swallows = False
                relay.swallowed = 0
                assert cast.join() is None
            assert endpoint.asked == [0, 1, 2, 3]
        finally:
            driver.close()


def test_an_acknowledgement_is_asked_for_where_its_connection_broke(
    nodes: Nodes, serve: Serve
) -> None:
    """So no copy goes to the other host."""
    one, two = nodes(), nodes()
    one.start()
    two.start()
    first, second = Endpoint("first"), Endpoint("second")
    serve(one.driver(), TARGET, first)
    serve(two.driver(), TARGET, second)
    with Relay(one.address, 9501) as relay:
        driver = messaging.connect(
            f"hbzmq://{relay.address},{two.address}/", rpc_use_acks=True, rpc_ack_timeout_base=LONG
        )
        client = Client(driver, TARGET, timeout=LIMIT)
        try:
            wait_until(lambda: client.call("who") == "first", LIMIT)
            for number in range(4):
                relay.swallows = True
                cast = InBackground(lambda n=number: client.cast("echo", value=n))  # type: ignore[misc]
                wait_until(lambda n=number: n in first.asked + second.asked, LIMIT)  # type: ignore[misc]
                if number in first.asked:
                    wait_until(lambda: relay.swallowed, LIMIT)
                    relay.cut()
                relay.swallows = False
                relay.swallowed = 0
                assert cast.join() is None
            asked = [value for value in first.asked + second.asked if value != "who"]
            assert sorted(asked) == list(range(4))
            assert set(first.asked) & set(range(4))
        finally:
            driver.close()


def test_a_process_recognises_copies_whichever_of_its_servers_gets_them_and_so_does_a_proxy(
    node: Node, serve: Serve, endpoint: Endpoint
) -> None:
    for _ in range(2):
        serve(node.driver(), TARGET, endpoint)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    # What the specification has: the proxy cannot tell it from a router.
    dealer = make(context, "server-call", SocketSettings(), b"test")
    try:
        dealer.connect(f"tcp://{node.address}:9501")
        assert dealer.poll(int(LIMIT * 1000), zmq.POLLOUT)
        header = Header(
            *(Kind.CAST, b"i" * 16, Flag.ACKNOWLEDGED),
            exchange="openstack_rpc",
            topic=TARGET.topic,
            content_type="application/json",
        )
        acknowledged: list[bytes] = []

        def answered() -> bool:
            while dealer.poll(10):
                message = dealer.recv_multipart()
                if message != [b""] and decode(message[-1]).kind is Kind.ACK:
                    acknowledged.append(decode(message[-1]).id)
            return len(acknowledged) == sent

        # Without the flag that has the proxy answer itself; one after the other, to both servers.
        body = b'{"method": "echo", "args": {"value": 1}}'
        for _ in range(4):
            dealer.send(encode(header) + body)
        sent = 4
        wait_until(answered, LIMIT)
        assert figure(node, "handed_over") == 4
        again = header._replace(flags=Flag.ACKNOWLEDGED | Flag.AGAIN)
        dealer.send(encode(again) + body)
        sent = 5
        wait_until(answered, LIMIT)
        assert figure(node, "handed_over") == 4
        assert acknowledged == [header.id] * 5
        assert endpoint.asked == [1]
    finally:
        dealer.close(linger=0)
        context.term()


def test_a_driver_that_is_closed_ends_its_casts(
    node: Node, serve: Serve, endpoint: Endpoint
) -> None:
    serve(node.driver(), TARGET, endpoint).pause()
    client = acknowledged(node.driver, wait=600)
    cast = InBackground(lambda: client.cast("echo", value=1))
    wait_until(lambda: figure(node, "waiting") == 1, LIMIT)
    client.driver.close()
    assert "closed" in str(cast.join())


def test_it_fails_when_no_server_acknowledges(
    nodes: Nodes, serve: Serve, endpoint: Endpoint
) -> None:
    node = nodes()
    client = acknowledged(node.driver).prepare(timeout=1)
    with pytest.raises(ConnectError, match=r"'compute': no host took it in time .*be reached"):
        client.cast("echo", value=1)
    node.start()
    with pytest.raises(UnroutableError, match="'compute': nothing that takes it is known"):
        client.cast("echo", value=1)
    with pytest.raises(UnroutableError, match="nothing that takes it is known"):
        client.driver.cast(TARGET, Payload(b"{}"), LIMIT, mandatory=True)
    server = serve(node.driver(), TARGET, endpoint)
    server.pause()
    with pytest.raises(DeliveryError, match=r"was sent \d times, and not acknowledged"):
        client.cast("echo", value="late")
    few = node.driver(rpc_use_acks=True, rpc_ack_timeout_base=0.1, rpc_retry_attempts=1)
    with pytest.raises(DeliveryError, match=r"was sent 2 times, .*no acknowledgement"):
        Client(few, TARGET, timeout=LIMIT).cast("echo", value="late")
    server.resume()
    assert client.prepare(timeout=LIMIT).call("echo", value="last") == "last"
    assert endpoint.asked == ["last"]
