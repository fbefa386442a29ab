"""Bodies of several parts: over every pipeline, past full queues, and over connections that end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import zmq

from hbshim.messaging import (
    Client,
    NotificationServer,
    Notifier,
    Request,
    Server,
    Target,
)
from hbshim.messaging.zmq import frames, parts, sockets
from hbshim.messaging.zmq.directory import HostRecord
from hbshim.messaging.zmq.frames import PART_LIMIT, Header, Kind, Message
from hbshim.messaging.zmq.loop import Loop
from hbshim.messaging.zmq.outbox import Outbox
from hbshim.messaging.zmq.outcomes import Outcome
from hbshim.messaging.zmq.parts import Parts
from hbshim.messaging.zmq.proxy.endpoints import ProxySettings
from hbshim.messaging.zmq.proxy.requests import RequestProxy
from hbshim.messaging.zmq.pusher import Cast, Pusher
from hbshim.messaging.zmq.router import RouterSender
from hbshim.messaging.zmq.settings import SocketSettings
from hbshim.messaging.zmq.sockets import make
from hbshim.messaging.zmq.traffic import Traffic
from hbshim.metrics import Metrics
from tests.messaging.zmq.nodes import LIMIT, Node, own_address
from tests.waiting import wait_until

HEADER = Header(Kind.CALL, bytes(range(16)), topic="compute")
LONG = os.urandom(100) * (12 * PART_LIMIT // 100)
TEXT = "x" * len(LONG)


class Sink:
    """Notes how long what it gets is."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []

    def take(self, _request: Request, how: str, text: str) -> str:
        self.seen.append((how, len(text)))
        return text

    def info(self, notification: object) -> None:
        self.seen.append(("notification", len(notification.payload)))  # type: ignore[attr-defined]


@pytest.mark.parametrize("acknowledged", [False, True])
def test_every_pipeline_takes_a_long_message(
    nodes: Callable[[], Node], serve: Callable[..., Server], acknowledged: bool
) -> None:
    node, sink = nodes(), Sink()
    node.start(whole=True)
    driver = node.driver(rpc_use_acks=acknowledged, notification_acks=acknowledged)
    serve(driver, Target("compute"), sink)
    listener = NotificationServer(driver, ["events"], [sink])
    assert listener.start(LIMIT)
    client = Client(driver, Target("compute"), timeout=LIMIT)
    assert client.call("take", how="call", text=TEXT) == TEXT
    client.cast("take", how="cast", text=TEXT)
    client.prepare(fanout=True).cast("take", how="fanout", text=TEXT)
    Notifier(driver, ["events"], "test", timeout=LIMIT).info("happened", TEXT)
    wait_until(lambda: len(sink.seen) == 4, LIMIT)
    kinds = ("call", "cast", "fanout", "notification")
    assert sorted(sink.seen) == [(kind, len(TEXT)) for kind in kinds]
    listener.stop(LIMIT)


# -- past a queue that is full -----------------------------------------------------


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loop]:
    """One whose sockets take a message or two while nothing reads."""

    def few(role: sockets.Role, settings: SocketSettings) -> dict[int, int]:
        return {**options_of(role, settings), zmq.SNDHWM: 1, zmq.SNDBUF: 65536}

    options_of = sockets.options_of
    monkeypatch.setattr(sockets, "options_of", few)
    made = Loop()
    yield made
    made.end()


