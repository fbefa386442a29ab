"""The figures of a proxy's processes: each answers at a local socket, and a command asks there."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import zmq

from hbshim.messaging.zmq.frames import FrameError
from hbshim.messaging.zmq.local_sockets import ipc_path
from hbshim.messaging.zmq.loop import Loop, try_send
from hbshim.messaging.zmq.proxy.endpoints import PROCESSES, ProcessName, ProxySettings, bind
from hbshim.messaging.zmq.settings import SocketSettings
from hbshim.messaging.zmq.sockets import make
from hbshim.metrics import Metrics
from hbshim.runtime import descriptors

#: Seconds that a process may take to answer.
ANSWER_WITHIN = 2.0

#: What is asked.
STATUS = b"status"


class ControlServer:
    """Answers in the thread of the loop."""

    def __init__(
        self,
        loop: Loop,
        name: ProcessName,
        settings: ProxySettings,
        statistics: Callable[[], Mapping[str, float] | None],
        metrics: Metrics,
    ) -> None:
        self._loop = loop
        self._statistics = statistics
        self._metrics = metrics
        self._socket = make(loop.context, "proxy-control", settings.sockets)
        bind(self._socket, _address(settings.ipc_directory, name), settings.ipc_group)
        loop.read(self._socket, self._on_question)

    def close(self) -> None:
        """Answer no more."""
        self._loop.close(self._socket)

    def _on_question(self, message: list[bytes]) -> None:
        if len(message) != 3 or message[1:] != [b"", STATUS]:
            raise FrameError("not a question for figures")
        counted = {
            name.removeprefix("zmq_"): value
            for name, value in self._metrics.snapshot().items()
            if name.startswith("zmq_")
        }
        limits = {
            "descriptors": descriptors.count(),
            "descriptor_limit": descriptors.limit(),
            "socket_limit": self._loop.context.get(zmq.MAX_SOCKETS),
        }
        figures = self._statistics()
        answer = None if figures is None else {**counted, **limits, **figures}
        try_send(self._socket, [message[0], b"", json.dumps(answer).encode()])


def ask(
    ipc_directory: str,
    processes: Sequence[ProcessName] = PROCESSES,
    timeout: float = ANSWER_WITHIN,
) -> dict[ProcessName, Any]:
    """Return the figures of processes of the proxy of this host; None: one does not answer.

    Parameters:
        timeout: seconds for all of them.
    """
    context = zmq.Context()
    try:
        sockets = {}
        for name in processes:
            sockets[name] = socket = make(context, "control", SocketSettings(linger=0.0))
            socket.set(zmq.IMMEDIATE, 0)
            socket.connect(_address(ipc_directory, name))
            socket.send(STATUS)
        found: dict[ProcessName, Any] = {}
        until = time.monotonic() + timeout
        for name, socket in sockets.items():
            left = max(0.0, until - time.monotonic())
            answered = socket.poll(int(left * 1000))
            found[name] = json.loads(socket.recv()) if answered else None
        return found
    finally:
        # Also after Ctrl-C: a context waits for sockets that are open.
        context.destroy(linger=0)


def _address(ipc_directory: str, name: ProcessName) -> str:
    return ipc_path(ipc_directory, f"control-{name}")
