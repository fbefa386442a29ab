"""The request pipeline of a proxy: calls from the network to the servers here, replies back.

Everything here runs in the thread of the loop. What is decided, :mod:`dispatch_table` decides,
and what waits, waits in :mod:`request_queue`.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING

import zmq

from hbshim.messaging.zmq import frames
from hbshim.messaging.zmq.directory import Directory, HostRecord, Pipeline, Registration
from hbshim.messaging.zmq.frames import Flag, Header, Kind
from hbshim.messaging.zmq.loop import Loop, try_send
from hbshim.messaging.zmq.proxy.dispatch_table import DispatchTable, Lost, Server
from hbshim.messaging.zmq.proxy.endpoints import ProxySettings, bind, bind_port
from hbshim.messaging.zmq.proxy.held import HeldReplies
from hbshim.messaging.zmq.proxy.request_queue import RequestQueue, Waiting
from hbshim.messaging.zmq.settings import ipc_path
from hbshim.messaging.zmq.sockets import make

if TYPE_CHECKING:
    from hbshim.metrics import Metrics

#: Seconds between two checks of every server, and until a server that was not reached is checked
#: again: one that died is noticed within the sum.
PING_EVERY, PING_SUSPECT_AFTER = 1.0, 0.25

#: Seconds until a message is tried again that a socket had no space for.
RETRY_AFTER = 0.01

#: Seconds for which replies are held for a client that has lost its connection.
REPLY_GRACE = 30.0

#: Clients that are told when the proxy stops: the latest. The others find out at their next call.
_CLIENTS_KEPT = 10_000

#: Seconds between two checks whether a proxy that stops has anything left to do.
_STOP_CHECK = 0.05

_FINAL = frozenset((Kind.RESULT, Kind.ERROR))
_REPLIES = _FINAL | {Kind.PROGRESS, Kind.ALIVE}


class RequestProxy:
    """See the module, and :class:`hbshim.messaging.zmq.proxy.endpoints.Server`.

    Parameters:
        directory: where servers are registered; None: clients find the host by its address.

    Raises:
        OptionError: an address cannot be bound.
    """

    def __init__(
        self, loop: Loop, settings: ProxySettings, directory: Directory | None, metrics: Metrics
    ) -> None:
        self._loop = loop
        self._directory = directory
        self._metrics = metrics
        self._host = settings.host
        self._incarnation = uuid.uuid4()
        self._table = DispatchTable()
        self._queue = RequestQueue(settings.backlog, settings.queue_bytes)
        self._held = HeldReplies(settings.queue_bytes)
        self._clients: dict[bytes, None] = {}
        self._stopping = False
        self._reported = 0, 0
        name = settings.host.encode()
        self._front = make(loop.context, "proxy-call", settings.sockets, name)
        self._back = make(loop.context, "proxy-servers", settings.sockets, name)
        bind_port(self._front, settings, "call")
        bind(self._back, ipc_path(settings.ipc_directory, "servers"))
        offered: tuple[Pipeline, ...] = ("call", "fanout", "notify")
        addresses = {pipeline: settings.address(pipeline) for pipeline in offered}
        self.description = f"calls at {addresses['call']}"
        self._record = HostRecord(settings.host, self._incarnation.hex, addresses, frames.VERSION)
        loop.read(self._front, self._on_client)
        loop.read(self._back, self._on_server)
        loop.every(PING_EVERY, self._check)

    def stop(self, grace: float) -> None:
        """Take nothing new, hand out what waits, and forward replies; then stop the loop."""
        if self._stopping:
            return
        self._stopping = True
        if self._directory is not None:
            self._directory.withdraw(self._host, None, time.monotonic())
        bye = frames.encode(Header(Kind.BYE, self._incarnation.bytes, server=self._host))
        for client in list(self._clients):
            try_send(self._front, [client, bye])
        until = time.monotonic() + grace

        def check() -> None:
            busy = self._table.outstanding or len(self._queue) or len(self._held)
            if busy and time.monotonic() < until:
                self._loop.later(_STOP_CHECK, check)
            else:
                self._loop.stop()

        check()

    def statistics(self) -> Mapping[str, float]:
        servers = self._table.servers
        return {
            "servers": len(servers),
            "credit": sum(max(0, server.credit) for server in servers),
            "outstanding": self._table.outstanding,
            "waiting": len(self._queue),
            "oldest_waiting_seconds": self._queue.oldest(time.monotonic()),
            "expired": self._queue.expired,
            "replies_held": len(self._held),
            "replies_dropped": self._held.dropped,
            "clients": len(self._clients),
        }

    # -- from the network ----------------------------------------------------

    def _on_client(self, message: list[bytes]) -> None:
        client, *rest = message
        if rest == [b""]:
            self._on_probe(client)
            return
        try:
            header = frames.decode(rest[0])
            body = rest[1:]
            frames.check(body, frames.BODY_LIMIT)
        except frames.ForeignVersionError as error:
            self._metrics.count("zmq_version_apart")
            self._reject(client, error.id, frames.APART)
            return
        except (frames.FrameError, IndexError):
            self._metrics.count("zmq_malformed")
            return
        if header.kind in (Kind.CALL, Kind.CAST):
            self._on_request(client, rest[0], header, body)
        elif header.kind is Kind.LISTENERS:
            answer = [frames.encode(header), *frames.split(self._listeners(body))]
            self._reply(client, Kind.LISTENERS, answer)

    def _listeners(self, body: list[bytes]) -> bytes:
        """Return the ids of the servers that have a key; it is the only frame of the body."""
        if len(body) != 1:
            raise frames.FrameError("a question without a key")
        return b"".join(server.incarnation for server in self._table.servers_of(body[0]))

    def _on_probe(self, client: bytes) -> None:
        """Greet a client that has connected; it learns whether this proxy has restarted."""
        # Those that come and go without a call would otherwise stay for ever.
        self._clients.pop(client, None)
        self._clients[client] = None
        if len(self._clients) > _CLIENTS_KEPT:
            del self._clients[next(iter(self._clients))]
        kind = Kind.BYE if self._stopping else Kind.HELLO
        hello = frames.encode(Header(kind, self._incarnation.bytes, server=self._host))
        try_send(self._front, [client, hello])
        self._send_held(client)

    def _on_request(self, client: bytes, first: bytes, header: Header, body: list[bytes]) -> None:
        key = header.key
        receiver = client if header.kind is Kind.CALL else b""
        waiting = Waiting(receiver, first, header, body, time.monotonic())
        if not self._table.serves(key):
            self._reject(client, header.id, frames.UNKNOWN)
        elif self._stopping or not self._place(key, waiting):
            self._reject(client, header.id, frames.BUSY)
        elif header.flags & Flag.WANTS_ACK:
            self._reply(client, Kind.ACK, [frames.encode(Header(Kind.ACK, header.id))])

    def _place(self, key: bytes, waiting: Waiting) -> bool:
        """Hand a request over, or have it wait behind others; return whether it was done."""
        if not self._queue.waits(key) and self._hand_over(key, waiting):
            return True
        return self._queue.put(key, waiting)

    def _hand_over(self, key: bytes, waiting: Waiting) -> bool:
        first = waiting.first
        if waiting.header.left:
            left = waiting.left(time.monotonic())
            if left != waiting.header.left:
                first = frames.encode(waiting.header._replace(left=max(1, left)))
        while (server := self._table.match(key)) is not None:
            error = try_send(self._back, [server.routing_id, waiting.client, first, *waiting.body])
            if not error:
                call = waiting.header.id if waiting.client else None
                self._table.hand_over(server, call, waiting.client)
                self._metrics.count("zmq_handed_over")
                return True
            if error != zmq.EHOSTUNREACH:
                self._loop.later(RETRY_AFTER, lambda: self._drain((key,)))
                return False
            self._unreachable(server)
        return False

    def _drain(self, keys: tuple[bytes, ...]) -> None:
        """Hand out what waits, as far as there is credit."""
        for key in keys:
            while self._queue.waits(key) and self._table.match(key) is not None:
                waiting = self._queue.take(key, time.monotonic())
                if waiting is not None and not self._hand_over(key, waiting):
                    self._queue.put_back(key, waiting)
                    break

    def _reject(self, client: bytes, request: bytes, reason: bytes) -> None:
        self._metrics.count("zmq_rejected")
        try_send(self._front, [client, frames.encode(Header(Kind.REJECT, request)), reason])

    # -- from the servers ----------------------------------------------------

    def _on_server(self, message: list[bytes]) -> None:
        routing_id, *rest = message
        if rest == [b""]:
            return
        try:
            client, first, *body = rest
            header = frames.decode(first)
        except ValueError:
            self._metrics.count("zmq_malformed")
            return
        server = self._table.get(routing_id)
        if header.kind in _REPLIES:
            if server is not None and header.kind in _FINAL:
                self._table.answered(server, header.id)
            self._reply(client, header.kind, [first, *body])
        elif header.kind is Kind.HELLO:
            self._on_hello(routing_id, header, body)
        elif server is None:
            self._metrics.count("zmq_unknown_server")
        elif header.kind is Kind.CREDIT:
            server.credit += frames.decode_credit(body[0] if body else b"")
            self._drain(server.keys)
        elif header.kind is Kind.RELEASE:
            self._on_release(server, client, header.id, body)
        elif header.kind is Kind.BYE:
            self._table.bye(server)
            self._gone(server, [])

    def _on_hello(self, routing_id: bytes, header: Header, body: list[bytes]) -> None:
        credit, *keys = body
        lost = self._table.hello(routing_id, header.id, keys, frames.decode_credit(credit))
        self._lose(lost)
        if self._directory is not None and not self._stopping:
            registration = Registration(tuple(keys), header.id.hex())
            self._directory.register(self._record, registration, time.monotonic())
        acknowledged = frames.encode(Header(Kind.ACK, header.id))
        try_send(self._back, [routing_id, b"", acknowledged])
        self._drain(tuple(keys))

    def _on_release(self, server: Server, client: bytes, request: bytes, body: list[bytes]) -> None:
        """A server gives back a request that it has not begun."""
        first, *rest = body
        header = frames.decode(first)
        server.credit += 1
        self._table.answered(server, request)
        waiting = Waiting(client, first, header, rest, time.monotonic())
        if client and not self._table.serves(header.key):
            self._reject(client, request, frames.UNKNOWN)
        elif not self._hand_over(header.key, waiting):
            self._queue.put_back(header.key, waiting)

    def _reply(
        self, client: bytes, kind: Kind, message: list[bytes], until: float | None = None
    ) -> None:
        """Send a reply, or hold it; `until` is that of a reply which was held before."""
        if not self._held.holds(client):
            error = try_send(self._front, [client, *message])
            if not error:
                return
            if error == zmq.EHOSTUNREACH:
                self._clients.pop(client, None)
            else:
                self._loop.later(RETRY_AFTER, lambda: self._send_held(client))
        if kind is not Kind.ALIVE:
            if until is None:
                until = time.monotonic() + REPLY_GRACE
            self._held.put(client, message, until)

    def _send_held(self, client: bytes) -> None:
        for until, message in self._held.take(client):
            self._reply(client, Kind.RESULT, message, until)

    # -- whether the servers are still there ---------------------------------

    def _check(self) -> None:
        now = time.monotonic()
        self._queue.drop_expired(now)
        self._held.drop_late(now)
        self._report_dropped()
        for server in self._table.servers:
            self._ping(server)

    def _report_dropped(self) -> None:
        """Count what was dropped since the last time; a cast among it was accepted before."""
        expired, replies = self._queue.expired, self._held.dropped
        new = expired - self._reported[0], replies - self._reported[1]
        if any(new):
            self._reported = expired, replies
            self._metrics.count("zmq_requests_expired", new[0])
            self._metrics.count("zmq_replies_dropped", new[1])
            self._metrics.record(
                "zmq-dropped",
                self._host,
                f"{new[0]} requests waited until their time was over, and {new[1]} replies had no "
                "client any more",
            )

    def _ping(self, server: Server) -> None:
        ping = frames.encode(Header(Kind.PING, self._incarnation.bytes))
        if try_send(self._back, [server.routing_id, b"", ping]) == zmq.EHOSTUNREACH:
            self._unreachable(server)
        elif server.suspect:
            self._table.reachable(server)
            self._drain(server.keys)

    def _unreachable(self, server: Server) -> None:
        lost = self._table.unreachable(server)
        if lost is None:
            self._loop.later(PING_SUSPECT_AFTER, lambda: self._check_again(server))
            return
        self._metrics.record("zmq-server-gone", server.incarnation.hex())
        self._gone(server, lost)

    def _check_again(self, server: Server) -> None:
        if self._table.get(server.routing_id) is server:
            self._ping(server)

    def _gone(self, server: Server, lost: Lost) -> None:
        """A server takes nothing more: withdraw it, and answer for what it leaves behind."""
        if self._directory is not None:
            self._directory.withdraw(self._host, server.incarnation.hex(), time.monotonic())
        self._lose(lost)
        for key in server.keys:
            if not self._table.serves(key):
                for waiting in self._queue.take_calls(key):
                    self._reject(waiting.client, waiting.header.id, frames.UNKNOWN)

    def _lose(self, lost: Lost) -> None:
        for request, client in lost:
            self._metrics.count("zmq_lost")
            self._reply(client, Kind.LOST, [frames.encode(Header(Kind.LOST, request))])
