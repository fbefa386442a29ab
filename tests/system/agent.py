"""One AMQP client in one concurrency model, in an interpreter of its own, steered line by line.

    python tests/system/agent.py native|eventlet|gevent|gevent-unpatched amqp|kombu|pika|pika-gevent

reads one command per line of JSON and answers each with one line. While it waits
for a command its main thread is blocked in a native read: in a patched concurrency model the
hub stands still then, as it does in Apache between two requests.
"""

from __future__ import annotations

# ruff: noqa: E402, T201 - patch first, import later; the answers are printed.
import sys
from typing import Any

MODEL, LIBRARY = sys.argv[1:]
if MODEL == "eventlet":
    import eventlet

    eventlet.monkey_patch()
elif MODEL == "gevent":
    from gevent import monkey

    monkey.patch_all()
elif MODEL == "gevent-unpatched":
    import gevent

import gc
import json
import os
import socket
import time
import traceback
import weakref

import hbshim
from hbshim.heartbeat import service
from hbshim.runtime.unpatched import original
from tests.forcing import blind_guard, check_often, force_heartbeats
from tests.stress.clients import CLIENTS
from tests.system.forking import ACTS, Child, in_forkserver


class Agent:
    """Each method without an underscore is a command."""

    def __init__(self) -> None:
        self.client: Any = None
        self.buried: list[Any] = []
        self.child: Child | None = None

    # -- the connection --------------------------------------------------------

    def open(
        self,
        shim: str = "install",
        options: dict[str, Any] | None = None,
        receive_buffer: int | None = None,
        send_buffer: int | None = None,
        **opening: Any,
    ) -> int:
        """Connect, with hbshim installed, attached afterwards ("keep_alive") or absent ("none")."""
        if shim == "install":
            hbshim.install(**(options or {}))
        set_buffers(receive_buffer, send_buffer)
        if self.client is None:
            self.client = CLIENTS[LIBRARY](opening)
        self.client.connect()
        sock = self.client.sock()
        if shim == "keep_alive":
            self.client.keep_alive(**(options or {}))
        return sock.getsockname()[1]

    def reopen(self) -> int:
        """Connect the same client object anew; nothing of its old connection may stay."""
        self.client.connect()
        gc.collect()
        return self.client.sock().getsockname()[1]

    def publish(
        self, size: int = 100, times: int = 1, pause: float = 0.0, queue: str | None = None
    ) -> None:
        if queue is not None:
            self.client.queue = queue
        for _ in range(times):
            self.client.publish(size)
            if pause:
                time.sleep(pause)

    def declare(self, queue: str) -> None:
        self.client.declare(queue)

    def count(self) -> int:
        return self.client.count()

    def consume(self, callback: float, total: int, how: str = "block") -> int:
        self.client.consume(callback, total, lambda seconds: self.wait(seconds, how))
        return self.client.consumed

    def queue(self) -> str:
        return self.client.queue

    def tick(self) -> None:
        self.client.tick()

    def show_life(self) -> None:
        hbshim.mark_alive()

    def close(self) -> None:
        self.client.close()

    def bury(self) -> None:
        """Close and let go; :meth:`remains` returns what of it is left."""
        self.buried = [weakref.ref(item) for item in (self.client.connection, *self._links())]
        self.client.close()
        self.client = None

    def remains(self) -> dict[str, Any]:
        gc.collect()
        return {
            "objects": [repr(item()) for item in self.buried if item() is not None],
            "descriptors": len(os.listdir("/proc/self/fd")),
            "wakeups": sum(engine.wakeups for engine in service.current().engines()),
        }

    # -- the concurrency model ------------------------------------------------

    def wait(self, seconds: float, how: str = "hub") -> None:
        """Let time pass: in the hub, with the thread blocked, or computing."""
        if how == "hub":
            (gevent.sleep if MODEL == "gevent-unpatched" else time.sleep)(seconds)
        elif how == "block":
            original("time", "sleep")(seconds)
        else:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                sum(range(1000))

    def run_hub(self) -> None:
        """Let time pass in the hub until the next command comes, or no more will."""
        while not original("select", "select")([0], [], [], 0)[0]:
            self.wait(0.02)

    def report(self) -> dict[str, Any]:
        heartbeats = service.current()
        return {
            "links": [
                {
                    "state": link.state.value,
                    "heartbeats_sent": link.heartbeats_sent,
                    "route": link.wire.route,
                    "tcp_info": link.wire.has_tcp_info,
                    "unread": link.wire.unread() if link.state.value == "alive" else 0,
                    "received_ago": link.wire.kernel_view().received_ago,
                }
                for link in self._links()
            ],
            "workers": [engine.worker.name for engine in heartbeats.engines()],
            "counters": heartbeats.metrics.snapshot(),
        }

    def engine_of_link(self) -> str | None:
        """The worker that checks the only link; None without one."""
        for engine in service.current().engines():
            if any(item in self._links() for item in engine.items()):
                return engine.worker.name
        return None

    def _links(self) -> list[Any]:
        return service.current().links()

    # -- interference ----------------------------------------------------------

    def force_heartbeats(self, every: float = 0.005) -> None:
        """Have the engine find a heartbeat due at each check, and check all the time."""
        check_often(every)
        for link in self._links():
            force_heartbeats(link, every)

    def blind_guard(self) -> None:
        """Make the guard useless, to see a test notice it."""
        for link in self._links():
            blind_guard(link)

    def without_tcp_info(self) -> None:
        for link in self._links():
            link.wire.has_tcp_info = False

    def stop_draining(self) -> None:
        for link in self._links():
            link.wire.take_heartbeats = lambda _: 0

    def prepare(self, **opening: Any) -> None:
        """Install hbshim, and do not connect yet."""
        hbshim.install()
        self.client = CLIENTS[LIBRARY](opening)

    def fork(self, act: str, way: str, publish: bool = False) -> None:
        """Fork a child that acts on the connection; :meth:`child_answer` returns the result.

        With `publish` the parent has written just before.
        """
        if publish:
            self.publish()
        self.child = Child(ACTS[act], self.client, way)

    def child_answer(self) -> Any:
        """Have the child go on if it waits, and return its report."""
        assert self.child is not None
        return self.child.answer()

    def forkserver(self) -> Any:
        """Start a child from a fork server, which has never seen the connection."""
        return in_forkserver(self.client.opening, getattr(self.client, "kombu", None))


