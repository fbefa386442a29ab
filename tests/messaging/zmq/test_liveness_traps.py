"""What heartbeats, receive queues and frames do to each other in ZeroMQ, and the rules for it.

Each rule is kept by hbshim's own table of sockets; its control is the same socket without it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
import zmq
from zmq.utils.monitor import recv_monitor_message

from hbshim import messaging
from hbshim.errors import LostServerError
from hbshim.messaging import Client, Server, Target
from hbshim.messaging.zmq.settings import SocketSettings
from hbshim.messaging.zmq.sockets import Role, make
from tests.messaging.endpoints import Endpoint
from tests.messaging.zmq.nodes import LIMIT, InBackground, Node, own_address, server_process
from tests.waiting import wait_until
from wsgi_harness.wire.relay import Relay

Make = Callable[..., "zmq.Socket[bytes]"]

TARGET = Target("compute")


@pytest.fixture
def new() -> Iterator[Make]:
    """Make sockets as hbshim does, or with other options; each is closed when the test ends."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    made: list[zmq.Socket[bytes]] = []

    def socket(role: Role, name: bytes | None = None, **options: int) -> zmq.Socket[bytes]:
        made.append(make(context, role, SocketSettings(heartbeat_interval=1), name))
        for option, value in options.items():
            made[-1].set(getattr(zmq, option), value)
        return made[-1]

    yield socket
    for each in made:
        each.close(linger=0)
    context.term()


class Ends:
    """Counts the connections that a socket loses."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED)
        self._socket = socket
        self._count = 0

    def count(self) -> int:
        while self._monitor.poll(0):
            recv_monitor_message(self._monitor)
            self._count += 1
        return self._count

    def close(self) -> None:
        self._socket.disable_monitor()
        self._monitor.close(linger=0)


# -- a receive queue that is full ----------------------------------------------

#: A subscriber that is slower than its publisher, with heartbeats that are shorter than that:
#: ``python -c ... ADDRESS RCVHWM IMMEDIATE``.
SLOW_SUBSCRIBER = """
import sys, time, zmq
from hbshim.messaging.zmq.settings import SocketSettings
from hbshim.messaging.zmq.sockets import make
socket = make(zmq.Context(), "server-subscribe", SocketSettings(heartbeat_interval=1))
socket.set(zmq.RCVHWM, int(sys.argv[2]))
socket.set(zmq.IMMEDIATE, int(sys.argv[3]))
socket.set(zmq.HEARTBEAT_IVL, 200)
socket.set(zmq.HEARTBEAT_TIMEOUT, 200)
socket.set(zmq.SUBSCRIBE, b"")
socket.connect(sys.argv[1])
while True:
    socket.recv()
    time.sleep(0.6)
"""


@pytest.mark.skipif(
    zmq.zmq_version_info() > (4, 3, 5), reason="a later libzmq may have pull request 4830"
)
def test_heartbeats_and_a_full_receive_queue_abort_the_process() -> None:
    """Libzmq issue 3937; the rule is RCVHWM=0. IMMEDIATE=1 avoids it as well."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    publisher = context.socket(zmq.PUB)
    publisher.set(zmq.SNDHWM, 0)
    address = f"ipc://@hbshim-{os.getpid()}-slow"
    publisher.bind(address)
    started = {
        options: subprocess.Popen(
            [sys.executable, "-c", SLOW_SUBSCRIBER, address, *options], stderr=subprocess.PIPE
        )
        for options in (("1", "0"), ("0", "0"), ("0", "1"))
    }
    control = started.pop(("1", "0"))
    try:

        def aborted() -> bool:
            publisher.send(bytes(1000))
            return control.poll() is not None

        wait_until(aborted, LIMIT)
        assert control.returncode == -signal.SIGABRT
        assert [process.poll() for process in started.values()] == [None, None]
    finally:
        for process in (control, *started.values()):
            process.kill()
            errors = process.communicate()[1]
            assert (b"_input_stopped" in errors) == (process is control)
        context.destroy(linger=0)


