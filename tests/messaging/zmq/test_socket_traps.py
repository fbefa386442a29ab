"""What single sockets, ZeroMQ's proxy and Redis do, and hbshim therefore does not rely on."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
import zmq

from hbshim.messaging import Server, Target
from hbshim.messaging.zmq import directory, frames
from hbshim.messaging.zmq.frames import Header, Kind
from hbshim.messaging.zmq.loop import try_send
from hbshim.messaging.zmq.settings import SocketSettings
from hbshim.messaging.zmq.sockets import Role, make, options_of
from tests.messaging.endpoints import Endpoint
from tests.messaging.zmq.nodes import LIMIT, Node, children, own_address
from tests.messaging.zmq.redis_server import RedisServer
from tests.waiting import wait_until

Context = zmq.Context["zmq.Socket[bytes]"]


class Sockets:
    """Makes sockets of any kind, and as hbshim does; keeps them until the test ends."""

    def __init__(self) -> None:
        self.context: Context = zmq.Context()
        self._made: list[zmq.Socket[bytes]] = []

    def bare(self, kind: int) -> zmq.Socket[bytes]:
        self._made.append(self.context.socket(kind))
        return self._made[-1]

    def hbshim(self, role: Role, name: bytes | None = None) -> zmq.Socket[bytes]:
        self._made.append(make(self.context, role, SocketSettings(), name))
        return self._made[-1]


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    made = Sockets()
    yield made
    made.context.destroy(linger=0)


@pytest.mark.parametrize("named_by", ["the side that connects", "the side that binds"])
def test_a_name_that_is_given_to_a_peer_has_no_effect_with_immediate(
    sockets: Sockets, named_by: str
) -> None:
    """CONNECT_ROUTING_ID; so each proxy has its name as ROUTING_ID (libzmq issue 1575)."""
    address = f"tcp://{own_address()}:9501"
    is_named = named_by == "the side that binds"
    proxy = sockets.hbshim("proxy-call", b"host" if is_named else None)
    proxy.bind(address)
    client = sockets.hbshim("client-call", b"client")
    if not is_named:
        client.set(zmq.CONNECT_ROUTING_ID, b"host")
    client.connect(address)
    wait_until(lambda: client.get(zmq.EVENTS) is not None and proxy.poll(10), LIMIT)
    assert proxy.recv_multipart() == [b"client", b""]
    assert not try_send(proxy, [b"client", b"hello"])
    wait_until(lambda: client.poll(10), LIMIT)
    client.recv_multipart()
    assert try_send(client, [b"host", b"request"]) == (0 if is_named else zmq.EHOSTUNREACH)


def test_a_descriptor_of_zeromq_tells_of_a_message_once(sockets: Sockets) -> None:
    """The edge of ZMQ_FD is used up by the first; so nothing waits for it."""
    one, other = sockets.bare(zmq.PAIR), sockets.bare(zmq.PAIR)
    one.bind("inproc://edge")
    other.connect("inproc://edge")
    descriptor = int(other.get(zmq.FD))
    assert not int(other.get(zmq.EVENTS)) & zmq.POLLIN
    for _ in range(2):
        one.send(b"message")
    wait_until(lambda: select.select([descriptor], [], [], 0.1)[0], LIMIT)
    assert other.recv() == b"message"
    assert not select.select([descriptor], [], [], 0.1)[0]
    assert int(other.get(zmq.EVENTS)) & zmq.POLLIN


@pytest.mark.parametrize("mandatory", [0, 1])
def test_zeromqs_proxy_ends_with_a_message_that_cannot_be_sent(
    sockets: Sockets, mandatory: int
) -> None:
    """So behind it no socket is mandatory, and none reports that a subscriber is behind."""
    for role in ("proxy-publishers", "proxy-subscribers"):
        options = options_of(role, SocketSettings())
        assert not {zmq.ROUTER_MANDATORY, zmq.XPUB_NODROP} & set(options)
    front, back = sockets.bare(zmq.ROUTER), sockets.bare(zmq.DEALER)
    server = sockets.bare(zmq.DEALER)
    control, steered = sockets.bare(zmq.PAIR), sockets.bare(zmq.PAIR)
    control.bind("inproc://control")
    steered.connect("inproc://control")
    front.set(zmq.ROUTER_MANDATORY, mandatory)
    front.bind("inproc://front")
    back.bind("inproc://back")
    server.connect("inproc://back")
    ended: list[int | None] = []

    def run() -> None:
        try:
            zmq.proxy_steerable(front, back, None, steered)
        except zmq.ZMQError as error:
            ended.append(error.errno)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    server.send_multipart([b"a client that is gone", b"reply"])
    client = sockets.bare(zmq.DEALER)
    client.connect("inproc://front")
    client.send(b"request")
    if mandatory:
        wait_until(lambda: ended == [zmq.EHOSTUNREACH], LIMIT)
    else:
        assert server.poll(int(1000 * LIMIT))
        assert ended == []
        control.send(b"TERMINATE")
    # Before the sockets are closed, which are the thread's.
    thread.join(LIMIT)
    assert not thread.is_alive()


#: What is sent, from the second argument: one message of so many frames, or, as hbshim does it, of
#: a body so long that it has three parts.
WHAT_IS_SENT = """
import sys, time, zmq
from hbshim.messaging.zmq import frames
context, what, rounds = zmq.Context(), sys.argv[2], int(sys.argv[3])
if what == "hbshim":
    header = frames.Header(frames.Kind.CALL, bytes(16))
    messages = [[frame] for frame in frames.pack(header, bytes(3 * frames.PART_LIMIT))]
