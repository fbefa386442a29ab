"""The servers of a proxy's host: what is handed to them, and what they report.

What is decided, :mod:`dispatch_table` decides, and what waits, waits in :mod:`request_queue`.
Everything here runs in the thread of the loop.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import zmq

from hbshim.messaging.recent import Recent
from hbshim.messaging.zmq import frames
from hbshim.messaging.zmq.directory import Directory, HostRecord, Registration
from hbshim.messaging.zmq.frames import Flag, Header, Kind
from hbshim.messaging.zmq.loop import Loop, try_send
from hbshim.messaging.zmq.proxy.clients import RETRY_AFTER, Clients
from hbshim.messaging.zmq.proxy.dispatch_table import DispatchTable, Lost, Server
from hbshim.messaging.zmq.proxy.request_queue import RequestQueue, Waiting
from hbshim.messaging.zmq.settings import COPIES_KEPT

if TYPE_CHECKING:
    from hbshim.metrics import Metrics

#: Seconds until a server that was not reached is checked again. They count from one check to the
#: next, so that a proxy which did not run for a while, as on a busy machine, gives it more time.
PING_SUSPECT_AFTER = 0.5

_FINAL = frozenset((Kind.RESULT, Kind.ERROR, Kind.ACK, Kind.REJECT))
_REPLIES = _FINAL | {Kind.PROGRESS, Kind.ALIVE}


class Servers:
    """See the module.

    Parameters:
        socket: the router that they are connected to.
        queue: of the requests that wait.
        directory: where they are registered; None: clients find the host by its address.
        record: of the host.
        copies_lifetime: seconds for which copies of acknowledged requests are recognised.

    Attributes:
        table: what is known of them.
        acknowledged: requests that they have acknowledged to their senders, the latest.
        closing: those that come are not registered any more.
    """

    def __init__(
        self,
        loop: Loop,
        socket: zmq.Socket[bytes],
        queue: RequestQueue,
        clients: Clients,
        directory: Directory | None,
        record: HostRecord,
        copies_lifetime: float,
        metrics: Metrics,
    ) -> None:
        self._loop = loop
        self._socket = socket
        self._queue = queue
        self._clients = clients
        self._directory = directory
        self._record = record
        self._metrics = metrics
        self._ping_message = frames.encode(Header(Kind.PING, bytes.fromhex(record.incarnation)))
        self.acknowledged: Recent[bytes] = Recent(COPIES_KEPT, copies_lifetime)
        self.table = DispatchTable()
        self.closing = False
        # Those that are checked again soon.
        self._suspects: set[bytes] = set()

    def answer_copy(self, waiting: Waiting) -> bool:
        """Answer a copy of what a server has acknowledged; return False for any other request."""
        header = waiting.header
        copied = waiting.client and header.flags & Flag.AGAIN
        if not copied or header.id not in self.acknowledged:
            return False
        self._clients.acknowledge(waiting.client, header.id)
        return True

    def place(self, key: bytes, waiting: Waiting) -> bool:
        """Hand a request over, or have it wait behind others; return whether it was done."""
        if not self._queue.waits(key) and self._hand_over(key, waiting):
            return True
        return self._queue.put(key, waiting)

    def _hand_over(self, key: bytes, waiting: Waiting) -> bool:
        if self.answer_copy(waiting):
            return True
        first = waiting.first
        if waiting.header.left:
            left = waiting.left(time.monotonic())
            if left != waiting.header.left:
                first = frames.encode(waiting.header._replace(left=max(1, left)))
        while (server := self.table.match(key)) is not None:
            message = [server.routing_id, waiting.client, first, *waiting.body]
            error = try_send(self._socket, message)
            if not error:
                call = waiting.header.id if waiting.client else None
                self.table.hand_over(server, call, waiting.client, waiting.until)
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
            while self._queue.waits(key) and self.table.match(key) is not None:
                waiting = self._queue.take(key, time.monotonic())
                if waiting is not None and not self._hand_over(key, waiting):
                    self._queue.put_back(key, waiting)
                    break

    # -- what they report -------------------------------------------------------

    def on_message(self, message: list[bytes]) -> None:
        """Take a message of one of them."""
        routing_id, *rest = message
        if rest == [b""]:
            return
        frames.require(rest, 2)
        client, first, *body = rest
        header = frames.decode(first)
        server = self.table.get(routing_id)
        if header.kind in _REPLIES:
            if header.kind is Kind.ACK:
                self.acknowledged.add(header.id)
                if not client and server is not None:
                    client, _ = server.outstanding.get(header.id, (b"", 0.0))
            if server is not None and header.kind in _FINAL:
                self.table.answered(server, header.id)
            self._clients.reply(client, header.kind, [first, *body])
        elif header.kind is Kind.HELLO:
            self._on_hello(routing_id, header, body)
        elif server is None:
            self._metrics.count("zmq_unknown_server")
        elif header.kind is Kind.CREDIT:
            server.credit += frames.decode_credit(body[0] if body else b"")
            self._drain(server.keys)
        elif header.kind is Kind.RELEASE:
            self._on_release(server, client, header.id, body)
        elif header.kind is Kind.LOST and header.id in server.outstanding:
            client, _ = server.outstanding[header.id]
            self.table.answered(server, header.id)
            self._lose([(header.id, client)])
        elif header.kind is Kind.BYE:
            self.table.bye(server)
            self._gone(server, [])

    def _on_hello(self, routing_id: bytes, header: Header, body: list[bytes]) -> None:
        frames.require(body, 1)
        credit, *keys = body
        if len(keys) > frames.KEYS_LIMIT:
            raise frames.FrameError(f"{len(keys)} keys; the limit is {frames.KEYS_LIMIT}")
        lost = self.table.hello(routing_id, header.id, keys, frames.decode_credit(credit))
        self._lose(lost)
        if self._directory is not None and not self.closing:
            # Publishers ask for the pools of a host.
            public = [key for key in keys if frames.split_pool_key(key) is None]
            registration = Registration(tuple(public), header.id.hex())
            self._directory.register(self._record, registration, time.monotonic())
        acknowledged = frames.encode(Header(Kind.ACK, header.id))
        try_send(self._socket, [routing_id, b"", acknowledged])
        server = self.table.get(routing_id)
        if server is not None and server.outstanding:
            # It has connected again, and what was on its way may be lost.
            asked = frames.encode(Header(Kind.OUTSTANDING, header.id))
            for calls in frames.encode_outstanding((call, 0) for call in server.outstanding):
                try_send(self._socket, [routing_id, b"", asked, calls])
        self._drain(tuple(keys))

    def _on_release(self, server: Server, client: bytes, request: bytes, body: list[bytes]) -> None:
        """A server gives back a request that it has not begun."""
        frames.require(body, 1)
        first, *rest = body
        header = frames.decode(first)
        server.credit += 1
        self.table.answered(server, request)
        self.acknowledged.discard(request)
        waiting = Waiting(client, first, header, rest, time.monotonic())
        key = header.dispatch_key
        if client and not self.table.serves(key):
            self._clients.reject(client, request, frames.UNKNOWN)
        elif not self._hand_over(key, waiting):
            self._queue.put_back(key, waiting)

    # -- whether they are still there ----------------------------------------

    def check(self) -> None:
        """Check each of them that was reached the last time."""
        for server in self.table.servers:
            if not server.suspect:
                self._ping(server)

    def _ping(self, server: Server) -> None:
        error = try_send(self._socket, [server.routing_id, b"", self._ping_message])
        if error == zmq.EHOSTUNREACH:
            self._unreachable(server)
        elif server.suspect:
            self.table.reachable(server)
            self._drain(server.keys)

    def _unreachable(self, server: Server) -> None:
        lost = self.table.unreachable(server)
        if lost is None:
            if server.routing_id not in self._suspects:
                self._suspects.add(server.routing_id)
                self._loop.later(PING_SUSPECT_AFTER, lambda: self._check_again(server))
            return
        self._metrics.record("zmq-server-gone", server.incarnation.hex())
        self._gone(server, lost)

    def _check_again(self, server: Server) -> None:
        self._suspects.discard(server.routing_id)
        if self.table.get(server.routing_id) is server:
            self._ping(server)

    def _gone(self, server: Server, lost: Lost) -> None:
        """A server takes nothing more: withdraw it, and answer for what it leaves behind."""
        if self._directory is not None:
            instance = server.incarnation.hex()
            self._directory.withdraw(self._record.host, instance, time.monotonic())
        self._lose(lost)
        for key in server.keys:
            if not self.table.serves(key):
                for waiting in self._queue.take_calls(key):
                    self._clients.reject(waiting.client, waiting.header.id, frames.UNKNOWN)

    def _lose(self, lost: Lost) -> None:
        for request, client in lost:
            self._clients.lose(client, request)
