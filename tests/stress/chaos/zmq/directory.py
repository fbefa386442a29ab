"""The directory of a run: a Redis in a container, and the ways to it from each machine."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.messaging.zmq.machines import Machine
from tests.messaging.zmq.redis_server import Container, RedisServer
from wsgi_harness.engine.engine import Engine
from wsgi_harness.engine.images import Images
from wsgi_harness.stack.leftovers import OWNER_LABEL, owner

_CHUNK = 64 * 1024
_CLONE_NEWNET = 0x40000000


@contextmanager
def redis(engine: Engine, images: Images) -> Iterator[tuple[Container, RedisServer]]:
    """A container in which a Redis runs."""
    name = f"hbshim-chaos-{secrets.token_hex(4)}"
    engine.run(
        *("run", "--detach", "--rm", "--init", "--name", name),
        *("--label", f"{OWNER_LABEL}={owner()}", "--publish", "127.0.0.1::6379", images.redis),
    )
    try:
        container = Container(engine, name)
        server = RedisServer(container)
        server.start()
        yield container, server
    finally:
        engine.run("rm", "--force", name)


class Way:
    """Relays connections from a machine to the directory; a context manager.

    Attributes:
        url: the directory's address there.
    """

    def __init__(self, machine: Machine, server: RedisServer) -> None:
        self._server = server
        self._listener = _within(machine, lambda: socket.create_server(("127.0.0.1", 0)))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Way:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection((self._server.host, self._server.port))
                except OSError:
                    near.close()
                    continue
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=_copy, args=(source, sink), daemon=True).start()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK):
            sink.sendall(data)
    for each in (source, sink):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


def _within(machine: Machine, make: Callable[[], socket.socket]) -> socket.socket:
    """Make a socket in a thread that has entered the machine's network namespace."""
    if not machine.namespace:
        return make()
    made: list[socket.socket | OSError] = []

    def run() -> None:
        try:
            namespace = os.open(f"/run/netns/{machine.namespace}", os.O_RDONLY)
            try:
                if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
                made.append(make())
            finally:
                os.close(namespace)
        except OSError as error:
            made.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(made[0], OSError):
        raise made[0]
    return made[0]
