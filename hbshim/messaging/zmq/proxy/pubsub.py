"""The proxy of one PUB/SUB pipeline: publications from the network to the servers of a host.

ZeroMQ's own proxy forwards them in C, in a native thread that owns both sockets. Subscriptions
travel the other way, end markers among them.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping
from typing import Literal

import zmq

from hbshim.messaging.zmq.local_sockets import ipc_path
from hbshim.messaging.zmq.loop import Loop, stop_monitor
from hbshim.messaging.zmq.proxy.access import Access
from hbshim.messaging.zmq.proxy.endpoints import (
    REBIND_AFTER,
    ProxySettings,
    bind,
    bind_again,
    bind_port,
)
from hbshim.messaging.zmq.sockets import make
from hbshim.runtime.unpatched import start_native_thread

#: Seconds between two times that the proxy is asked for its figures. It wakes up for that, which
#: also has it forget peers that are gone (libzmq issue 4189).
_ASK_EVERY = 1.0

#: Seconds after which figures no longer show that the proxy runs.
_FRESH = 3.0

#: In the order in which the proxy gives them, see zmq_proxy_steerable(3).
_FIGURES = (
    "messages_received",
    "bytes_received",
    "subscriptions_sent",
    "subscription_bytes_sent",
    "subscriptions_received",
    "subscription_bytes_received",
    "messages_sent",
    "bytes_sent",
)


class PubSubProxy:
    """See :class:`hbshim.messaging.zmq.proxy.endpoints.Server`.

    Parameters:
        pipeline: which one.
        access: decides which clients may connect; None: all of them, without encryption.

    Raises:
        OptionError: an address cannot be bound.
    """

    def __init__(
        self,
        loop: Loop,
        pipeline: Literal["fanout", "notify"],
        settings: ProxySettings,
        access: Access | None = None,
    ) -> None:
        self._loop = loop
        self.failed = False
        self._stopping = self._dropping = False
        self._figures: dict[str, float] = {}
        self._answered = time.monotonic()
        self._front = make(loop.context, "proxy-publishers", settings.sockets)
        self._port = bind_port(self._front, settings, pipeline, access)
        self._back = make(loop.context, "proxy-subscribers", settings.sockets)
        bind(self._back, ipc_path(settings.ipc_directory, pipeline), settings.ipc_group)
        self.description = f"{pipeline} at {settings.address(pipeline)}"
        self._control = loop.context.socket(zmq.PAIR)
        self._steered = loop.context.socket(zmq.PAIR)
        self._control.bind(f"inproc://{pipeline}")
        self._steered.connect(f"inproc://{pipeline}")
        loop.read(self._control, self._on_figures)
        loop.every(_ASK_EVERY, self._ask)
        # From here on both sockets belong to that thread.
        start_native_thread(self._run, lambda: None)

    def stop(self, grace: float) -> None:
        """End at once: nothing waits here but for the network."""
        self._stopping = True
        self._control.send(b"TERMINATE", zmq.NOBLOCK)

    def statistics(self) -> Mapping[str, float] | None:
        return self._figures if time.monotonic() < self._answered + _FRESH else None

    def drop_connections(self) -> None:
        self._dropping = True
        self._control.send(b"TERMINATE", zmq.NOBLOCK)

    def _run(self) -> None:
        try:
            zmq.proxy_steerable(self._front, self._back, None, self._steered)
            while self._dropping:
                self._dropping = False
                self._front.unbind(self._port)
                while not bind_again(self._front, self._port):
                    time.sleep(REBIND_AFTER)
                zmq.proxy_steerable(self._front, self._back, None, self._steered)
        finally:
            stop_monitor(self._front)
            for socket in (self._front, self._back, self._steered):
                socket.close()
            self._loop.post(self._on_end)

    def _on_end(self) -> None:
        # If no command ended it, the process fails, and the supervisor starts another one.
        self.failed = not self._stopping
        self._loop.stop()

    def _ask(self) -> None:
        if not self._stopping:
            self._control.send(b"STATISTICS", zmq.NOBLOCK)

    def _on_figures(self, message: list[bytes]) -> None:
        self._answered = time.monotonic()
        values = [float(struct.unpack("=Q", frame)[0]) for frame in message if len(frame) == 8]
        self._figures = dict(zip(_FIGURES, values, strict=False))
