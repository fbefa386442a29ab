"""The proxies that a client is connected to, as the I/O thread sees them: CALL.

One router reaches all hosts that the directory names. A host that only an address is known of has
a router of its own, because nothing else identifies the host that answers there.

A request that was certainly not handed over ends as UNREACHABLE, BUSY or UNKNOWN, and may go to
another host. One whose server is gone ends as LOST, and one whose proxy is gone as CUT. Where only
a connection is gone, the proxy is asked what it has: it knows by the numbers of the requests which
have arrived.

Longer than others: all that can become of a request is here.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import zmq

from hbshim.messaging.base import Payload, Reply, ReplyKind
from hbshim.messaging.zmq import frames
from hbshim.messaging.zmq.connector import Connector
from hbshim.messaging.zmq.curve import ServerKeys
from hbshim.messaging.zmq.directory import HostRecord
from hbshim.messaging.zmq.frames import Header, Kind, Message
from hbshim.messaging.zmq.loop import Loop
from hbshim.messaging.zmq.outcomes import Outcome
from hbshim.messaging.zmq.outgoing import Outgoing
from hbshim.messaging.zmq.parts import Parts
from hbshim.messaging.zmq.router import RouterSender
from hbshim.messaging.zmq.settings import SocketSettings
from hbshim.messaging.zmq.sockets import make

if TYPE_CHECKING:
    from hbshim.messaging.zmq.traffic import Traffic

#: Seconds between two checks whether a proxy that calls wait for is still connected.
PING_EVERY = 0.5

#: Seconds without a connection after which a proxy counts as dead: calls that were handed to it
#: fail. It may return earlier, and then a restarted one is known by its incarnation.
DEAD_AFTER = 1.0

#: Parts of that time. Each begins when the one before has ended: a client that did not run for a
#: while, as on a busy machine, does not take the time for its proxy's.
_PARTS = 4

#: Seconds that a request waits for a proxy which is not connected yet, from the loss of the
#: connection or from the first attempt.
CONNECT_WITHIN = 1.0


_REASONS = {
    frames.BUSY: Outcome.BUSY,
    frames.UNKNOWN: Outcome.UNKNOWN,
    frames.APART: Outcome.APART,
    frames.MISSED: Outcome.UNREACHABLE,
    frames.REQUEUED: Outcome.REQUEUED,
}

_REPLIES: dict[Kind, ReplyKind] = {
    Kind.RESULT: "result",
    Kind.ERROR: "error",
    Kind.PROGRESS: "progress",
    Kind.ALIVE: "alive",
}


@dataclass(eq=False, slots=True)
class Request(Outgoing):
    """What is to be sent.

    Attributes:
        patient: where the connection was lost just now, it waits for the next one; other requests
            go to another host.
        token: names this sending where its outcome is delivered; empty: the id of the header does.
    """

    patient: bool = False
    token: bytes = b""

    @property
    def id(self) -> bytes:
        return self.header.id


@dataclass(eq=False)
class _Peer:
    """One proxy.

    Attributes:
        routing_id: None until it has identified itself.
        up: it is connected and has sent HELLO, or BYE.
        leaving: it stops, and takes nothing new.
        down_since: of ``time.monotonic()``.
        sender: over the socket.
        outstanding: the requests that it was sent, with their numbers.
        refusal: why the proxy refuses the connection, until it accepts it.
    """

    record: HostRecord
    address: str
    socket: zmq.Socket[bytes]
    connector: Connector
    sender: RouterSender
    routing_id: bytes | None
    down_since: float
    used: float = field(default_factory=time.monotonic)
    up: bool = False
    leaving: bool = False
    refusal: Outcome | None = None
    incarnation: bytes | None = None
    outstanding: dict[bytes, int] = field(default_factory=dict)
    waiting: deque[Request] = field(default_factory=deque)


class Peers:
    """See the module. Every method belongs to the I/O thread.

    Parameters:
        deliver: takes the id of a request and its reply, or its token and its outcome.
        on_change: called when a host may be reached again.
        idle: seconds without a request after which a host is disconnected; 0: never.
        server_keys: of the proxies; None: without CURVE.
    """

    def __init__(
        self,
        loop: Loop,
        settings: SocketSettings,
        routing_id: bytes,
        metrics: Traffic,
        deliver: Callable[[bytes, Reply | Outcome], None],
        on_change: Callable[[], None],
        idle: float = 0.0,
        server_keys: ServerKeys | None = None,
    ) -> None:
        self._loop = loop
        self._settings = settings
        self._routing_id = routing_id
        self._metrics = metrics
        self._deliver = deliver
        self._on_change = on_change
        self._idle = idle
        self._server_keys = server_keys
        self._shared: tuple[zmq.Socket[bytes], Connector, RouterSender] | None = None
        self._peers: dict[str, _Peer] = {}
        self._by_routing_id: dict[bytes, _Peer] = {}
        self._sent: dict[bytes, tuple[_Peer, Request]] = {}
        self._sequence = 0
        self._parts = Parts(self._on_dropped, frames.ANSWERS | {Kind.LISTENERS, Kind.POOLS})
        self._closed = False

    @property
    def connected(self) -> int:
        """Number of hosts that are connected; any thread may read it."""
        return sum(peer.up for peer in list(self._peers.values()))

    def start(self) -> None:
        """Check from now on whether the proxies are still there."""
        self._loop.later(PING_EVERY, self._ping)

    def send(self, record: HostRecord, request: Request) -> None:
        """Send a request to the proxy of a host, once it is connected."""
        peer = self._peer(record)
        if peer is None or peer.leaving:
            why = None if peer is None else peer.refusal
            self._report(request, why or Outcome.UNREACHABLE)
            return
        peer.used = time.monotonic()
        if peer.up and self._send(peer, request):
            return
        left = peer.down_since + CONNECT_WITHIN - time.monotonic()
        if peer.refusal is not None or left <= 0:
            self._report(request, peer.refusal or Outcome.UNREACHABLE)
        else:
            peer.waiting.append(request)
            self._loop.later(left, lambda: self._give_up(peer, request))

    def give_up(self, request: Request) -> None:
        """Report a request that is not acknowledged: as not sent, where that is certain."""
        for peer in self._peers.values():
            if request in peer.waiting:
                self._give_up(peer, request)
                return
        self.forget(request.id)
        self._report(request, Outcome.SILENT)

    def forget(self, request: bytes) -> None:
        """Drop a request whose caller waits no more."""
        if (sent := self._sent.pop(request, None)) is not None:
            sent[0].outstanding.pop(request, None)

    def close(self) -> None:
        """Close every connection."""
        self._closed = True
        for socket in {peer.socket for peer in self._peers.values()}:
            self._loop.close(socket)
        self._peers.clear()
        self._by_routing_id.clear()

    def _peer(self, record: HostRecord) -> _Peer | None:
        address = record.addresses.get("call", "")
        name = record.host or address
        peer = self._peers.get(name)
        if peer is not None and peer.address != address:
            self._leave(peer)
            peer = None
        if peer is None and not self._closed:
            peer = self._connect(record, name, address)
        elif peer is not None:
            peer.connector.update(record)
        return peer

    def _connect(self, record: HostRecord, name: str, address: str) -> _Peer | None:
        known = record.host.encode()
        if known:
            if self._shared is None:
                self._shared = self._router(self._on_shared)
            peer = _Peer(record, address, *self._shared, known, time.monotonic())
        else:
            own = self._router(lambda message: self._on_message(peer, message))
            peer = _Peer(record, address, *own, None, time.monotonic())
        if not peer.connector.connect(record):
            if not known:
                self._loop.close(peer.socket)
            return None
        self._peers[name] = peer
        if known:
            self._by_routing_id[known] = peer
        return peer

    def _router(
        self, handler: Callable[[list[bytes]], None]
    ) -> tuple[zmq.Socket[bytes], Connector, RouterSender]:
        made = make(self._loop.context, "client-call", self._settings, self._routing_id)
        self._loop.read(made, handler)
        connector = Connector(
            self._loop, made, "call", self._server_keys, self._metrics, self._on_refused
        )
        return made, connector, RouterSender(self._loop, made)

    def _on_refused(self, address: str, why: Outcome) -> None:
        for peer in self._peers.values():
            if peer.address == address:
                peer.refusal = why
                while peer.waiting:
                    self._report(peer.waiting.popleft(), why)

    def _leave(self, peer: _Peer) -> None:
        self._fail(peer)
        self._peers = {name: each for name, each in self._peers.items() if each is not peer}
        if peer.record.host:
            self._by_routing_id = {
                key: each for key, each in self._by_routing_id.items() if each is not peer
            }
            # ZeroMQ disconnects all that is connected to an address, and a host that was renamed
            # is there twice.
            if peer.address not in {each.address for each in self._by_routing_id.values()}:
                peer.connector.disconnect(peer.address)
        else:
            self._loop.close(peer.socket)

    def _send(self, peer: _Peer, request: Request) -> bool:
        """Send a request, or report why not; return False if it can wait for a connection."""
        assert peer.routing_id is not None
        sequence = self._sequence + 1
        error = peer.sender.send(peer.routing_id, request.frames(sequence))
        if not error:
            self._metrics.sent(request.header.kind)
            self._sequence = peer.outstanding[request.id] = sequence
            self._sent[request.id] = peer, request
            return True
        if error == zmq.EHOSTUNREACH:
            self._mark_down(peer)
            if request.patient:
                return False
        busy = error == zmq.EAGAIN
        self._report(request, Outcome.BUSY if busy else Outcome.UNREACHABLE)
        return True

    def _disconnect_idle(self) -> None:
        before = time.monotonic() - self._idle
        for peer in list(self._peers.values()):
            if peer.used < before and not (peer.outstanding or peer.waiting):
                self._leave(peer)

    def _give_up(self, peer: _Peer, request: Request) -> None:
        if request in peer.waiting:
            peer.waiting.remove(request)
            self._report(request, peer.refusal or Outcome.UNREACHABLE)

    # -- messages of a proxy ---------------------------------------------------

    def _on_shared(self, message: list[bytes]) -> None:
        peer = self._by_routing_id.get(message[0])
        if peer is not None:
            self._on_message(peer, message)

    def _on_message(self, peer: _Peer, message: list[bytes]) -> None:
        routing_id, *rest = message
        if rest == [b""]:
            return  # a probe; HELLO follows
        arrived = self._parts.whole(routing_id, frames.unpack(frames.sole(rest)))
        if arrived is not None:
            self._on_whole(peer, routing_id, arrived)

    def _on_whole(self, peer: _Peer, routing_id: bytes, message: Message) -> None:
        header, body = message.header, message.body
        kind = _REPLIES.get(header.kind)
        if kind is not None:
            if kind in ("result", "error"):
                self.forget(header.id)
            self._deliver(header.id, Reply(kind, Payload(body, header.content_type)))
        elif header.kind is Kind.ACK:
            self.forget(header.id)
            self._deliver(header.id, Reply("result", Payload(b"")))
        elif header.kind in (Kind.LISTENERS, Kind.POOLS):
            self.forget(header.id)
            self._deliver(header.id, Reply("result", Payload(body)))
        elif header.kind is Kind.HELLO:
            self._on_hello(peer, routing_id, header)
        elif header.kind is Kind.BYE:
            self._on_bye(peer, routing_id, header)
        elif header.kind is Kind.REJECT:
            self._end(peer, header.id, _REASONS.get(body, Outcome.BUSY))
        elif header.kind is Kind.LOST:
            self._end(peer, header.id, Outcome.LOST)

    def _on_dropped(self, _source: bytes, begun: Message) -> None:
        """The rest of a reply has not come."""
        sent = self._sent.get(begun.header.id)
        if sent is not None and begun.header.kind in (Kind.RESULT, Kind.ERROR):
            self._end(sent[0], begun.header.id, Outcome.LOST)

    def _on_hello(self, peer: _Peer, routing_id: bytes, header: Header) -> None:
        self._on_connected(peer, routing_id, header)
        peer.leaving = False
        waiting, peer.waiting = peer.waiting, deque()
        for request in waiting:
            if request.expired() or not self._send(peer, request):
                self._report(request, Outcome.UNREACHABLE)
        self._on_change()

    def _on_bye(self, peer: _Peer, routing_id: bytes, header: Header) -> None:
        """It takes nothing new, and still forwards replies; also over a new connection."""
        self._on_connected(peer, routing_id, header)
        peer.leaving = True
        while peer.waiting:
            self._report(peer.waiting.popleft(), Outcome.UNREACHABLE)

    def _on_connected(self, peer: _Peer, routing_id: bytes, header: Header) -> None:
        peer.sender.forget(routing_id)
        if peer.incarnation not in (None, header.id):
            self._metrics.record("zmq-proxy-restarted", header.server)
            self._fail(peer)
        elif peer.outstanding:
            # This may be another connection than they were sent over.
            for requests in frames.encode_outstanding(peer.outstanding.items()):
                asked = frames.pack(Header(Kind.OUTSTANDING, header.id), requests)
                peer.sender.send_behind(routing_id, asked)
        peer.incarnation, peer.routing_id = header.id, routing_id
        peer.up, peer.refusal = True, None

    def _end(self, peer: _Peer, request: bytes, outcome: Outcome) -> None:
        """Report what became of a request, unless it was sent to another proxy since."""
        sent = self._sent.get(request)
        if sent is not None and sent[0] is peer:
            self.forget(request)
            self._report(sent[1], outcome)

    def _report(self, request: Request, outcome: Outcome) -> None:
        self._deliver(request.token or request.id, outcome)

    def _fail(self, peer: _Peer) -> None:
        """The proxy is gone, and with it what it was handed."""
        for request in list(peer.outstanding):
            self._end(peer, request, Outcome.CUT)

    # -- whether a proxy is still there --------------------------------------

    def _ping(self) -> None:
        if self._closed:
            return
        self._loop.later(PING_EVERY, self._ping)
        if self._idle:
            self._disconnect_idle()
        ping = frames.encode(Header(Kind.PING, bytes(16)))
        for peer in self._peers.values():
            if peer.outstanding and peer.up and peer.routing_id is not None:
                error = peer.sender.send(peer.routing_id, [ping])
                if error == zmq.EHOSTUNREACH:
                    self._mark_down(peer)

    def _mark_down(self, peer: _Peer) -> None:
        if not peer.up:
            return
        peer.up, peer.down_since = False, time.monotonic()
        since = peer.down_since

        def check(parts: int) -> None:
            if peer.up or peer.down_since != since:
                return
            if parts:
                self._loop.later(DEAD_AFTER / _PARTS, lambda: check(parts - 1))
            else:
                self._metrics.record("zmq-proxy-dead", peer.address)
                self._fail(peer)

        check(_PARTS)
