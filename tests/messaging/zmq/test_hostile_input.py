"""Input that no hbshim sends: it is dropped and counted, and the proxy goes on serving."""

from __future__ import annotations

import os
import socket
import struct

import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hbshim import messaging
from hbshim.heartbeat import service
from hbshim.messaging import Client
from hbshim.messaging.zmq import frames
from hbshim.messaging.zmq.frames import PART_LIMIT, Header, Kind
from hbshim.messaging.zmq.proxy.control import ask
from tests.messaging.zmq.hostile import (
    GREETING,
    TARGET,
    Attack,
    Context,
    Host,
)
from tests.messaging.zmq.nodes import LIMIT, InBackground, figures, own_address
from tests.waiting import wait_until

KEY = frames.key_of("openstack_rpc", "compute")

PORTS = (9501, 9502, 9503, 9504)
LOCAL = ("servers", "fanout", "notify", "control-requests", "control-fanout", "control-notify")


# -- bytes ---------------------------------------------------------------------

PIECES = [
    b"",
    b"GET / HTTP/1.1\r\nHost: here\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    GREETING[:20],
    GREETING,
    GREETING + b"\4\x05READY" + b"\xff" * 40,
    GREETING + b"\2" + struct.pack("!Q", 2**62) + b"x" * 1000,
    GREETING + b"\2" + struct.pack("!Q", 16 * 2**20 + 1) + b"x" * 100_000,
    b"\xff" * 10_000,
]


@pytest.mark.parametrize("where", [*PORTS, *LOCAL])
def test_bytes_that_are_no_zeromq(attacked: Host, where: int | str) -> None:
    for number in range(60):
        if isinstance(where, int):
            sock = socket.create_connection((attacked.node.address, where), timeout=LIMIT)
        else:
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(LIMIT)
            sock.connect(f"{attacked.node.ipc}/{where}")
        with sock:
            try:
                sock.sendall(PIECES[number % len(PIECES)] + os.urandom(number * 100))
            except OSError:
                continue  # it was refused before all of it was sent
    attacked.is_well(f"bytes {where}")


# -- frames --------------------------------------------------------------------

