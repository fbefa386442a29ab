"""The proxies that a client casts to over one-way connections: a PUSH socket for each host.

A cast is sent when a live connection takes it. While a host takes casts, their senders do not wait
for the I/O thread; what it cannot send at once is kept, up to a limit, and later senders wait.
"""

from __future__ import annotations

import functools
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import zmq

from hbshim.messaging.zmq import frames
from hbshim.messaging.zmq.connector import Connector
from hbshim.messaging.zmq.curve import ServerKeys
from hbshim.messaging.zmq.directory import HostRecord
from hbshim.messaging.zmq.loop import Loop, try_send
from hbshim.messaging.zmq.outcomes import Outcome
from hbshim.messaging.zmq.outgoing import Outgoing
from hbshim.messaging.zmq.settings import SocketSettings
from hbshim.messaging.zmq.sockets import make
from hbshim.runtime.exclusive import TrySection

if TYPE_CHECKING:
    from hbshim.messaging.zmq.traffic import Traffic

#: Seconds that a cast waits for a host that takes nothing; later ones do not wait for it.
SEND_WITHIN = 1.0

#: Seconds between two rounds that drop what is late, and close what is idle.
_CHECK_EVERY = 1.0


@dataclass(eq=False, slots=True)
class Cast(Outgoing):
    """A cast.

    Attributes:
        done: called by the I/O thread with why it was not sent, or None; its sender waits for it.
        rest: what is left to send, once a part of it was sent.
    """

    done: Callable[[Outcome | None], None] | None = None
    rest: deque[bytes] = field(default_factory=deque)

    @property
    def size(self) -> int:
        """Its bytes, about."""
        return frames.HEADER_LIMIT + len(self.body)


@dataclass(eq=False)
class _Peer:
    """One proxy.

    Attributes:
        ready: it took the last cast, and nothing is kept for it; any thread may read it.
        down_since: when it was ready last, of ``time.monotonic()``.
        refusal: why the proxy refuses the connection, until it takes a cast.
    """

    address: str
    socket: zmq.Socket[bytes]
    connector: Connector
    ready: bool = False
    refusal: Outcome | None = None
    down_since: float = field(default_factory=time.monotonic)
    used: float = field(default_factory=time.monotonic)
    kept: deque[Cast] = field(default_factory=deque)


