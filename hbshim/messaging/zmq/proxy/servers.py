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
from hbshim.messaging.zmq.frames import Flag, Header, Kind, Message
from hbshim.messaging.zmq.loop import Loop
from hbshim.messaging.zmq.parts import Parts
from hbshim.messaging.zmq.proxy.clients import Clients
from hbshim.messaging.zmq.proxy.dispatch_table import DispatchTable, Lost, Server
from hbshim.messaging.zmq.proxy.request_queue import RequestQueue, Waiting
from hbshim.messaging.zmq.router import RETRY_AFTER, RouterSender
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
        parts: of what they send.
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
        self._sender = RouterSender(loop, socket)
        self.parts = Parts(self._on_dropped, frames.ANSWERS | {Kind.HELLO, Kind.RELEASE})
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

    @property
    def begun(self) -> int:
        """The number of messages to them whose rest has to be sent."""
        return len(self._sender)

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
        left = waiting.header.left and max(1, waiting.left(time.monotonic()))
        head = frames.readdressed(waiting.head, waiting.client, left)
        while (server := self.table.match(key)) is not None:
            message = frames.pack_encoded(head, waiting.body)
            error = self._sender.send(server.routing_id, message)
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
        frame = frames.sole(rest)
        arrived = self.parts.whole(routing_id, frames.unpack(frame))
        if arrived is not None:
            self._on_whole(routing_id, arrived, frame)

    def _on_whole(self, routing_id: bytes, message: Message, frame: bytes) -> None:
        header, client = message.header, message.client
        server = self.table.get(routing_id)
        if header.kind in _REPLIES:
            if header.kind is Kind.ACK:
                self.acknowledged.add(header.id)
                if not client and server is not None:
                    client, _ = server.outstanding.get(header.id, (b"", 0.0))
            if server is not None and header.kind in _FINAL:
                self.table.answered(server, header.id)
            # A client ignores that it is named in the frame.
            reply = [frame] if message.parts == 1 else frames.pack(header, message.view)
            self._clients.reply(client, header.kind, reply)
        elif header.kind is Kind.HELLO:
            self._on_hello(routing_id, header, message.body)
        elif server is None:
            self._metrics.count("zmq_unknown_server")
        elif header.kind is Kind.CREDIT:
            server.credit += frames.decode_credit(message.body)
            self._drain(server.keys)
        elif header.kind is Kind.RELEASE:
            self._on_release(server, client, header.id, message.body)
        elif header.kind is Kind.LOST and header.id in server.outstanding:
            client, _ = server.outstanding[header.id]
            self.table.answered(server, header.id)
            self._lose([(header.id, client)])
        elif header.kind is Kind.BYE:
            self.table.bye(server)
            self._gone(server, [])

    def _on_dropped(self, source: bytes, begun: Message) -> None:
        """The rest of a reply has not come."""
        if begun.header.kind in _FINAL:
            server = self.table.get(source)
            if server is not None:
                self.table.answered(server, begun.header.id)
            self._lose([(begun.header.id, begun.client)])

    def _on_hello(self, routing_id: bytes, header: Header, body: bytes) -> None:
        credit, keys = frames.decode_hello(body)
        self._sender.forget(routing_id)
        lost = self.table.hello(routing_id, header.id, keys, credit)
        self._lose(lost)
        if self._directory is not None and not self.closing:
            # Publishers ask for the pools of a host.
            public = [key for key in keys if frames.split_pool_key(key) is None]
            registration = Registration(tuple(public), header.id.hex())
            self._directory.register(self._record, registration, time.monotonic())
        self._sender.send_behind(routing_id, frames.pack(Header(Kind.ACK, header.id)))
        server = self.table.get(routing_id)
        if server is not None and server.outstanding:
            # It has connected again, and what was on its way may be lost.
            for calls in frames.encode_outstanding((call, 0) for call in server.outstanding):
                asked = frames.pack(Header(Kind.OUTSTANDING, header.id), calls)
                self._sender.send_behind(routing_id, asked)
        self._drain(tuple(keys))

    def _on_release(self, server: Server, client: bytes, request: bytes, body: bytes) -> None:
        """A server gives back a request that it has not begun."""
        released = frames.unpack_whole(body)
        header = released.header
        server.credit += 1
        self.table.answered(server, request)
        self.acknowledged.discard(request)
        waiting = Waiting(client, released.head, header, released.view, time.monotonic())
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
        error = self._sender.send(server.routing_id, [self._ping_message])
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