else:
    messages = [int(what) * [b"part"]]

def make(kind, address, name=b"", binds=False):
    made = context.socket(kind)
    made.set(zmq.LINGER, 1000 if binds else 0)
    if not binds:
        made.set(zmq.IMMEDIATE, 1)
        made.set(zmq.ROUTING_ID, name)
    if kind == zmq.ROUTER:
        made.set(zmq.ROUTER_HANDOVER, 1)
    if kind == zmq.SUB:
        made.set(zmq.SUBSCRIBE, b"")
    made.bind(address) if binds else made.connect(address)
    return made
"""

#: A router that has begun to read when the end of a connection is confirmed that was replaced by
#: another one of the same name; again and again.
REPLACED = f"""{WHAT_IS_SENT}
for number in range(rounds):
    address = f"ipc://{{sys.argv[1]}}/{{number}}"
    router = make(zmq.ROUTER, address, binds=True)
    peers = []
    for name in (b"A", b"B", b"C"):
        peers.append(make(zmq.DEALER, address, name))
        peers[-1].send(b"1")
        time.sleep(0.01)
    for _ in range(2):
        router.recv_multipart()
    peers.append(make(zmq.DEALER, address, b"B"))
    for message in messages:
        peers[-1].send_multipart(message)
    time.sleep(0.02)
    # The first poll replaces a connection, and the second one begins to read.
    router.poll(5000)
    router.recv_multipart()
    router.poll(5000)
    time.sleep(0.005)
    router.poll(0)
    for message in messages:
        assert router.recv_multipart()[1:] == message
    for each in (*peers, router):
        each.close(0)
"""

#: A socket with one connection, which ends after the socket has begun to read.
ENDED = f"""{WHAT_IS_SENT}
kind = getattr(zmq, sys.argv[4])
peer_kind = {{zmq.DEALER: zmq.ROUTER, zmq.SUB: zmq.XPUB, zmq.ROUTER: zmq.DEALER}}[kind]
for number in range(rounds):
    address = f"ipc://{{sys.argv[1]}}/{{number}}"
    peer = make(peer_kind, address, binds=True)
    socket = make(kind, address, b"name")
    to = []
    if kind == zmq.DEALER:
        socket.send(b"first")
        to = peer.recv_multipart()[:1]
    elif kind == zmq.SUB:
        while not peer.poll(10):
            socket.get(zmq.EVENTS)
        peer.recv()
    for message in messages:
        peer.send_multipart([*to, *message])
    assert socket.poll(5000)
    if kind == zmq.DEALER:
        begun = socket.recv()  # another kind begins when it is polled
    time.sleep(0.02)
    peer.unbind(address)
    peer.close(0)
    time.sleep(0.02)
    socket.get(zmq.EVENTS)  # here it learns of the end
    if what != "1" or kind != zmq.DEALER:
        try:
            socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            pass  # the rest is lost
    socket.close()