def set_buffers(receive: int | None, send: int | None) -> None:
    """Give every socket these buffers before it connects; None leaves the kernel's.

    Before, because the handshake fixes the unit of the window: with the
    default buffer's unit of 1024 bytes a small one is announced as closed.
    """
    connect = socket.socket.connect

    def connect_with_buffers(self: socket.socket, address: Any) -> None:
        for option, size in ((socket.SO_RCVBUF, receive), (socket.SO_SNDBUF, send)):
            if size is not None:
                self.setsockopt(socket.SOL_SOCKET, option, size)
        return connect(self, address)

    socket.socket.connect = connect_with_buffers  # type: ignore[assignment]


def answer(agent: Agent, command: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"ok": getattr(agent, command.pop("do"))(**command)}
    except Exception as error:
        known = agent.client is not None and agent.client.connection is not None
        return {
            "error": f"{type(error).__module__}.{type(error).__qualname__}",
            "message": str(error),
            "recoverable": known and agent.client.recoverable(error),
            "traceback": traceback.format_exc(),
        }


def main() -> None:
    agent = Agent()
    # Without a buffer, so that a command that waits can be seen.
    with open(0, "rb", buffering=0, closefd=False) as commands:
        for line in commands:
            print(json.dumps(answer(agent, json.loads(line))), flush=True)
    # The test is over: end without a word, whatever state the connection is in.
    os._exit(0)


if __name__ == "__main__":
    main()