#: The machine may be busy; and each example is sent to the same proxy.
patient = settings(
    database=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

names = st.text("ab.ü", max_size=3)
headers = st.builds(
    Header,
    kind=st.sampled_from(Kind),
    id=st.binary(min_size=16, max_size=16),
    flags=st.integers(0, 2**16 - 1),
    sequence=st.integers(0, 2**64 - 1),
    left=st.integers(0, 2**32 - 1),
    exchange=names,
    topic=names,
    server=names,
    content_type=names,
).map(frames.encode)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A header with some other bytes in it."""
    frame = bytearray(draw(headers))
    for _ in range(draw(st.integers(0, 3))):
        frame[draw(st.integers(0, len(frame) - 1))] = draw(st.integers(0, 255))
    return bytes(frame)


bodies = st.one_of(
    st.binary(max_size=60),
    st.just(b""),
    st.integers(-(2**63), 2**63 - 1).map(frames.encode_credit),
    st.just(frames.key_of("e", "hostile")),
    st.just(b"x" * (PART_LIMIT + 1)),
)
several = st.tuples(
    st.one_of(headers, damaged(), bodies), st.lists(st.one_of(bodies, headers), max_size=4)
).map(lambda parts: [parts[0], *parts[1]])
#: Of one frame, as hbshim sends them, and of several. A longer frame would end the connection.
messages = st.one_of(
    several,
    several.map(lambda parts: [b"".join(parts)]).filter(lambda parts: len(parts[0]) < PART_LIMIT),
)


@pytest.mark.parametrize(("port", "kind"), [(9501, zmq.DEALER), (9504, zmq.PUSH)])
def test_frames_of_a_client(attacked: Host, attack: Attack, port: int, kind: int) -> None:
    attacker = attack(kind, f"tcp://{attacked.node.address}:{port}")

    @patient
    @given(messages)
    def send(message: list[bytes]) -> None:
        attacker.send(*message)

    send()
    attacker.wait_until_counted(attacked)
    attacked.is_well(f"frames {port}")


@pytest.mark.parametrize("hello", [False, True])
def test_frames_of_a_server(attacked: Host, attack: Attack, hello: bool) -> None:
    attacker = attack(zmq.DEALER, f"ipc://{attacked.node.ipc}/servers")
    if hello:
        greeting = frames.encode(Header(Kind.HELLO, bytes(16)))
        attacker.send(greeting + frames.encode_hello(5, [frames.key_of("e", "hostile")]))

    @patient
    @given(messages)
    def send(message: list[bytes]) -> None:
        attacker.send(*message)

    send()
    attacker.wait_until_counted(attacked)
    attacked.is_well(f"server {hello}")


@pytest.mark.parametrize("port", [9502, 9503])
def test_frames_of_a_publisher(attacked: Host, attack: Attack, port: int) -> None:
    """Those that are subscribed to reach the listener, which counts them."""
    attacker = attack(zmq.PUB, f"tcp://{attacked.node.address}:{port}")
    before = counted()

    @patient
    @given(messages)
    def send(message: list[bytes]) -> None:
        attacker.send(*message)
        attacker.send(KEY + b"/", *message)
        attacker.send(KEY + b"/" + bytes(16) + message[0], *message[1:])

    def arrived() -> bool:
        attacker.send(KEY + b"/" + bytes(16) + b"no header")
        return counted() > before

    send()
    if port == 9502:
        wait_until(arrived, LIMIT)
    attacked.is_well(f"publisher {port}")


def counted() -> float:
    """Messages that the listener of this process dropped."""
    return service.current().metrics.snapshot().get("zmq_malformed", 0)


@pytest.mark.parametrize("name", ["control-requests", "control-fanout", "control-notify"])
def test_questions_for_figures(attacked: Host, attack: Attack, name: str) -> None:
    attacker = attack(zmq.DEALER, f"ipc://{attacked.node.ipc}/{name}")

    @patient
    @given(messages)
    def send(message: list[bytes]) -> None:
        attacker.send(*message)
        attacker.send(b"", *message)

    send()
    attacked.is_well(name)
    wait_until(lambda: None not in ask(attacked.node.ipc).values(), LIMIT)


#: The header of a call, as version 1 had it; its body was a frame of its own.
FORMER = b"HBZ1\x10\x01\0\0" + b"i" * 16 + bytes(12) + b"\0\7\0\0compute"


@pytest.mark.parametrize("former", [True, False])
def test_another_version_is_answered_or_counted(
    attacked: Host, attack: Attack, former: bool
) -> None:
    """A client of another release is told why it is refused."""
    header = bytearray(frames.encode(Header(Kind.CALL, b"i" * 16, topic="compute")))
    header[4] = 0x30
    other = [FORMER, b"{}"] if former else [bytes(header)]
    before = figures(attacked.node).get("version_apart", 0)
    client = attack(zmq.DEALER, f"tcp://{attacked.node.address}:9501")
    client.send(*other)
    (frame,) = client.receive()
    answer = frames.unpack(frame)
    assert answer.header[:2] == (Kind.REJECT, b"i" * 16)
    assert answer.body == b"version"
    # Where every version has them: the magic bytes, its version, and the id of the message.
    assert frame[:5] + frame[8:24] == b"HBZ1" + bytes((frames.VERSION,)) + b"i" * 16
    attack(zmq.PUSH, f"tcp://{attacked.node.address}:9504").send(*other)
    servers = attack(zmq.DEALER, f"ipc://{attacked.node.ipc}/servers")
    servers.send(*((b"", *other) if former else other))
    wait_until(lambda: figures(attacked.node).get("version_apart", 0) >= before + 3, LIMIT)
    attacked.is_well(f"version {former}")


def test_frames_of_a_proxy(context: Context) -> None:
    """A client drops what it cannot read, and goes on with the same connection."""
    errors = service.current().metrics.snapshot().get("zmq_errors", 0)
    address = own_address()
    with context.socket(zmq.ROUTER) as proxy:
        proxy.bind(f"tcp://{address}:9501")
        driver = messaging.connect(f"hbzmq://{address}/")
        call = InBackground(lambda: Client(driver, TARGET, timeout=LIMIT).call("echo", value=1))
        client, _ = received_by(proxy)
        before = counted()

        @patient
        @given(messages)
        def send(message: list[bytes]) -> None:
            # An answer would end the call; and BYE keeps it away.
            if not b"".join(message[:1]).startswith(b"HBZ1"):
                proxy.send_multipart([client, *message])

        send()
        proxy.send_multipart([client, frames.encode(Header(Kind.HELLO, bytes(16)))])
        _, request = received_by(proxy)
        send()
        id_ = frames.decode(request).id
        (reply,) = frames.pack(Header(Kind.RESULT, id_, content_type="application/json"), b"1")
        proxy.send_multipart([client, reply])
        assert call.join() == 1
        driver.close()
    assert counted() > before
    assert service.current().metrics.snapshot().get("zmq_errors", 0) == errors


def received_by(socket: zmq.Socket[bytes]) -> list[bytes]:
    assert socket.poll(int(1000 * LIMIT))
    return socket.recv_multipart()
