"""Peers that break the protocol: the test router neither ends nor hangs, and serves the others."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from hbshim.amqp1.composites import encode_composite
from hbshim.amqp1.frames import encode_frame
from hbshim.amqp1.messages import Data, Message, encode_message
from hbshim.amqp1.performatives import (
    Accepted,
    Attach,
    Begin,
    Close,
    Detach,
    Disposition,
    End,
    Flow,
    Open,
    Properties,
    SaslInit,
    Source,
    Target,
    Transfer,
)
from tests.waiting import wait_until
from tests.wsgi_harness.router.clients import LIMIT, Client
from tests.wsgi_harness.router.engine_client import EngineBackend
from wsgi_harness.router.plan import Plan, free_port
from wsgi_harness.router.process import RouterProcess

HOST = "127.0.0.1"

AMQP, SASL = b"AMQP\0\1\0\0", b"AMQP\3\1\0\0"

BEGIN = Begin(None, 0, 2048, 2048)


def frame(performative: Any, payload: bytes = b"", channel: int = 0, kind: int = 0) -> bytes:
    return encode_frame(encode_composite(performative) + payload, channel, kind)


LOGIN = SASL + frame(SaslInit("ANONYMOUS", b""), kind=1)
OPENED = LOGIN + AMQP + frame(Open("hostile", HOST))
BEGUN = OPENED + frame(BEGIN)
ATTACHED = BEGUN + frame(
    Attach("sends", 0, False, source=Source("here"), target=Target(), initial_delivery_count=0)
)
RECEIVES = BEGUN + frame(Attach("gets", 0, True, source=Source("hostile"), target=Target("here")))
MESSAGE = encode_message(Message(Data((b"x",)), properties=Properties(to="hostile")))


def sent(number: int, payload: bytes = MESSAGE, **fields: Any) -> bytes:
    return frame(Transfer(0, number, struct.pack(">I", number), 0, **fields), payload)


#: What is sent, by what it is.
INPUTS = {
    "nothing": b"",
    "a half header": AMQP[:5],
    "http": b"GET / HTTP/1.1\r\nHost: router\r\n\r\n",
    "amqp 0-9-1": b"AMQP\0\0\x09\1",
    "tls": bytes.fromhex("16030100c8010000c40303") + bytes(189),
    "zeros": bytes(1000),
    "no login": AMQP + frame(Open("hostile")),
    "sasl twice": SASL + LOGIN,
    "an unknown mechanism": SASL + frame(SaslInit("NOTHING", b"x" * 1000), kind=1),
    "amqp in sasl": SASL + frame(Open("hostile")),
    "a half frame": OPENED + frame(BEGIN)[:-3],
    "a frame of four bytes": OPENED + struct.pack(">IBBH", 4, 2, 0, 0),
    "a frame of two gigabytes": OPENED + struct.pack(">IBBH", 0x7FFFFFFF, 2, 0, 0) + b"x" * 1000,
    "a data offset of 255": OPENED + struct.pack(">IBBH", 16, 255, 0, 0) + bytes(8),
    "a data offset of 0": OPENED + struct.pack(">IBBH", 16, 0, 0, 0) + bytes(8),
    "a frame of an unknown type": OPENED + struct.pack(">IBBH", 8, 2, 77, 0),
    "an unknown performative": OPENED + encode_frame(b"\0\x53\x99\x45"),
    "a list longer than its frame": OPENED
    + encode_frame(b"\0\x53\x11\xd0\xff\xff\xff\xff\0\0\0\1"),
    "nested descriptors": OPENED + encode_frame(b"\0" * 20_000),
    "open twice": OPENED + frame(Open("hostile")),
    "a channel that is not begun": OPENED + frame(Flow(0, 1, 0, 1), channel=9),
    "a channel above the largest": OPENED + frame(BEGIN, channel=0xFFFF),
    "begin twice": BEGUN + frame(BEGIN),
    "end twice": BEGUN + frame(End()) * 2,
    "close and more": OPENED + frame(Close()) + frame(BEGIN),
    "a link without a session": OPENED + frame(Attach("link", 0, False, target=Target("x"))),
    "a link without terminus": BEGUN + frame(Attach("link", 0, False, initial_delivery_count=0)),
    "a link with the largest handle": BEGUN
    + frame(Attach("link", 0xFFFFFFFF, True, source=Source("x"))),
    "a link with an address of another type": BEGUN
    + frame(Attach("link", 0, True, source=Source(17), target=Target(b"x"))),
    "a link with a name of a megabyte": BEGUN
    + frame(Attach("x" * 1_000_000, 0, True, source=Source("y" * 1_000))),
    "the same handle twice": ATTACHED + frame(Attach("other", 0, True, source=Source("x"))),
    "the same name twice": ATTACHED
    + frame(Attach("sends", 1, False, target=Target(), initial_delivery_count=0)),
    "flow of an unknown link": BEGUN + frame(Flow(0, 1, 0, 1, handle=5, link_credit=9)),
    "credit of four billion": RECEIVES
    + frame(Flow(0, 9, 0, 9, handle=0, delivery_count=0, link_credit=0xFFFFFFFF)),
    "detach of an unknown link": BEGUN + frame(Detach(7, True)),
    "detach twice": ATTACHED + frame(Detach(0, True)) * 2,
    "a message on an unknown link": BEGUN + sent(0),
    "a message on a receiver": RECEIVES + sent(0),
    "a message without an id": ATTACHED + frame(Transfer(0), MESSAGE),
    "a message without an address": ATTACHED + sent(0, encode_message(Message(Data((b"x",))))),
    "a message that is none": ATTACHED + sent(0, b"\xff\xff\xff"),
    "a message without a body": ATTACHED + sent(0, b""),
    "half a message": ATTACHED + sent(0, more=True),
    "an aborted message": ATTACHED + sent(0, more=True) + sent(0, aborted=True),
    "more messages than credit": ATTACHED + b"".join(sent(number) for number in range(2_000)),
    "the same delivery twice": ATTACHED + sent(0) + sent(0),
    "an outcome of nothing": BEGUN + frame(Disposition(True, 5, 9, True, Accepted())),
    "an outcome of all": RECEIVES + frame(Disposition(True, 0, 0xFFFFFFFE, True, Accepted())),
    "an outcome of a range that ends before it begins": RECEIVES
    + frame(Disposition(True, 9, 5, True, Accepted())),
    "many links": BEGUN
    + b"".join(
        frame(Attach(f"link-{number}", number, True, source=Source(f"many-{number}")))
        for number in range(1_000)
    ),
}


class Hostile:
    """A router with hostile peers, and a well-behaved client."""

    def __init__(self, stack: ExitStack, process: RouterProcess, port: int) -> None:
        self._stack = stack
        self.process = process
        self.port = port
        backend = EngineBackend()
        stack.callback(backend.end)
        self._client = Client(backend, port)
        self._receiver = self._client.receiver("well-behaved", 1000)
        self._sender = self._client.sender()
        self._sent = 0

    def send(self, data: bytes) -> socket.socket:
        """Send something over a connection of its own, which stays open."""
        sock = self._stack.enter_context(socket.create_connection((HOST, self.port), LIMIT))
        # The router may have closed it.
        with suppress(OSError):
            sock.sendall(data)
        return sock

    def check(self) -> None:
        """Check that the router still serves a client."""
        number = self._client.send(self._sender, f"{self._sent}", to="well-behaved")
        message = self._client.message(self._receiver, self._sent)
        assert message["body"] == f"{self._sent}"
        self._client.answer(message, "accepted")
        assert self._client.outcome(number) == "accepted"
        self._sent += 1


@pytest.fixture(scope="module")
def hostile(proton: Path) -> Iterator[Hostile]:
    port = free_port()
    plan = Plan(
        [
            ("router", {"mode": "standalone", "id": "attacked"}),
            ("listener", {"host": HOST, "port": port, "role": "normal"}),
        ]
    )
    process = RouterProcess(plan, python=proton)
    pid = process.pid
    with ExitStack() as stack:
        stack.callback(process.stop)
        yield Hostile(stack, process, port)
        assert process.pid == pid
        assert "Traceback" not in process.log(), process.log()[-3000:]


def ended(sock: socket.socket) -> bool:
    """Read to the end; return whether the router has ended the stream."""
    try:
        while sock.recv(1 << 16):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


@pytest.mark.parametrize("what", list(INPUTS))
def test_what_is_not_allowed(what: str, hostile: Hostile) -> None:
    with hostile.send(INPUTS[what]) as sock:
        hostile.check()
        sock.shutdown(socket.SHUT_WR)
        sock.settimeout(LIMIT)
        assert ended(sock)
    hostile.check()


def test_streams_that_end_anywhere(hostile: Hostile) -> None:
    whole = ATTACHED + sent(0) + frame(Detach(0, True)) + frame(End()) + frame(Close())
    for length in range(0, len(whole), 7):
        hostile.send(whole[:length]).close()
    hostile.check()


def test_changed_bytes(hostile: Hostile) -> None:
    whole = ATTACHED + sent(0) + sent(1, more=True) + sent(1) + frame(Detach(0, True))
    chance = random.Random(1)
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        hostile.send(bytes(data)).close()
    hostile.check()


def test_peers_that_say_nothing(hostile: Hostile) -> None:
    for _ in range(200):
        hostile.send(b"")
        hostile.send(OPENED)
    hostile.check()


def test_a_receiver_that_reads_nothing(hostile: Hostile) -> None:
    """Others send as before; what waits for it is limited by the credit of its senders."""
    address = "reads-nothing"
    attach = frame(Attach("gets", 0, True, source=Source(address), target=Target("here")))
    credit = frame(Flow(0, 2048, 0, 2048, handle=0, delivery_count=0, link_credit=1_000))
    silent = hostile.send(BEGUN + attach + credit)
    backend = EngineBackend()
    client = Client(backend, hostile.port)
    try:
        sender = client.sender(address)
        wait_until(lambda: client.credit(sender) > 0, LIMIT)
        for _ in range(client.credit(sender)):
            client.send_at_once(sender, "x" * 50_000)
        hostile.check()
        silent.close()
    finally:
        backend.end()
    hostile.check()
