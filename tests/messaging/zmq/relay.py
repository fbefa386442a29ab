"""A TCP relay in front of a proxy's port, which sees what passes, and loses answers on demand."""

from __future__ import annotations

import contextlib
import socket
import threading


class Relay:
    """A context manager; it listens at a port of its own.

    Attributes:
        address: ``host:port`` where clients connect.
        swallows: whether it drops what comes from the proxy.
        seen: what has come from both sides.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._listener = socket.create_server((host, 0))
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self.address = f"{host}:{self._listener.getsockname()[1]}"
        self.swallows = False
        self.swallowed = 0
        self.seen = bytearray()
        self._over = False

    def __enter__(self) -> Relay:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        with self._lock:
            self._over = True
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Reset every connection."""
        with self._lock:
            sockets, self._sockets = self._sockets, []
        for each in sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    proxy = socket.create_connection(self._target)
                except OSError:
                    client.close()
                    continue
                with self._lock:
                    self._sockets += [client, proxy]
                    over = self._over
                if over:
                    self.cut()
                for source, sink, answers in ((client, proxy, False), (proxy, client, True)):
                    threading.Thread(
                        target=self._copy, args=(source, sink, answers), daemon=True
                    ).start()

    def _copy(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.seen += data
                if answers and self.swallows:
                    self.swallowed += len(data)
                else:
                    sink.sendall(data)
            sink.shutdown(socket.SHUT_RDWR)
