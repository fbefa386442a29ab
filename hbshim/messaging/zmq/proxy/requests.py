"""The request pipelines of a proxy: calls and casts to the servers here, replies back.

Calls, and casts that are acknowledged by the proxy or by a server, come over a router; other casts
come over a PULL socket, and one that cannot be placed is dropped and counted. Both have one
dispatch table.

Everything here runs in the thread of the loop.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING

import zmq

from hbshim.messaging.zmq import frames
from hbshim.messaging.zmq.directory import PIPELINES, Directory, HostRecord
from hbshim.messaging.zmq.frames import Flag, Header, Kind, Message
from hbshim.messaging.zmq.local_sockets import ipc_path
from hbshim.messaging.zmq.loop import Loop
from hbshim.messaging.zmq.parts import Parts
from hbshim.messaging.zmq.proxy.access import Access
from hbshim.messaging.zmq.proxy.clients import Clients
from hbshim.messaging.zmq.proxy.endpoints import (
    REBIND_AFTER,
    ProxySettings,
    bind,
    bind_again,
    bind_port,
)
from hbshim.messaging.zmq.proxy.request_queue import RequestQueue, Waiting
from hbshim.messaging.zmq.proxy.servers import Servers
from hbshim.messaging.zmq.sockets import LOCAL_RECONNECT, make, public_key

if TYPE_CHECKING:
    from hbshim.metrics import Metrics

#: Seconds between two checks of every server. With those of a suspect, one that died is known to
#: be gone within 1.5 s; one whose connection breaks has a second at least to connect again.
PING_EVERY = 0.5

#: Seconds between two times that what is late is dropped, and reported.
_CHECK_EVERY = 1.0

#: Seconds between two checks whether a proxy that stops has anything left to do.
_STOP_CHECK = 0.05

#: Seconds without a cast after which a proxy that stops closes: its clients know by then.
_CASTS_END = 0.25

#: Seconds after its start in which the servers of a proxy may not have connected again: it keeps
#: casts to them, and does not report yet that a key has no listeners.
_GATHERING = 2.0

#: Seconds after its start in which the listeners of a proxy that was restarted connect again:
#: twice the longest pause between their attempts.
_SETTLING = 2 * LOCAL_RECONNECT

#: Seconds between two checks whether a listener has come.
_LISTENER_CHECK = 0.05


class RequestProxy:
    """See the module, and :class:`hbshim.messaging.zmq.proxy.endpoints.Server`.

    Parameters:
        directory: where servers are registered; None: clients find the host by its address.
        access: decides which clients may connect; None: all of them, without encryption.

    Raises:
        OptionError: an address cannot be bound.
    """

    def __init__(
        self,
        loop: Loop,
        settings: ProxySettings,
        directory: Directory | None,
        metrics: Metrics,
        access: Access | None = None,
    ) -> None:
        self._loop = loop
        self._directory = directory
        self._metrics = metrics
        self._host = settings.host
        self.failed = False
        self._stopping = False
        self._reported = 0, 0, 0
        self._casts = self._casts_dropped = 0
        self._started = time.monotonic()
        self._last_cast = -_CASTS_END
        incarnation, name = uuid.uuid4(), settings.host.encode()
        front = make(loop.context, "proxy-call", settings.sockets, name)
        back = make(loop.context, "proxy-servers", settings.sockets, name)
        pull = make(loop.context, "proxy-cast", settings.sockets)
        self._ports = {
            front: bind_port(front, settings, "call", access),
            pull: bind_port(pull, settings, "cast", access),
        }
        bind(back, ipc_path(settings.ipc_directory, "servers"), settings.ipc_group)
        addresses = {pipeline: settings.address(pipeline) for pipeline in PIPELINES}
        self.description = f"calls at {addresses['call']}, casts at {addresses['cast']}"
        secret = settings.sockets.secret_key
        key = None if secret is None else public_key(secret).decode()
        record = HostRecord(settings.host, incarnation.hex, addresses, frames.VERSION, key)
        self._queue = RequestQueue(settings.backlog, settings.queue_bytes)
        self._clients = Clients(
            loop, front, settings.host, incarnation.bytes, settings.queue_bytes, metrics
        )
        self._servers = Servers(
            *(loop, back, self._queue, self._clients, directory, record),
            *(settings.copies_lifetime, metrics),
        )
        self._parts = Parts(self._on_dropped, frames.REQUESTS)
        self._cast_parts = Parts(self._on_cast_dropped, {Kind.CAST})
        loop.read(front, self._on_client)
        loop.read(pull, self._on_cast)
        loop.read(back, self._servers.on_message)
        loop.every(PING_EVERY, self._servers.check)
        loop.every(_CHECK_EVERY, self._check)

    def stop(self, grace: float) -> None:
        """Take nothing new, hand out what waits, and forward replies; then stop the loop."""
        if self._stopping:
            return
        self._stopping = self._servers.closing = True
        if self._directory is not None:
            self._directory.withdraw(self._host, None, time.monotonic())
        self._clients.say_bye()
        until = time.monotonic() + grace

        def check() -> None:
            now = time.monotonic()
            waits = self._servers.table.outstanding or len(self._queue) or len(self._clients.held)
            waits = waits or self._servers.begun or self._clients.begun
            if (waits or now < self._last_cast + _CASTS_END) and now < until:
                self._loop.later(_STOP_CHECK, check)
            else:
                self._loop.stop()

        check()

    def statistics(self) -> Mapping[str, float]:
        table = self._servers.table
        return {
            "servers": len(table.servers),
            "credit": sum(max(0, server.credit) for server in table.servers),
            "outstanding": table.outstanding,
            "waiting": len(self._queue),
            "oldest_waiting_seconds": self._queue.oldest(time.monotonic()),
            "expired": self._queue.expired,
            "casts": self._casts,
            "casts_dropped": self._casts_dropped,
            "replies_held": len(self._clients.held),
            "replies_dropped": self._clients.held.dropped,
            "clients": len(self._clients),
        }

    def drop_connections(self) -> None:
        for socket, address in self._ports.items():
            socket.unbind(address)
            self._bind_again(socket, address)

    def _bind_again(self, socket: zmq.Socket[bytes], address: str) -> None:
        if not bind_again(socket, address):
            self._loop.later(REBIND_AFTER, lambda: self._bind_again(socket, address))

    def _on_client(self, message: list[bytes]) -> None:
        client, *rest = message
        if rest == [b""]:
            self._clients.greet(client, stopping=self._stopping)
            return
        try:
            arrived = self._parts.whole(client, frames.unpack(frames.sole(rest)))
        except frames.ForeignVersionError as error:
            self._clients.reject(client, error.id, frames.APART)
            raise
        if arrived is not None:
            self._on_whole(client, arrived)

    def _on_whole(self, client: bytes, message: Message) -> None:
        header = message.header
        notified = header.kind is Kind.NOTIFY and header.flags & Flag.ACKNOWLEDGED
        if header.kind in (Kind.CALL, Kind.CAST) or notified:
            if self._clients.arrived(client, header.sequence):
                self._on_request(client, message)
        elif header.kind in (Kind.LISTENERS, Kind.POOLS):
            self._on_question(client, header, message.body)
        elif header.kind is Kind.OUTSTANDING:
            self._on_outstanding(client, frames.decode_outstanding(message.body))

    def _on_dropped(self, client: bytes, begun: Message) -> None:
        """The rest of a request has not come, so that it was certainly not handed over."""
        self._clients.reject(client, begun.header.id, frames.BUSY)

    def _on_cast_dropped(self, _source: bytes, _begun: Message) -> None:
        self._casts_dropped += 1

    def _on_outstanding(self, client: bytes, requests: list[tuple[bytes, int]]) -> None:
        """Answer for what a client waits for, and this proxy will not answer otherwise."""
        here = self._queue.calls_of(client) | self._servers.table.calls_of(client)
        here |= self._clients.held.held_for(client)
        for request, sequence in requests:
            if request in here:
                continue
            if request in self._servers.acknowledged:
                self._clients.acknowledge(client, request)
            elif self._clients.missed(client, sequence):
                self._clients.reject(client, request, frames.MISSED)
            else:
                self._clients.lose(client, request)

    def _on_question(self, client: bytes, header: Header, key: bytes) -> None:
        """Answer with the ids, or with the ids and pools, of the servers that have a key."""
        servers = self._servers.table.servers_of(key)
        # Publishers wait for the listeners that are named, and for no others.
        if time.monotonic() < self._started + (_SETTLING if servers else _GATHERING):
            self._loop.later(_LISTENER_CHECK, lambda: self._on_question(client, header, key))
            return
        if header.kind is Kind.LISTENERS:
            found = b"".join(server.incarnation for server in servers)
        else:
            found = frames.encode_pools(
                (server.incarnation, split[1])
                for server in servers
                for split in map(frames.split_pool_key, server.keys)
                if split is not None and split[0] == key
            )
        self._clients.reply(client, header.kind, frames.pack(header, found))

    def _on_request(self, client: bytes, message: Message) -> None:
        header = message.header
        key = header.dispatch_key
        answered = header.kind is Kind.CALL or header.flags & Flag.ACKNOWLEDGED
        waiting = Waiting(
            client if answered else b"", message.head, header, message.view, time.monotonic()
        )
        if header.flags & Flag.AGAIN:
            self._servers.table.forget(header.id)
        if self._servers.answer_copy(waiting):
            return
        if not self._servers.table.serves(key):
            # A pool that is unknown has ended, unless its listeners are about to connect again.
            notified = header.kind is Kind.NOTIFY
            reason = frames.BUSY if notified and self._gathering() else frames.UNKNOWN
            self._clients.reject(client, header.id, reason)
        elif self._stopping or not self._servers.place(key, waiting):
            self._clients.reject(client, header.id, frames.BUSY)
        elif header.flags & Flag.WANTS_ACK:
            self._clients.acknowledge(client, header.id)

    def _on_cast(self, message: list[bytes]) -> None:
        """Place a cast; its sender learns nothing of what becomes of it."""
        self._last_cast = time.monotonic()
        arrived = self._cast_parts.whole(b"", frames.unpack(frames.sole(message)))
        if arrived is None:
            return
        header = arrived.header
        if header.kind is not Kind.CAST:
            raise frames.FrameError(f"{header.kind.name} is no cast")
        self._casts += 1
        key = header.key
        waiting = Waiting(b"", arrived.head, header, arrived.view, self._last_cast)
        expected = self._servers.table.serves(key) or (header.left > 0 and self._gathering())
        if not (expected and self._servers.place(key, waiting)):
            self._casts_dropped += 1

    def _gathering(self) -> bool:
        """Return whether servers may be about to connect again."""
        return time.monotonic() < self._started + _GATHERING

    def _check(self) -> None:
        now = time.monotonic()
        for parts in (self._parts, self._cast_parts, self._servers.parts):
            parts.drop_stale()
        self._queue.drop_expired(now)
        self._servers.table.drop_late(now)
        self._clients.held.drop_late(now)
        self._report_dropped()

    def _report_dropped(self) -> None:
        """Count what was dropped since the last time; a cast among it was accepted before."""
        counts = self._queue.expired, self._clients.held.dropped, self._casts_dropped
        new = [count - before for count, before in zip(counts, self._reported, strict=True)]
        if any(new):
            self._reported = counts
            self._metrics.count("zmq_requests_expired", new[0])
            self._metrics.count("zmq_replies_dropped", new[1])
            self._metrics.count("zmq_casts_dropped", new[2])
            self._metrics.record(
                "zmq-dropped",
                self._host,
                f"{new[0]} requests waited until their time was over, {new[1]} replies had no "
                f"client any more, and {new[2]} casts had no server or no space",
            )
