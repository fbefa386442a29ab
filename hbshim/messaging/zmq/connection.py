"""A listener's connection to the proxy of its host, as the threads of the application see it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hbshim.messaging.zmq.frames import Header
from hbshim.messaging.zmq.io import io_thread
from hbshim.messaging.zmq.link import Arrived, Link, State
from hbshim.messaging.zmq.mailbox import Mailbox
from hbshim.messaging.zmq.settings import ipc_path

if TYPE_CHECKING:
    from hbshim.messaging.zmq.options import ZmqOptions
    from hbshim.metrics import Metrics


class Connection:
    """What a listener's threads use of its link, which the I/O thread owns."""

    def __init__(
        self, options: ZmqOptions, keys: Sequence[bytes], prefetch: int, metrics: Metrics
    ) -> None:
        self.mailbox: Mailbox[Arrived | State] = Mailbox()
        self._most = options.zmq_outbox_bytes
        self._loop = io_thread(options.zmq_linger).loop
        address = ipc_path(options.rpc_zmq_ipc_dir, "servers")
        settings, put = options.socket_settings(), self.mailbox.put
        self._link = Link(self._loop, settings, address, keys, prefetch, metrics, put)
        self._loop.post(self._link.open)

    @property
    def has_space(self) -> bool:
        """Whether a reply can be taken."""
        return self._link.size < self._most

    def acknowledge(self) -> None:
        self._loop.post(self._link.acknowledge)

    def release(self, request: Arrived) -> None:
        self._loop.post(lambda: self._link.release(request))

    def reply(self, client: bytes, header: Header, body: Sequence[bytes]) -> None:
        self._loop.post(lambda: self._link.reply(client, header, body))

    def pause(self) -> None:
        self._loop.post(self._link.pause)

    def resume(self) -> None:
        self._loop.post(self._link.resume)

    def stop(self) -> None:
        self._loop.post(self._link.stop)

    def drain(self, timeout: float) -> None:
        """Do nothing: the I/O thread receives, and notes when."""

    def wake(self) -> None:
        self.mailbox.wake()

    def close(self, timeout: float) -> None:
        self._loop.post(self._link.close)
        self.mailbox.close()
