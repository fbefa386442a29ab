"""A listener's connection to the proxy of its host, as the I/O thread sees it.

The proxy hands over no more requests than it has credit for. The credit that it has, and the
requests that it handed over and got no credit back for, add up to the prefetch count; while the
listener is paused, to 0. Credit is returned once the proxy has less than half of it, so a server
that keeps up sends no message for it. A proxy that restarts learns the true credit from HELLO.
"""

from __future__ import annotations

import enum
import math
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import zmq

from hbshim.messaging.recent import Recent
from hbshim.messaging.zmq import frames
from hbshim.messaging.zmq.arrived import Arrived
from hbshim.messaging.zmq.frames import Header, Kind, Message
from hbshim.messaging.zmq.loop import Loop
from hbshim.messaging.zmq.outbox import Outbox
from hbshim.messaging.zmq.parts import Parts
from hbshim.messaging.zmq.settings import COPIES_KEPT, SocketSettings
from hbshim.messaging.zmq.sockets import make

if TYPE_CHECKING:
    from hbshim.messaging.zmq.traffic import Traffic

#: Credit of a listener that may hold any number of requests.
UNLIMITED = 2**31

#: Acknowledgements that are sent again over a new connection, at most, and for how many seconds.
RESENT, RESENT_WITHIN = 1000, 10.0

#: Calls that are noted, at least, before those whose time is over are forgotten.
_CALLS = 1000

_FINAL = frozenset((Kind.RESULT, Kind.ERROR, Kind.ACK, Kind.REJECT))


class State(enum.Enum):
    """How far a listener is."""

    #: The proxy has registered it.
    REGISTERED = "registered"
    #: Nothing is delivered from here on, until it is resumed.
    PAUSED = "paused"