"""

#: Several frames abort the process, and one does not; hbshim's have one.
SENT = [("3", True), ("1", False), ("hbshim", False)]

may_be_mended = pytest.mark.skipif(
    zmq.zmq_version_info() > (4, 3, 5), reason="may be mended in libzmq"
)


def aborts(script: str, what: str, rounds: int, *arguments: str) -> bool:
    """Whether libzmq aborts the process that runs a script."""
    with tempfile.TemporaryDirectory(prefix="hbz") as directory:
        command = [sys.executable, "-c", script, directory, what, str(rounds), *arguments]
        done = subprocess.run(command, stderr=subprocess.PIPE, timeout=4 * LIMIT, check=False)
    if done.returncode == -signal.SIGABRT:
        assert b"!_more" in done.stderr
        return True
    assert done.returncode == 0, done.stderr
    return False


@may_be_mended
@pytest.mark.parametrize(("what", "expected"), SENT)
def test_a_replaced_connection_that_ends_within_a_message_aborts_the_process(
    what: str, expected: bool
) -> None:
    """So a message has one frame beside the routing id.

    fq_t::pipe_terminated() loses the connection of the message, if that was the last of three.
    """
    assert options_of("client-call", SocketSettings())[zmq.ROUTER_HANDOVER] == 1
    assert aborts(REPLACED, what, 500 if expected else 5) == expected


@may_be_mended
@pytest.mark.parametrize(("what", "expected"), SENT)
@pytest.mark.parametrize("kind", ["ROUTER", "DEALER", "SUB"])
def test_a_connection_that_ends_within_a_message_aborts_the_process(
    kind: str, what: str, expected: bool
) -> None:
    """With IMMEDIATE, of a socket that connects, even if it is the only connection."""
    assert options_of("server-subscribe", SocketSettings())[zmq.IMMEDIATE] == 1
    assert aborts(ENDED, what, 50 if expected else 5, kind) == expected


@pytest.mark.parametrize("touched", [True, False])
def test_a_subscriber_that_nothing_touches_does_not_subscribe_again(
    sockets: Sockets, touched: bool
) -> None:
    """So each socket belongs to the I/O thread, which touches it each second, and to no hub."""
    address = f"tcp://{own_address()}:9502"
    subscriber = sockets.hbshim("server-subscribe")
    for number in range(100):
        subscriber.set(zmq.SUBSCRIBE, b"%d/" % number)
    subscriber.connect(address)

    def subscriptions_at_a_new_proxy(touched: bool, most: float) -> int:
        proxy = sockets.hbshim("proxy-subscribers")
        bound = proxy.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        wait_until(lambda: not refused(lambda: proxy.bind(address)), LIMIT)
        assert bound.poll(int(1000 * LIMIT))
        until = time.monotonic() + most
        seen: set[bytes] = set()
        while len(seen) < 100 and time.monotonic() < until:
            if touched:
                subscriber.get(zmq.EVENTS)
            while proxy.poll(10):
                seen.add(proxy.recv())
        proxy.disable_monitor()
        bound.close(linger=0)
        proxy.close(linger=0)
        return len(seen)

    assert subscriptions_at_a_new_proxy(touched=True, most=LIMIT) == 100
    assert subscriptions_at_a_new_proxy(touched, LIMIT if touched else 1) == 100 * touched


def refused(bind: Callable[[], object]) -> bool:
    """Whether a port is still that of a socket which was closed."""
    try:
        bind()
    except zmq.ZMQError as error:
        return error.errno == zmq.EADDRINUSE
    return False


#: A publisher that publishes nothing, and that is touched only on request.
IDLE_PUBLISHER = """
import sys, time, zmq
socket = zmq.Context().socket(zmq.PUB)
print(socket.bind_to_random_port("tcp://127.0.0.1"), flush=True)
while True:
    time.sleep(0.1)
"""


def memory_of(pid: int) -> int:
    """Bytes of memory that a process has."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_an_idle_publisher_keeps_what_departed_peers_had(
    sockets: Sockets, nodes: Callable[[], Node]
) -> None:
    """Until something touches it (libzmq issue 4189); the proxy touches its sockets each second."""
    node = nodes()
    node.start(whole=True)
    bare = subprocess.Popen(
        [sys.executable, "-c", IDLE_PUBLISHER], stdout=subprocess.PIPE, text=True
    )
    try:
        assert bare.stdout is not None
        ours, address = children(node.pid)["fanout"], f"tcp://127.0.0.1:{bare.stdout.readline()}"
        growth = {}
        for pid, kind, to in (
            (bare.pid, zmq.SUB, address.strip()),
            (ours, zmq.XPUB, f"tcp://{node.address}:9502"),
        ):
            come_and_go(sockets.context, kind, to, 100)
            before = memory_of(pid)
            come_and_go(sockets.context, kind, to, 1500)
            growth[pid] = memory_of(pid) - before
        assert growth[bare.pid] > 5_000_000
        assert growth[ours] < growth[bare.pid] / 3
    finally:
        bare.kill()
        bare.communicate()