class Peer:
    """Reads what is sent to it, when it is asked to."""

    def __init__(self, loop: Loop, kind: int, *, binds: bool = True) -> None:
        self._loop = loop
        self.address = f"tcp://{own_address()}:9501"
        self.socket = loop.context.socket(kind)
        self.socket.set(zmq.RCVHWM, 1)
        self.socket.set(zmq.RCVBUF, 65536)
        if binds:
            self.socket.bind(self.address)
        loop.look_after(self.socket)
        self._parts = Parts(lambda _source, _begun: None, frames.REQUESTS)
        self.whole: list[Message] = []
        self.refused = 0

    def read(self, count: int) -> None:
        """Read until so many messages are whole."""
        wait_until(lambda: self._read() or len(self.whole) >= count, LIMIT)

    def _read(self) -> None:
        self._loop.run_once(0.01)
        while self.socket.poll(0):
            frame = self.socket.recv_multipart()[-1]
            try:
                found = self._parts.whole(b"", frames.unpack(frame))
            except frames.FrameError:
                self.refused += 1
                continue
            if found is not None:
                self.whole.append(found)


def test_a_router_continues_a_message_before_the_next_one_to_its_peer(loop: Loop) -> None:
    peer = Peer(loop, zmq.DEALER, binds=False)
    router = make(loop.context, "client-call", SocketSettings(), b"client")
    router.set(zmq.PROBE_ROUTER, 0)
    loop.look_after(router)
    peer.socket.set(zmq.ROUTING_ID, b"peer")
    peer.socket.bind(peer.address)
    router.connect(peer.address)
    sender, written = RouterSender(loop, router), frames.pack(HEADER, LONG)
    assert sender.send(b"unknown", written) == zmq.EHOSTUNREACH
    wait_until(lambda: loop.run_once(0.01) or not sender.send(b"peer", written), LIMIT)
    assert sender.send(b"peer", frames.pack(HEADER._replace(topic="later"))) == zmq.EAGAIN
    peer.read(1)
    # libzmq's own thread reports the space.
    behind = frames.pack(HEADER._replace(topic="next"))
    wait_until(lambda: not sender.send(b"peer", behind), LIMIT)
    peer.read(2)
    assert [(each.header.topic, each.body) for each in peer.whole] == [
        ("compute", LONG),
        ("next", b""),
    ]
    # What was begun over a connection that ended is not continued over the next one.
    wait_until(lambda: not sender.send(b"peer", written), LIMIT)
    assert b"peer" in sender._begun
    sender.forget(b"peer")
    wait_until(
        lambda: peer._read() or not sender.send(b"peer", frames.pack(HEADER, b"short")), LIMIT
    )
    peer.read(3)
    assert peer.whole[-1].body == b"short"
    assert peer.refused == 0


def test_a_proxy_stops_when_the_rest_of_a_reply_was_sent(loop: Loop, tmp_path: Path) -> None:
    """What it reports to the same client meanwhile comes behind the reply."""
    proxy = RequestProxy(loop, ProxySettings("one", own_address(), str(tmp_path)), None, Metrics())
    client = Peer(loop, zmq.DEALER, binds=False)
    client.socket.set(zmq.ROUTING_ID, b"client")
    client.socket.set(zmq.PROBE_ROUTER, 1)
    (address,) = [each for each in proxy._ports.values() if each.endswith(":9501")]
    client.socket.connect(address)
    client.read(1)
    proxy._clients.reply(b"client", Kind.RESULT, frames.pack(HEADER, LONG))
    assert proxy._clients.begun == 1
    proxy.stop(LIMIT)
    for _ in range(20):
        loop.run_once(0.01)
    assert not loop._stopped
    client.read(3)
    assert [each.header.kind for each in client.whole] == [Kind.HELLO, Kind.CALL, Kind.BYE]
    assert client.whole[1].body == LONG
    wait_until(lambda: loop.run_once(0.01) or loop._stopped, LIMIT)


def test_a_router_whose_peer_is_gone_does_not_continue(loop: Loop) -> None:
    peer = Peer(loop, zmq.DEALER, binds=False)
    peer.socket.set(zmq.ROUTING_ID, b"peer")
    peer.socket.bind(peer.address)
    router = make(loop.context, "client-call", SocketSettings(), b"client")
    loop.look_after(router)
    router.connect(peer.address)
    sender, written = RouterSender(loop, router), frames.pack(HEADER, LONG)
    wait_until(lambda: loop.run_once(0.01) or not sender.send(b"peer", written), LIMIT)
    loop.close(peer.socket)
    wait_until(
        lambda: loop.run_once(0.01) or sender.send(b"peer", written) == zmq.EHOSTUNREACH, LIMIT
    )
    assert sender._begun == {}