class Pusher:
    """See the module. Every method but :meth:`offer` belongs to the I/O thread.

    Parameters:
        most_bytes: of casts whose senders do not wait.
        idle: seconds without a cast after which a host is disconnected.
        server_keys: of the proxies; None: without CURVE.
    """

    def __init__(
        self,
        loop: Loop,
        settings: SocketSettings,
        most_bytes: int,
        idle: float,
        metrics: Traffic,
        server_keys: ServerKeys | None = None,
    ) -> None:
        self._loop = loop
        self._settings = settings
        self._most_bytes = most_bytes
        self._idle = idle
        self._metrics = metrics
        self._server_keys = server_keys
        self._peers: dict[str, _Peer] = {}
        self._leaving: set[_Peer] = set()
        # Of what was offered, by the threads that offer; and of what has ended, by the I/O thread.
        self._offering = TrySection()
        self._offered = self._ended = 0
        self._closed = False

    @property
    def connected(self) -> int:
        """Number of hosts that take casts; any thread may read it."""
        return sum(peer.ready for peer in list(self._peers.values()))

    @property
    def size(self) -> int:
        """Bytes of the casts that were offered and have not ended."""
        return self._offered - self._ended

    def start(self) -> None:
        """Check the connections from now on."""
        self._loop.finish_first(self._keeps)
        self._loop.later(_CHECK_EVERY, self._check)

    def offer(self, record: HostRecord, cast: Cast) -> bool:
        """Have a cast sent, from any thread, without waiting; return False if that cannot be."""
        peer = self._peers.get(record.host)
        if peer is None or not peer.ready or peer.address != record.addresses.get("cast"):
            return False

        def post() -> bool:
            if self.size + cast.size > self._most_bytes:
                return False
            # In this order: what interrupts it leaves no space taken for ever.
            self._loop.post(functools.partial(self._send, peer, cast))
            self._offered += cast.size
            return True

        return self._offering.run(post) is True

    def send(self, record: HostRecord, cast: Cast) -> None:
        """Send a cast whose sender waits, or report that its host does not take it."""
        peer = self._peer(record)
        if peer is None:
            self._end(cast, Outcome.UNREACHABLE)
        else:
            self._send(peer, cast)

    def close(self) -> None:
        """Close the connections, once what is kept was sent, or the linger time is over."""
        self._closed = True
        for peer in list(self._peers.values()):
            self._leave(peer)
        self._finish()

    def _keeps(self) -> bool:
        return any(peer.kept for peer in (*self._peers.values(), *self._leaving))

    def _peer(self, record: HostRecord) -> _Peer | None:
        address = record.addresses["cast"]
        peer = self._peers.get(record.host)
        if peer is not None and peer.address != address:
            self._leave(peer)
            peer = None
        if peer is None and not self._closed:
            made = make(self._loop.context, "client-cast", self._settings)
            connector = Connector(
                self._loop,
                made,
                "cast",
                self._server_keys,
                self._metrics,
                lambda address, why: self._on_refused(record.host, address, why),
            )
            if not connector.connect(record):
                self._loop.close(made)
                return None
            peer = self._peers[record.host] = _Peer(address, made, connector)
            self._loop.look_after(made)
        elif peer is not None:
            peer.connector.update(record)
        return peer

    def _on_refused(self, host: str, address: str, why: Outcome) -> None:
        peer = self._peers.get(host)
        if peer is not None and peer.address == address:
            peer.refusal = why
            for cast in [each for each in peer.kept if each.done is not None]:
                self._give_up(peer, cast)

    def _send(self, peer: _Peer, cast: Cast) -> None:
        peer.used = time.monotonic()
        if cast.expired():
            self._end(cast, Outcome.UNREACHABLE)
            return
        if not peer.kept and not peer.socket.closed and self._push(peer, cast):
            peer.ready, peer.refusal = True, None
            self._end(cast)
            return
        if peer.ready:
            peer.ready, peer.down_since = False, peer.used
        left = peer.down_since + SEND_WITHIN - peer.used
        hopeless = left <= 0 or peer.refusal is not None
        if peer.socket.closed or (cast.done is not None and hopeless):
            self._end(cast, peer.refusal or Outcome.UNREACHABLE)
            return
        if not peer.kept:
            self._loop.write(peer.socket, lambda: self._flush(peer))
        peer.kept.append(cast)
        if cast.done is not None:
            self._loop.later(left, lambda: self._give_up(peer, cast))

    def _push(self, peer: _Peer, cast: Cast) -> bool:
        """Send what is left of a cast; return whether all of it was sent."""
        rest = cast.rest or deque(cast.frames())
        while rest:
            if try_send(peer.socket, [rest[0]]):
                break
            rest.popleft()
            cast.rest = rest
        return not rest

    def _flush(self, peer: _Peer) -> None:
        while peer.kept:
            cast = peer.kept[0]
            late = cast.expired()
            if not late and not self._push(peer, cast):
                return
            peer.kept.popleft()
            self._end(cast, Outcome.UNREACHABLE if late else None)
        peer.ready, peer.refusal = True, None
        self._loop.write(peer.socket, None)
        if peer in self._leaving:
            self._close(peer)

    def _give_up(self, peer: _Peer, cast: Cast) -> None:
        if cast in peer.kept:
            peer.kept.remove(cast)
            self._end(cast, peer.refusal or Outcome.UNREACHABLE)

    def _end(self, cast: Cast, why: Outcome | None = None) -> None:
        """Report what became of a cast.

        Parameters:
            why: it was not sent; None: it was.
        """
        if why is None:
            self._metrics.sent(cast.header.kind)
        if cast.done is not None:
            cast.done(why)
            return
        self._ended += cast.size
        if why is not None:
            self._metrics.count("zmq_casts_dropped")
            detail = f"a cast to topic {cast.header.topic!r} waited too long: {why.value}"
            self._metrics.record("zmq-cast-dropped", "", detail)

    def _leave(self, peer: _Peer) -> None:
        """Disconnect a host."""
        self._peers = {name: each for name, each in self._peers.items() if each is not peer}
        peer.ready = False
        # Those whose senders wait are reported; the others have the linger time.
        for cast in [each for each in peer.kept if each.done is not None]:
            self._give_up(peer, cast)
        if peer.kept:
            self._leaving.add(peer)
            self._loop.leave(peer.socket)
            self._loop.later(self._settings.linger, lambda: self._close(peer))
        else:
            self._close(peer)

    def _close(self, peer: _Peer) -> None:
        while peer.kept:
            self._end(peer.kept.popleft(), peer.refusal or Outcome.UNREACHABLE)
        self._leaving.discard(peer)
        self._loop.close(peer.socket)
        self._finish()

    def _finish(self) -> None:
        """Have the loop forget a pusher that is closed and keeps nothing."""
        if self._closed and not self._keeps():
            self._loop.finished(self._keeps)

    def _check(self) -> None:
        if self._closed:
            return
        self._loop.later(_CHECK_EVERY, self._check)
        before = time.monotonic() - (self._idle or math.inf)
        for peer in list(self._peers.values()):
            for cast in [each for each in peer.kept if each.expired()]:
                peer.kept.remove(cast)
                self._end(cast, Outcome.UNREACHABLE)
            if peer.used < before and not peer.kept:
                self._leave(peer)