@pytest.mark.parametrize("limit", [0, 2])
def test_a_peer_that_does_not_read_does_not_see_that_the_other_one_lives(
    new: Make, limit: int
) -> None:
    """With a full receive queue, answers to its heartbeats are not read either."""
    address = f"tcp://{own_address()}:9504"
    receiver = new("proxy-cast", RCVHWM=limit)
    receiver.bind(address)
    sender = new("client-cast", HEARTBEAT_IVL=0)
    sender.connect(address)
    ends = Ends(receiver)
    began = time.monotonic()
    try:

        def is_over() -> bool:
            if sender.poll(1, zmq.POLLOUT):
                sender.send(b"x")
            time.sleep(0.01)
            return ends.count() > 0 or time.monotonic() > began + 4

        wait_until(is_over, LIMIT)
        assert (ends.count() > 0) == (limit > 0)
    finally:
        ends.close()


# -- long frames ---------------------------------------------------------------


def test_a_long_frame_outlasts_the_heartbeats_of_a_slow_line(
    node_with_t_of_one: Node, new: Make, serve: Callable[..., Server]
) -> None:
    """Their timers are reset by whole frames, so bodies are split."""
    size, rate = 3_000_000, 1_000_000
    serve(node_with_t_of_one.driver(heartbeat_interval=1), TARGET, Endpoint())
    address = own_address()
    bare = new("proxy-cast", MAXMSGSIZE=-1)
    bare.bind(f"tcp://{address}:9504")
    sender = new("client-cast")
    ends = Ends(sender)
    with (
        Relay(node_with_t_of_one.address, 9501, receive_buffer=65536, send_buffer=65536) as ours,
        Relay(address, 9504, receive_buffer=65536, send_buffer=65536) as control,
    ):
        driver = messaging.connect(f"hbzmq://{ours.host}:{ours.port}/", heartbeat_interval=1)
        sender.connect(f"tcp://{control.host}:{control.port}")
        try:
            client = Client(driver, TARGET, timeout=LIMIT)
            assert client.call("length", value="") == 0
            wait_until(lambda: sender.poll(10, zmq.POLLOUT), LIMIT)
            for relay in (ours, control):
                relay.slow(rate)
            sender.send(bytes(size))
            assert client.call("length", value="x" * size) == size
            wait_until(lambda: ends.count() > 0, LIMIT)
            assert not bare.poll(0)
            assert len(ours.seen("opened")) == 1
        finally:
            driver.close()
            ends.close()


@pytest.fixture
def node_with_t_of_one(nodes: Callable[[], Node]) -> Node:
    made = nodes()
    made.start(environment={"HBSHIM_ZMQ_HEARTBEAT_INTERVAL": "1"})
    return made


# -- the longest T -------------------------------------------------------------


@pytest.mark.parametrize("ttl", [64_000, 66_000])
def test_the_lifetime_of_a_heartbeat_overflows_so_t_is_32_seconds_at_most(
    new: Make, ttl: int
) -> None:
    """66 s are taken for half a second (libzmq issue 4226)."""
    address = f"tcp://{own_address()}:9504"
    receiver = new("proxy-cast", HEARTBEAT_IVL=0)
    receiver.bind(address)
    sender = new("client-cast", HEARTBEAT_IVL=1500, HEARTBEAT_TIMEOUT=32_000, HEARTBEAT_TTL=ttl)
    sender.connect(address)
    ends = Ends(receiver)
    began = time.monotonic()
    try:
        wait_until(lambda: ends.count() or time.monotonic() > began + 3.5, LIMIT)
        assert (ends.count() > 0) == (ttl == 66_000)
    finally:
        ends.close()


# -- a forked child ------------------------------------------------------------


def test_a_forked_child_holds_the_connections_of_a_server_that_was_killed(
    nodes: Callable[[], Node],
) -> None:
    """Heartbeats notice it, on local sockets, too; the control has none."""
    calls = {}
    stack: list[int] = []
    try:
        for interval in ("10", "0"):
            node = nodes()
            options = {"HBSHIM_ZMQ_HEARTBEAT_INTERVAL": interval}
            node.start(environment=options)
            with server_process(node, TARGET.topic, options) as process:
                client = Client(node.driver(), TARGET, timeout=600)
                stack.append(client.call("fork"))
                calls[interval] = InBackground(lambda client=client: client.call("hold"))  # type: ignore[misc]
                assert process.stdout is not None
                assert process.stdout.readline() == "holding\n"
                process.kill()
        assert isinstance(calls["10"].join(), LostServerError)
        assert calls["0"].outcome is None
    finally:
        for child in stack:
            os.kill(child, signal.SIGKILL)