def test_an_outbox_keeps_the_parts_that_do_not_fit(loop: Loop) -> None:
    peer = Peer(loop, zmq.ROUTER)
    dealer = make(loop.context, "server-call", SocketSettings(), b"server")
    loop.read(dealer, lambda _: None)
    dealer.connect(peer.address)
    outbox = Outbox(loop, dealer)
    for _ in range(2):
        outbox.send(frames.pack(HEADER, LONG, client=b"client"))
    assert outbox.size > 0
    peer.read(2)
    assert [each.body for each in peer.whole] == [LONG, LONG]
    assert outbox.size == 0


def test_a_cast_whose_first_parts_were_sent_is_continued(loop: Loop) -> None:
    peer = Peer(loop, zmq.PULL)
    metrics = Traffic(Metrics())
    pusher = Pusher(loop, SocketSettings(linger=LIMIT), 10**9, 0.0, metrics)
    record = HostRecord("one", "1", {"cast": peer.address}, frames.VERSION)
    ended: list[Outcome | None] = []
    for number in range(2):
        header = Header(Kind.CAST, bytes((number,)) * 16)
        pusher.send(record, Cast(header, LONG, LIMIT, ended.append))
    peer.read(2)
    assert [each.header.id[0] for each in peer.whole] == [0, 1]
    assert [each.body for each in peer.whole] == [LONG, LONG]
    assert peer.refused == 0
    assert ended == [None, None]


# -- of which some parts do not arrive ------------------------------------------------


def test_a_call_of_which_a_part_was_lost_has_not_arrived(node: Node) -> None:
    """So its client, which asks for it over the next connection, sends it to another host."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()

    def connect() -> zmq.Socket[bytes]:
        made = context.socket(zmq.DEALER)
        made.set(zmq.ROUTING_ID, b"client")
        made.set(zmq.PROBE_ROUTER, 1)
        made.set(zmq.SNDTIMEO, int(1000 * LIMIT))
        made.connect(f"tcp://{node.address}:9501")
        assert made.poll(int(1000 * LIMIT))
        assert frames.decode(made.recv()).kind is Kind.HELLO
        return made

    try:
        first = connect()
        for frame in frames.pack(HEADER._replace(sequence=1), LONG)[:5]:
            first.send(frame)
        first.close()
        second = connect()
        (asked,) = frames.encode_outstanding([(HEADER.id, 1)])
        (question,) = frames.pack(Header(Kind.OUTSTANDING, bytes(16)), asked)
        second.send(question)
        assert second.poll(int(1000 * LIMIT))
        answer = frames.unpack(second.recv())
        assert answer.header[:2] == (Kind.REJECT, HEADER.id)
        assert answer.body == frames.MISSED
        second.close(linger=0)
    finally:
        context.destroy(linger=0)


def test_a_request_whose_rest_does_not_come_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    loop, metrics = Loop(), Metrics()
    proxy = RequestProxy(loop, ProxySettings("one", own_address(), str(tmp_path)), None, metrics)
    monkeypatch.setattr(parts, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    cast = HEADER._replace(kind=Kind.CAST)
    proxy._on_client([b"client", frames.pack(HEADER, LONG)[0]])
    proxy._on_cast([frames.pack(cast, LONG)[0]])
    proxy._check()
    assert metrics.snapshot().get("zmq_rejected", 0) == 0
    clock[0] += parts.STALE_AFTER + 1
    proxy._check()
    counted = metrics.snapshot()
    assert (counted["zmq_rejected"], counted["zmq_casts_dropped"]) == (1, 1)
    loop.end()
