"""A listener's connection to the proxy of its host, as the threads of the application see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from hbshim.messaging.joining import Part
from hbshim.messaging.zmq.arrived import Arrived
from hbshim.messaging.zmq.frames import Header
from hbshim.messaging.zmq.io import io_thread
from hbshim.messaging.zmq.link import Link, State
from hbshim.messaging.zmq.local_sockets import ipc_path
from hbshim.messaging.zmq.mailbox import Mailbox
from hbshim.messaging.zmq.subscriber import Subscriber
from hbshim.messaging.zmq.subscriptions import fanout_subscription, pool_subscription

if TYPE_CHECKING:
    from hbshim.messaging.zmq.options import ZmqOptions
    from hbshim.messaging.zmq.traffic import Traffic


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a listener receives over a PUB/SUB pipeline.

    Attributes:
        keys: of topics; for notifications, of topics and priorities.
        pool: of a listener to notifications; None: it listens to a fanout.
    """

    keys: Sequence[bytes]
    pool: str | None = None

    @property
    def pipeline(self) -> Literal["fanout", "notify"]:
        """The pipeline; its local socket has the same name."""
        return "fanout" if self.pool is None else "notify"

    def of(self, instance: bytes) -> list[bytes]:
        """Return the subscriptions of a listener."""
        if self.pool is None:
            return [fanout_subscription(key) for key in self.keys]
        return [pool_subscription(key, self.pool, instance) for key in self.keys]


class Connection:
    """What a listener's threads use of its link and its subscriptions, which the I/O thread owns.

    Parameters:
        keys: what it is registered for.
    """

    def __init__(
        self,
        options: ZmqOptions,
        keys: Sequence[bytes],
        subscription: Subscription,
        prefetch: int,
        metrics: Traffic,
    ) -> None:
        self.mailbox: Mailbox[Arrived | State] = Mailbox()
        self._metrics = metrics
        self._most = options.zmq_outbox_bytes
        self._loop = io_thread(options.zmq_linger).loop
        directory = options.rpc_zmq_ipc_dir
        settings, put = options.socket_settings(), self.mailbox.put
        address = ipc_path(directory, "servers")
        self._link = Link(
            *(self._loop, settings, address, keys, prefetch),
            *(options.rpc_message_ttl, metrics, put),
        )
        self._subscriber = Subscriber(
            self._loop,
            settings,
            ipc_path(directory, subscription.pipeline),
            subscription.of(self._link.incarnation),
            self._link.incarnation,
            options.zmq_inbox_bytes,
            metrics,
            put,
        )
        # Publishers learn of it by the link, and then wait for its subscriptions.
        self._loop.post(self._subscriber.open)
        self._loop.post(self._link.open)

    @property
    def has_space(self) -> bool:
        """Whether a reply can be taken."""
        return self._link.size < self._most

    @property
    def outbox_bytes(self) -> int:
        """Bytes of replies that wait to be sent."""
        return self._link.size

    @property
    def inbox_bytes(self) -> int:
        """Bytes of publications that wait to be handled."""
        return self._subscriber.size

    def expire(self, arrived: Arrived) -> None:
        """Drop a message whose time was over."""
        # One that is sent again is not lost.
        if not arrived.is_acknowledged:
            self._metrics.count("zmq_requests_expired")
        self.acknowledge(arrived)

    def acknowledge(self, arrived: Arrived) -> None:
        if arrived.is_publication:
            self._subscriber.settle(arrived)
        else:
            self._link.acknowledge()

    def confirm(self, arrived: Arrived) -> None:
        """Acknowledge a request to its sender."""
        self._loop.post(lambda: self._link.confirm(arrived))

    def release(self, arrived: Arrived) -> None:
        """Give a message back that was not begun."""
        if arrived.is_publication:
            self._loop.post(lambda: self._subscriber.release(arrived))
        else:
            self._loop.post(lambda: self._link.release(arrived))

    def requeue(self, arrived: Arrived, delay: float) -> None:
        """Have a publication handled again here, in `delay` seconds."""
        again = replace(arrived, attempts=arrived.attempts + 1)
        self._loop.post(lambda: self._subscriber.requeue(again, delay))

    def requeue_elsewhere(self, arrived: Arrived) -> None:
        """Have a notification sent again by its sender, to any listener of its pool."""
        self._loop.post(lambda: self._link.requeue(arrived))

    def reply(self, client: bytes, header: Header, body: bytes) -> None:
        self._loop.post(lambda: self._link.reply(client, header, body))

    def pause(self) -> None:
        self._loop.post(self._subscriber.pause)
        self._loop.post(self._link.pause)

    def resume(self) -> None:
        self._loop.post(self._subscriber.resume)
        self._loop.post(self._link.resume)

    def stop(self) -> None:
        self._loop.post(self._subscriber.close)
        self._loop.post(self._link.stop)

    def drain(self, timeout: float) -> None:
        """Do nothing: the I/O thread receives, and notes when."""

    def begin_wait(self, part: Part) -> bool:
        """See :meth:`hbshim.messaging.polling.Pollable.begin_wait`."""
        return self.mailbox.begin_wait(part)

    def wake(self) -> None:
        self.mailbox.wake()

    def close(self, timeout: float) -> None:
        self._loop.post(self._subscriber.close)
        self._loop.post(self._link.close)
        self.mailbox.close()