def come_and_go(context: Context, kind: int, address: str, count: int) -> None:
    """Connect one peer after the other, each for a moment."""
    for _ in range(count):
        with context.socket(kind) as socket:
            monitor = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
            if kind == zmq.SUB:
                socket.set(zmq.SUBSCRIBE, b"topic/")
            socket.connect(address)
            assert monitor.poll(int(1000 * LIMIT))
            socket.disable_monitor()
            monitor.close(linger=0)
            socket.close(linger=0)


def test_a_socket_of_any_program_may_call_without_numbers_of_its_own(
    sockets: Sockets, node: Node, serve: Callable[..., Server], endpoint: Endpoint
) -> None:
    """The wire format is enough: a DEALER for each host, as the specification has it."""
    serve(node.driver(), Target("compute", exchange="e"), endpoint)
    dealer = sockets.bare(zmq.DEALER)
    dealer.connect(f"tcp://{node.address}:9501")
    header = Header(Kind.CALL, os.urandom(16), exchange="e", topic="compute")
    body = b'{"method": "echo", "args": {"value": 7}}'
    dealer.send(frames.encode(header) + body)
    assert dealer.poll(int(1000 * LIMIT))
    result = frames.unpack(dealer.recv())
    assert (result.header.kind, result.header.id) == (Kind.RESULT, header.id)
    assert b"7" in result.body


def test_redis_announces_what_has_expired_whenever_it_comes_to_it(
    redis_server: RedisServer,
) -> None:
    """So the directory uses the reader's clock, and announces changes itself."""
    sources = Path(str(directory.__file__)).parent.glob("*.py")
    assert not [path for path in sources if "keyspace" in path.read_text(encoding="utf-8")]
    redis_server.command("CONFIG", "SET", "notify-keyspace-events", "Ex")
    script = "for n = 1, 100000 do redis.call('SET', 'k' .. n, 'v', 'PX', 600000) end"
    client = redis.Redis(redis_server.host, redis_server.port)
    try:
        redis_server.command("EVAL", script, "0")
        events = client.pubsub()
        events.psubscribe("__keyevent@0__:expired")
        for number in range(12):
            client.set(f"brief-{number}", "v", px=300)
        heard = set()
        until = time.monotonic() + 0.3 + 1.5
        while (left := until - time.monotonic()) > 0:
            message = events.get_message(timeout=left)
            if message is not None and message["type"] == "pmessage":
                heard.add(message["data"])
        assert len(heard) < 12
        events.close()
    finally:
        client.close()
        redis_server.command("CONFIG", "SET", "notify-keyspace-events", "")
        redis_server.command("FLUSHALL")


#: A native thread of an eventlet program uses pyzmq, while a green thread holds a lock of pyzmq's.
PATCHED = """
import os, sys
import eventlet
eventlet.monkey_patch()
import zmq
from hbshim.runtime.unpatched import original, start_native_thread
what, done, sleep = sys.argv[1], [], original("time", "sleep")

def use():
    if what == "its own context":
        zmq.Context()
    elif what == "the shared context":
        zmq.Context.instance()
    else:
        context = zmq.Context()
        push, pull = context.socket(zmq.PUSH), context.socket(zmq.PULL)
        pull.bind("inproc://here")
        push.connect("inproc://here")
        push.send(b"x" * 100_000, copy=what == "a copy")
        pull.recv()
    done.append(True)

os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
with zmq.Context._instance_lock:
    start_native_thread(use, lambda: None)
    sleep(0.3)
for _ in range(int(sys.argv[2])):
    if done:
        break
    eventlet.sleep(0.01)
print("done" if done else "stuck", flush=True)
os._exit(0)
"""


def test_what_of_pyzmq_a_native_thread_of_a_patched_program_cannot_use() -> None:
    """Its thread for messages that are not copied is green there, and so are its locks."""
    rounds = {"a copy": 3000, "its own context": 3000, "no copy": 100, "the shared context": 100}
    running = {
        what: subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", PATCHED, what, str(number)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for what, number in rounds.items()
    }
    said = {what: process.communicate(timeout=2 * LIMIT)[0] for what, process in running.items()}
    assert said == {
        "a copy": "done\n",
        "its own context": "done\n",
        "no copy": "stuck\n",
        "the shared context": "stuck\n",
    }
