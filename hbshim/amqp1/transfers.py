"""The transfers of a session that are sent, as many as the peer's window allows (2.5.6)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from hbshim.amqp1 import serial
from hbshim.amqp1.delivery import Delivery
from hbshim.amqp1.link import Link, Part
from hbshim.amqp1.performatives import Flow
from hbshim.amqp1.states import DeliveryEvent

#: Writes a frame: a performative, and what it carries.
Write: TypeAlias = Callable[[bytes, bytes | memoryview], None]


class _Queued(NamedTuple):
    """A frame that waits: a transfer for the window, a disposition for the transfers before it.

    Attributes:
        done: what happens to the delivery with this frame; None: nothing.
    """

    link: Link
    delivery: Delivery
    part: Part
    is_transfer: bool
    done: DeliveryEvent | None = None


class TransferQueue:
    """Transfers in their order, which their numbers follow from: they are not sent.

    Attributes:
        next_id: the number of the next transfer.
        window: transfers that the peer accepts now.
    """

    def __init__(self, write: Write) -> None:
        self.next_id = 0
        self.window = 0
        self._write = write
        self._queue: deque[_Queued] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, link: Link, delivery: Delivery, parts: list[Part], *, settled: bool) -> None:
        """Send a delivery."""
        done = DeliveryEvent.SEND_SETTLED if settled else DeliveryEvent.COMPLETE
        self._queue += (_Queued(link, delivery, part, True) for part in parts[:-1])
        self._queue.append(_Queued(link, delivery, parts[-1], True, done))
        self.send()

    def add_disposition(self, link: Link, delivery: Delivery, body: bytes) -> None:
        """Send a disposition behind the transfers of its delivery."""
        if self._queue and any(queued.delivery is delivery for queued in self._queue):
            self._queue.append(_Queued(link, delivery, Part(body, b""), False))
        else:
            self._write(body, b"")

    def drop(self, link: Link) -> None:
        """Do not send what is left of a link's: it is detached."""
        self._queue = deque(queued for queued in self._queue if queued.link is not link)

    def clear(self) -> None:
        """Do not send what is left."""
        self._queue.clear()

    def receive_flow(self, flow: Flow) -> None:
        """Take over the peer's window.

        Raises:
            ProtocolError: the peer has received what was not sent.
        """
        received = flow.next_incoming_id or 0
        on_their_way = serial.distance(received, self.next_id, "flow: the latest transfer")
        self.window = max(0, flow.incoming_window - on_their_way)

    def send(self) -> None:
        """Send what the window allows."""
        while self._queue:
            queued = self._queue[0]
            if queued.is_transfer:
                if not self.window:
                    return
                self.window -= 1
                self.next_id = serial.add(self.next_id, 1)
            self._queue.popleft()
            self._write(*queued.part)
            if queued.done is not None:
                queued.delivery.move(queued.done)