class Link:
    """See the module. Every method but :meth:`acknowledge` belongs to the I/O thread.

    Parameters:
        address: of the proxy's local socket.
        keys: what the listener listens to.
        prefetch: requests that it may hold; 0: any number.
        copies_lifetime: seconds for which copies of requests are recognised.
        deliver: takes what the listener is to see.

    Attributes:
        incarnation: the id of the listener.
    """

    def __init__(
        self,
        loop: Loop,
        settings: SocketSettings,
        address: str,
        keys: Sequence[bytes],
        prefetch: int,
        copies_lifetime: float,
        metrics: Traffic,
        deliver: Callable[[Arrived | State], None],
    ) -> None:
        self._loop = loop
        self._settings = settings
        self._address = address
        self._keys = keys
        self._prefetch = prefetch or UNLIMITED
        self._half = self._prefetch // 2
        self._metrics = metrics
        self._deliver = deliver
        self.incarnation = uuid.uuid4().bytes
        self._confirmed: Recent[bytes] = Recent(COPIES_KEPT, copies_lifetime)
        # The latest acknowledgements: when each was sent, to which client, and its id.
        self._acknowledgements: deque[tuple[float, bytes, bytes]] = deque(maxlen=RESENT)
        self._accepting = False
        # Requests that the proxy counts as handed over, and those of them that are held no more:
        # a mark for each, from any thread.
        self._handed = 0
        self._settled: deque[None] = deque()
        # Those that are neither answered nor acknowledged, and when their time is over, of
        # ``time.monotonic()``.
        self._calls: dict[bytes, float] = {}
        self._most_calls = _CALLS
        self._stopping = False
        self._socket: zmq.Socket[bytes] | None = None
        self._outbox: Outbox | None = None
        self._parts = Parts(self._on_dropped, frames.REQUESTS)

    @property
    def size(self) -> int:
        """Bytes of replies that are kept for the proxy; any thread may read it."""
        outbox = self._outbox
        return 0 if outbox is None else outbox.size

    def open(self) -> None:
        """Connect; HELLO is sent with each connection."""
        name = b"s" + self.incarnation
        made = make(self._loop.context, "server-call", self._settings, name)
        self._accepting = True
        self._socket, self._outbox = made, Outbox(self._loop, made)
        self._loop.finish_first(self._keeps)
        self._loop.read(made, self._on_message)
        made.connect(self._address)

    def resume(self) -> None:
        """Receive requests again."""
        if not self._accepting and not self._stopping:
            self._accepting = True
            self._send_credit(self._prefetch)

    def pause(self) -> None:
        """Receive nothing more; what is on its way is released."""
        if self._accepting:
            self._accepting = False
            self._send_credit(-self._prefetch)
        self._deliver(State.PAUSED)

    def stop(self) -> None:
        """Announce that nothing more is received; replies may still be sent."""
        if not self._stopping:
            self._stopping, self._accepting = True, False
            self._control(Kind.BYE, frames.encode_credit(0))
        self._deliver(State.PAUSED)

    def close(self) -> None:
        """Close the connection, once what is kept was sent, or the linger time is over."""
        self.stop()
        if self._socket is not None and self._outbox is not None and self._keeps():
            self._loop.leave(self._socket)
            self._outbox.on_empty = self._close
            self._loop.later(self._settings.linger, self._close)
        else:
            self._close()

    def _close(self) -> None:
        self._loop.finished(self._keeps)
        if self._socket is not None:
            self._loop.close(self._socket)
        self._socket = self._outbox = None

    def _keeps(self) -> bool:
        return self.size > 0

    def acknowledge(self) -> None:
        """Note, in any thread, that a request is held no more, so that another may come."""
        # In this order, as in _on_message: one of the two threads sees what the other has done.
        self._settled.append(None)
        if self._handed >= self._half:
            self._loop.post(self._return_credit)

    def confirm(self, request: Arrived) -> None:
        """Acknowledge a request to its sender."""
        self._confirmed.add(request.header.id)
        self._acknowledgements.append((time.monotonic(), request.client, request.header.id))
        self.reply(request.client, Header(Kind.ACK, request.header.id))

    def requeue(self, request: Arrived) -> None:
        """Have the sender of a notification send it again later."""
        self.acknowledge()
        self.reply(request.client, Header(Kind.REJECT, request.header.id), frames.REQUEUED)

    def release(self, request: Arrived) -> None:
        """Give a request back that was not begun; another server may take it."""
        self._handed -= 1
        header = request.header
        self._calls.pop(header.id, None)
        self._confirmed.discard(header.id)
        left = header.left
        if left:
            left = max(1, left - int((time.monotonic() - request.at) * 1000))
        again = frames.encode(header._replace(left=left)) + request.body
        self._send(Header(Kind.RELEASE, header.id), again, client=request.client)

    def reply(self, client: bytes, header: Header, body: bytes = b"") -> None:
        """Send a reply."""
        if header.kind in _FINAL:
            self._calls.pop(header.id, None)
        self._send(header, body, client=client)

    def _return_credit(self) -> None:
        """Grant one more request for each that is held no more."""
        credit = self._settle()
        if credit and not self._stopping:
            self._send_credit(credit)

    def _settle(self) -> int:
        """Return how many requests are held no more since the last time."""
        settled = 0
        while self._settled:
            self._settled.popleft()
            settled += 1
        self._handed -= settled
        return settled

    def _send_credit(self, credit: int) -> None:
        self._control(Kind.CREDIT, frames.encode_credit(credit))

    def _control(self, kind: Kind, body: bytes) -> None:
        # A proxy that is not connected receives nothing, and so is not waited for.
        self._send(Header(kind, self.incarnation), body, counts=False)

    def _send(
        self, header: Header, body: bytes = b"", *, client: bytes = b"", counts: bool = True
    ) -> None:
        if self._outbox is not None:
            self._outbox.send(frames.pack(header, body, client=client), counts=counts)

    def _on_message(self, message: list[bytes]) -> None:
        if message == [b""]:
            self._on_connected()
            return
        arrived = self._parts.whole(b"", frames.unpack(frames.sole(message)))
        if arrived is not None:
            self._on_whole(arrived)

    def _on_whole(self, message: Message) -> None:
        header, client, body = message.header, message.client, message.body
        if header.kind in frames.REQUESTS:
            self._handed += 1
            self._metrics.received(header.kind)
            if self._settled and self._handed >= self._half:
                self._return_credit()
            arrived = Arrived(client, header, body, time.monotonic())
            if header.kind is Kind.CALL or arrived.is_acknowledged:
                self._note(arrived)
            if arrived.is_acknowledged and header.id in self._confirmed:
                # Also while every worker is busy, perhaps with the first copy.
                self.confirm(arrived)
                self.acknowledge()
            elif self._accepting:
                self._deliver(arrived)
            else:
                self.release(arrived)
        elif header.kind is Kind.ACK:
            self._deliver(State.REGISTERED)
        elif header.kind is Kind.OUTSTANDING:
            for call, _ in frames.decode_outstanding(body):
                if call not in self._calls:
                    kind = Kind.ACK if call in self._confirmed else Kind.LOST
                    self._send(Header(kind, call))

    def _on_dropped(self, _source: bytes, begun: Message) -> None:
        """The rest of a request has not come: its sender waits for nothing."""
        if begun.header.kind in frames.REQUESTS:
            self._handed += 1
            self.acknowledge()
            if begun.client:
                self._send(Header(Kind.LOST, begun.header.id))

    def _note(self, call: Arrived) -> None:
        """Note a call until it is answered, or no caller waits for it."""
        if len(self._calls) >= self._most_calls:
            self._calls = {id_: until for id_, until in self._calls.items() if until > call.at}
            self._most_calls = 2 * len(self._calls) + _CALLS
        left = call.header.left
        self._calls[call.header.id] = call.at + left / 1000 if left else math.inf

    def _on_connected(self) -> None:
        """Send HELLO: the proxy, which may have restarted, has probed a new connection."""
        if self._stopping:
            return
        self._settle()
        credit = (self._prefetch if self._accepting else 0) - self._handed
        self._control(Kind.HELLO, frames.encode_hello(credit, self._keys))
        # A proxy that was killed may have taken them along.
        since = time.monotonic() - RESENT_WITHIN
        for at, client, request in self._acknowledgements:
            if at >= since and request in self._confirmed:
                self._send(Header(Kind.ACK, request), client=client)
