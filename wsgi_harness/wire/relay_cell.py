"""One listening port of the relay: accepts, connects to the broker, and defines the mode."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Collection

from wsgi_harness.wire.connection import RelayedConnection, Side
from wsgi_harness.wire.events import Mode, RelayEvent

#: The sides of a connection.
SIDES = ("client", "server")

_CHUNK = 64 * 1024
_DIAL_LIMIT = 5.0
#: A slowed relay forwards this share of a second's bytes at a time.
_SLICES_A_SECOND = 20


class Cell:
    """One listening port, in a running event loop.

    Parameters:
        target: host and port of the broker.
        on_event: called in the loop's thread with each event.
        listen: address to listen on; port 0 for any.
        name: for events.
        receive_buffer, send_buffer: SO_RCVBUF and SO_SNDBUF of every socket, in
            bytes, before the kernel doubles them; None leaves the kernel's choice.

    Attributes:
        target: host and port of the broker; a new one holds for new connections.
        bytes_per_second: limit in each direction; None for none.
        extra_heartbeats: how many more follow each heartbeat of the server, so that
            days of idleness pass in seconds.
        forget_idle_after: seconds without a byte from the client after which its connection
            is silently dropped from then on, as a NAT does; None for never.
    """

    def __init__(
        self,
        target: tuple[str, int],
        on_event: Callable[[RelayEvent], None],
        *,
        listen: tuple[str, int] = ("127.0.0.1", 0),
        name: str = "",
        receive_buffer: int | None = None,
        send_buffer: int | None = None,
    ) -> None:
        self.name = name
        self.on_event = on_event
        self.target = target
        self.bytes_per_second: float | None = None
        self.extra_heartbeats = 0
        self.forget_idle_after: float | None = None
        self.address = listen
        self._modes = dict.fromkeys(SIDES, Mode.PASS)
        self._buffers = {socket.SO_RCVBUF: receive_buffer, socket.SO_SNDBUF: send_buffer}
        self._mode_changes = asyncio.Event()
        self._listener: socket.socket | None = None
        # Bound, never listening: while the relay refuses connections, no other process gets
        # the port, neither for a listener nor as the local port of a connection.
        self._reservation: socket.socket | None = None
        self._connections: dict[asyncio.Task[None], RelayedConnection] = {}
        self._number = 0

    @property
    def chunk(self) -> int:
        """Return how much to read at once."""
        if self.bytes_per_second is None:
            return _CHUNK
        return max(1, min(_CHUNK, int(self.bytes_per_second / _SLICES_A_SECOND)))

    async def listen(self) -> None:
        """Accept connections, at the same port as before.

        Raises:
            OSError: the port is taken.
        """
        if self._listener is not None:
            return
        if self._reservation is None:
            self._reservation = self._bound()
            self.address = self._reservation.getsockname()
        sock = self._bound()
        self._shrink(sock)  # accepted sockets inherit it
        sock.setblocking(False)
        try:
            sock.listen(1024)
        except OSError:
            sock.close()
            raise
        self._listener = sock
        # A task that is cancelled in sock_accept() loses what was accepted meanwhile.
        asyncio.get_running_loop().add_reader(sock, self._accept, sock)

    async def refuse(self) -> None:
        """Refuse connections from now on; those that exist stay."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    async def stop(self) -> None:
        """Refuse connections, and reset those that exist; the port stays reserved."""
        await self.refuse()
        await self.reset()

    async def close(self) -> None:
        """Stop permanently, and release the port."""
        await self.stop()
        if self._reservation is not None:
            self._reservation.close()
            self._reservation = None

    async def reset(self) -> None:
        """Reset the connections that exist."""
        for connection in self._connections.values():
            connection.stop()
        await asyncio.gather(*self._connections)

    def mode_of(self, side: str) -> Mode:
        """Return what happens to the bytes that ``client`` or ``server`` sends."""
        return self._modes[side]

    def set_mode(self, mode: Mode, sides: Collection[str] = SIDES) -> None:
        """Change what happens from now on to the bytes of `sides`; all others pass."""
        self._modes = {side: mode if side in sides else Mode.PASS for side in SIDES}
        if self._listener is not None:
            Side("listener", self._listener).vanish(mode is Mode.VANISH)
        for connection in self._connections.values():
            connection.apply_mode()
        self._mode_changes.set()
        self._mode_changes = asyncio.Event()

    async def mode_changed(self) -> None:
        """Wait until :meth:`set_mode` is called."""
        await self._mode_changes.wait()

    async def dial(self) -> socket.socket:
        """Connect to the broker.

        Raises:
            OSError, asyncio.TimeoutError: it cannot be reached.
        """
        loop = asyncio.get_running_loop()
        family, kind, proto, _, address = (
            await loop.getaddrinfo(*self.target, type=socket.SOCK_STREAM)
        )[0]
        sock = socket.socket(family, kind, proto)
        try:
            self._shrink(sock)
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.wait_for(loop.sock_connect(sock, address), _DIAL_LIMIT)
        except BaseException:
            sock.close()
            raise
        return sock

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except (BlockingIOError, ConnectionError):
            return  # it was registered, and is closed
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._number += 1
        connection = RelayedConnection(self, self._number, sock)
        task = asyncio.create_task(connection.run())
        self._connections[task] = connection
        task.add_done_callback(self._connections.pop)

    def _bound(self) -> socket.socket:
        sock = socket.socket()
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(self.address)
        except OSError:
            sock.close()
            raise
        return sock

    def _shrink(self, sock: socket.socket) -> None:
        for option, size in self._buffers.items():
            if size is not None:
                sock.setsockopt(socket.SOL_SOCKET, option, size)
