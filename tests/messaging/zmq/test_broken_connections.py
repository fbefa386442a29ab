"""What becomes of the calls that are under way as a connection breaks, and both ends live on."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import zmq

from hbshim import messaging
from hbshim.errors import CallTimeoutError, LostServerError
from hbshim.messaging import Client, Server, Target
from hbshim.messaging.zmq import peers, sockets
from hbshim.messaging.zmq.driver import ZmqDriver
from hbshim.messaging.zmq.settings import SocketSettings
from hbshim.messaging.zmq.sockets import make
from tests.messaging.endpoints import Endpoint
from tests.messaging.wires import Wires
from tests.messaging.zmq.nodes import LIMIT, InBackground, Node, figure, own_address, refused
from tests.waiting import wait_until

Serve = Callable[..., Server]

TARGET = Target("compute")

#: Longer than what else is sent while it is on its way.
VALUE = "x" * 20_000


@dataclass
class Between:
    """A host, and what can be broken there.

    Attributes:
        clients, servers: the connections of its proxy.
        url, ipc: for drivers whose connections these are.
    """

    node: Node
    clients: Wires
    servers: Wires
    url: str
    ipc: str


@pytest.fixture
def between(nodes: Callable[[], Node]) -> Iterator[Between]:
    node = nodes()
    node.start("--grace", "600")
    address, ipc = own_address(), tempfile.mkdtemp(prefix="hbz")
    clients = Wires({(address, 9501): (node.address, 9501)})
    # Fanouts need none here.
    servers = Wires({f"{ipc}/servers": f"{node.ipc}/servers"})
    yield Between(node, clients, servers, f"hbzmq://{address}/", ipc)
    clients.close()
    servers.close()
    shutil.rmtree(ipc)


@pytest.fixture
def driver(between: Between) -> Iterator[messaging.Driver]:
    made = messaging.connect(between.url, rpc_zmq_ipc_dir=between.ipc)
    yield made
    made.close()


@pytest.fixture
def client(driver: messaging.Driver, serve: Serve, endpoint: Endpoint) -> Client:
    serve(driver, TARGET, endpoint)
    made = Client(driver, TARGET, timeout=600)
    assert made.call("echo", value="connected") == "connected"
    endpoint.asked.clear()
    return made


@pytest.fixture(params=["clients", "servers"])
def wires(request: pytest.FixtureRequest, between: Between) -> Wires:
    """Those between the client and the proxy, then those between the proxy and the server."""
    found: Wires = getattr(between, request.param)
    return found


def swallowed(wires: Wires) -> bool:
    return wires.swallowed >= len(VALUE)


def test_a_request_that_did_not_arrive_is_sent_again_and_run_once(
    between: Between, client: Client, endpoint: Endpoint
) -> None:
    between.clients.swallow()
    call = InBackground(lambda: client.call("echo", value=VALUE))
    wait_until(lambda: swallowed(between.clients), LIMIT)
    between.clients.cut()
    assert call.join() == VALUE
    assert endpoint.asked == [VALUE]


def test_a_request_that_the_server_did_not_get_is_known_to_be_lost(
    between: Between, client: Client, endpoint: Endpoint
) -> None:
    between.servers.swallow()
    call = InBackground(lambda: client.call("echo", value=VALUE))
    wait_until(lambda: swallowed(between.servers), LIMIT)
    between.servers.cut()
    assert isinstance(call.join(), LostServerError)
    assert client.call("echo", value="next") == "next"
    assert endpoint.asked == ["next"]
    assert figure(between.node, "outstanding") == 0


def test_a_reply_that_did_not_arrive_is_known_to_be_lost(
    between: Between, client: Client, endpoint: Endpoint, wires: Wires
) -> None:
    call = InBackground(lambda: client.call("hold", value=VALUE))
    wait_until(lambda: endpoint.asked, LIMIT)
    wires.swallow()
    endpoint.release.set()
    wait_until(lambda: swallowed(wires), LIMIT)
    wires.cut()
    assert isinstance(call.join(), LostServerError)
    assert client.call("echo", value="next") == "next"
    assert endpoint.asked == [VALUE, "next"]
    assert figure(between.node, "outstanding") == 0


def test_calls_that_wait_or_run_are_answered_after_a_break(
    between: Between, driver: messaging.Driver, serve: Serve, endpoint: Endpoint, wires: Wires
) -> None:
    """Some run, some wait in the server, and some in the proxy; none is on its way."""
    assert isinstance(driver, ZmqDriver)

    def arrived() -> bool:
        status = driver.zmq_status()
        handed_over, waiting = (figure(between.node, name) for name in ("outstanding", "waiting"))
        received = 0 if status is None else status.received["call"]
        return handed_over + waiting == len(calls) and received == handed_over

    serve(driver, TARGET, endpoint, workers=1, prefetch=2)
    client = Client(driver, TARGET, timeout=600)
    calls = [InBackground(lambda n=n: client.call("hold", value=n)) for n in range(6)]  # type: ignore[misc]
    wait_until(lambda: endpoint.asked and arrived(), LIMIT)
    before = wires.opened
    wires.cut()
    wait_until(lambda: wires.opened > before, LIMIT)
    endpoint.release.set()
    assert [call.join() for call in calls] == list(range(6))
    assert sorted(endpoint.asked) == list(range(6))


def test_calls_that_run_are_answered_where_a_connection_breaks_to_a_proxy_that_stops(
    between: Between,
    driver: messaging.Driver,
    client: Client,
    endpoint: Endpoint,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert isinstance(driver, ZmqDriver)

    def connected() -> int:
        status = driver.zmq_status()
        return 0 if status is None else status.hosts["call"]

    # However long the machine takes to connect again.
    monkeypatch.setattr(peers, "DEAD_AFTER", 600)
    call = InBackground(lambda: client.call("hold", value="held"))
    wait_until(lambda: endpoint.asked, LIMIT)
    between.node.send_signal(signal.SIGTERM)
    wait_until(lambda: refused(client), LIMIT)
    between.clients.stop()
    wait_until(lambda: not connected(), LIMIT)
    between.clients.accept()
    wait_until(connected, LIMIT)
    endpoint.release.set()
    assert call.join() == "held"
    assert between.node.wait() == 0


def test_a_call_that_expires_in_its_server_does_not_stay_in_the_proxy(
    node: Node, serve: Serve, endpoint: Endpoint
) -> None:
    """A proxy that stops would wait for its answer."""
    serve(node.driver(), TARGET, endpoint, workers=1)
    client = Client(node.driver(), TARGET, timeout=LIMIT)
    client.cast("hold", value="busy")
    wait_until(lambda: endpoint.asked, LIMIT)
    with pytest.raises(CallTimeoutError):
        client.prepare(timeout=1).call("echo", value="late")
    # The server counts from the arrival of the call, which may be late on a busy machine.
    expired = time.monotonic() + 2
    wait_until(lambda: time.monotonic() > expired, LIMIT)
    endpoint.release.set()
    assert client.call("echo", value="next") == "next"
    wait_until(lambda: figure(node, "outstanding") == 0, LIMIT)
    assert endpoint.asked == ["busy", "next"]


def test_a_client_connects_again_where_the_handshake_was_not_answered(
    nodes: Callable[[], Node], serve: Serve, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a host dies, or its network, just then: no packet reports it."""
    monkeypatch.setattr(sockets, "HANDSHAKE_WITHIN", 1000)
    node = nodes()
    with socket.create_server((node.address, 9501)) as port:
        call = InBackground(
            lambda: Client(node.driver(), TARGET, timeout=600).call("echo", value=1)
        )
        silent, _ = port.accept()
    with silent:
        node.start()
        serve(node.driver(), TARGET, endpoint)
        # ZeroMQ's own limit is 30 s.
        assert call.join(20) == 1


@pytest.mark.parametrize("limited", [True, False])
def test_a_connection_that_nothing_answers_is_tried_anew(
    limited: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control leaves it to the kernel, which waits for 1, 2, 4 s and so on, to two minutes."""
    monkeypatch.setattr(sockets, "CONNECT_WITHIN", 200)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with contextlib.ExitStack() as stack:
        stack.callback(context.destroy, linger=0)
        port = stack.enter_context(socket.socket())
        port.bind((own_address(), 0))
        port.listen(0)
        # A full queue: what comes now is dropped, and not refused.
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(port.getsockname())
        made = make(context, "client-call", SocketSettings(), b"client")
        if not limited:
            made.set(zmq.CONNECT_TIMEOUT, 0)
        monitor = made.get_monitor_socket(zmq.EVENT_CONNECT_RETRIED)
        host, number = port.getsockname()
        made.connect(f"tcp://{host}:{number}")
        assert bool(monitor.poll(30_000 if limited else 1_000)) == limited
        made.disable_monitor()
