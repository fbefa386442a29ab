"""A listener's subscriptions at the proxy of its host, as the I/O thread sees them.

What arrives is bounded: beyond the limit the newest is dropped, and counted. The numbers that a
publisher gives its messages show what was lost on the way.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import zmq

from hbshim.messaging.zmq import frames
from hbshim.messaging.zmq.arrived import Arrived
from hbshim.messaging.zmq.frames import INSTANCE_SIZE, Kind
from hbshim.messaging.zmq.loop import Loop
from hbshim.messaging.zmq.parts import Parts
from hbshim.messaging.zmq.settings import SocketSettings
from hbshim.messaging.zmq.sockets import make
from hbshim.messaging.zmq.subscriptions import end_marker, end_of_subscription

if TYPE_CHECKING:
    from hbshim.messaging.zmq.traffic import Traffic

#: Publishers and subscriptions whose latest numbers are remembered.
_REMEMBERED = 10_000

_KINDS = frozenset((Kind.FANOUT, Kind.NOTIFY))


class Subscriber:
    """See the module. Every method but :meth:`settle` belongs to the I/O thread.

    Parameters:
        address: of the proxy's local socket.
        subscriptions: see :mod:`hbshim.messaging.zmq.subscriptions`.
        instance: the id of the listener.
        limit: bytes that it may hold.
        deliver: takes what the listener is to see.
    """

    def __init__(
        self,
        loop: Loop,
        settings: SocketSettings,
        address: str,
        subscriptions: Sequence[bytes],
        instance: bytes,
        limit: int,
        metrics: Traffic,
        deliver: Callable[[Arrived], None],
    ) -> None:
        self._loop = loop
        self._settings = settings
        self._address = address
        self._subscriptions = frozenset((*subscriptions, end_marker(instance)))
        self._limit = limit
        self._metrics = metrics
        self._deliver = deliver
        self._socket: zmq.Socket[bytes] | None = None
        self._latest: dict[tuple[bytes, bytes], int] = {}
        # What waits for the end of a pause: what was requeued, and what arrived since.
        self._is_paused = False
        self._released: deque[Arrived] = deque()
        self._arrived: deque[Arrived] = deque()
        self._size = 0
        # Bytes of each message that was handled, until they are subtracted.
        self._settled: deque[int] = deque()
        self._overflows = False
        # The number of the next one shows that one was dropped.
        self._parts = Parts(lambda _source, _begun: None, _KINDS)

    @property
    def size(self) -> int:
        """Bytes that wait to be handled, about; any thread may read it."""
        # copy() is atomic; the garbage collector may interrupt tuple().
        return max(0, self._size - sum(self._settled.copy()))

    def open(self) -> None:
        """Connect. All is subscribed before: the marker must be the last."""
        made = make(self._loop.context, "server-subscribe", self._settings)
        for subscription in self._subscriptions:
            made.set(zmq.SUBSCRIBE, subscription)
        self._loop.read(made, self._on_message)
        made.connect(self._address)
        self._socket = made

    def pause(self) -> None:
        """Hold what arrives."""
        self._is_paused = True

    def resume(self) -> None:
        """Deliver what was held, and what arrives."""
        self._is_paused = False
        for held in (self._released, self._arrived):
            while held:
                self._deliver(held.popleft())

    def close(self) -> None:
        """Receive nothing more."""
        if self._socket is not None:
            self._loop.close(self._socket)
            self._socket = None

    def settle(self, arrived: Arrived) -> None:
        """Note, in any thread, that a message was handled."""
        self._settled.append(arrived.size)

    def requeue(self, arrived: Arrived, delay: float) -> None:
        """Deliver a message again.

        Parameters:
            delay: seconds.
        """
        self._loop.later(delay, lambda: self.release(arrived))

    def release(self, arrived: Arrived) -> None:
        """Deliver a message again; after a pause before those that have arrived since."""
        if self._is_paused:
            self._released.append(arrived)
        else:
            self._deliver(arrived)

    def _on_message(self, message: list[bytes]) -> None:
        frame = frames.sole(message)
        end = end_of_subscription(frame)
        at = end + INSTANCE_SIZE
        subscription, sender = frame[:end], frame[end:at]
        arrived = frames.unpack(frame, at)
        if arrived.header.kind not in _KINDS:
            raise frames.FrameError("not a publication")
        # A subscription is a beginning; and the header decides what is called.
        if subscription not in self._subscriptions or not subscription.startswith(
            arrived.header.key + b"/"
        ):
            raise frames.FrameError("a publication to another key")
        whole = self._parts.whole(frame[:at], arrived)
        if whole is not None:
            self._on_publication(subscription, sender, whole.header, whole.body)

    def _on_publication(
        self, subscription: bytes, sender: bytes, header: frames.Header, body: bytes
    ) -> None:
        self._metrics.received(header.kind)
        self._count_gap(sender, subscription, header)
        arrived = Arrived(b"", header, body, time.monotonic())
        while self._settled:
            self._size -= self._settled.popleft()
        if self._size + arrived.size > self._limit:
            self._drop(header.topic)
            return
        self._overflows = False
        self._size += arrived.size
        if self._is_paused:
            self._arrived.append(arrived)
        else:
            self._deliver(arrived)

    def _drop(self, topic: str) -> None:
        self._metrics.count("zmq_publications_dropped")
        if not self._overflows:
            self._overflows = True
            self._metrics.record(
                "publication-dropped",
                "",
                f"topic {topic!r}: {self._size} bytes wait to be handled; zmq_inbox_bytes allows "
                f"{self._limit}",
            )

    def _count_gap(self, sender: bytes, subscription: bytes, header: frames.Header) -> None:
        key = sender, subscription
        latest = self._latest.pop(key, None)
        if len(self._latest) >= _REMEMBERED:
            del self._latest[next(iter(self._latest))]
        self._latest[key] = header.sequence
        if latest is not None and header.sequence > latest + 1:
            missed = header.sequence - latest - 1
            self._metrics.count("zmq_publications_missed", missed)
            self._metrics.record(
                "publications-missed", "", f"topic {header.topic!r}: {missed} of one publisher"
            )
