"""A way to the broker whose client side can be closed without the broker's knowing it."""

from __future__ import annotations

import contextlib
import socket
import threading


class HalfOpenRelay:
    """Forwards connections; a context manager.

    Attributes:
        opened: connections that were accepted.
    """

    def __init__(self, host: str, port: int) -> None:
        self.opened = 0
        self._target = (host, port)
        self._clients: list[socket.socket] = []
        self._brokers: list[socket.socket] = []
        self._kept: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._ended = False

    @property
    def port(self) -> int:
        number: int = self._listener.getsockname()[1]
        return number

    def __enter__(self) -> HalfOpenRelay:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.1)
        self._start(self._accept)
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended = True
        for sock in (*self._clients, *self._brokers):
            _shut(sock)
        for thread in self._threads:
            thread.join(10)
        for sock in (self._listener, *self._clients, *self._brokers):
            sock.close()

    def close_client_sides(self) -> None:
        """Close the client's side of each connection; the broker's stays open, and silent."""
        self._kept.update(self._brokers)
        for client in self._clients:
            _shut(client)

    def close_broker_sides(self) -> None:
        """Close what :meth:`close_client_sides` has left open."""
        for broker in list(self._kept):
            _shut(broker)

    def _start(self, run: object, *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._ended:
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            client.settimeout(None)
            broker = socket.create_connection(self._target)
            self.opened += 1
            self._clients.append(client)
            self._brokers.append(broker)
            self._start(self._forward, client, broker, broker)
            self._start(self._forward, broker, client, broker)

    def _forward(self, source: socket.socket, sink: socket.socket, broker: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        if broker not in self._kept:
            _shut(source)
            _shut(sink)


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
