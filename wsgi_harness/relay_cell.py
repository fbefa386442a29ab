"""One listening port of the relay: follows, forwards and breaks connections in an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import enum
import socket
import struct
import time
from collections.abc import Callable

from wsgi_harness.frames import HEARTBEAT, HEARTBEAT_FRAME, FrameParser, MalformedFrameError

_CHUNK = 64 * 1024
#: How often the kernel is asked for a FIN or RST that nobody would read (seconds).
_LOOK_EVERY = 0.1
_DIAL_LIMIT = 5.0
#: A slowed relay forwards this share of a second's bytes at a time.
_SLICES_A_SECOND = 20

_TCP_CLOSE, _TCP_CLOSE_WAIT = 7, 8
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: on, zero seconds


class Mode(enum.Enum):
    """What the relay does with the bytes that arrive."""

    PASS = "pass"
    #: Reads nothing, so both kernels' windows close in time, as behind a stalled proxy.
    DEAF = "deaf"
    #: Reads and throws away: both kernels get their acknowledgements, nobody an answer.
    SWALLOW = "swallow"


@dataclasses.dataclass(frozen=True)
class RelayEvent:
    """Something that the relay saw.

    Attributes:
        kind: ``opened``; ``heartbeat``; ``close``, ``close-ok``, ``blocked``, ``unblocked``
            (connection methods); ``fin`` or ``rst`` (that side's kernel ended its stream);
            ``closed`` (the relay let go of both sockets); ``malformed`` or ``torn`` (what
            went by is not whole AMQP frames); ``unreachable`` (the target refused).
        side: who sent it: ``client`` or ``server``; for ``closed`` the side that ended the
            connection first, ``relay`` when ordered to; empty for ``opened``.
        cell: name of the listening port.
        connection: number of the connection at this port, from 1.
        at: ``time.time()``, in seconds.
        frames, octets: passed in this direction so far; for ``closed`` in both.
        detail: more about an error.
    """

    kind: str
    side: str
    cell: str
    connection: int
    at: float
    frames: int = 0
    octets: int = 0
    detail: str = ""

    @property
    def is_error(self) -> bool:
        """Whether the stream was not whole AMQP frames."""
        return self.kind in ("malformed", "torn")


class Side:
    """One of the two sockets of a connection, and the stream that comes out of it."""

    def __init__(self, name: str, sock: socket.socket) -> None:
        self.name = name
        self.sock = sock
        self.parser = FrameParser()
        self.ended: str | None = None

    def kernel_end(self) -> str | None:
        """``fin`` or ``rst`` once the kernel has it, read or not."""
        try:
            state = self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        except OSError:
            return None  # closed by ourselves
        if state == _TCP_CLOSE:
            # Also the state after both sides have sent their FIN; only a reset is an error.
            return "rst" if self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) else "fin"
        return "fin" if state == _TCP_CLOSE_WAIT else None


class RelayedConnection:
    """One client's connection and its counterpart to the broker."""

    def __init__(self, cell: Cell, number: int, client: socket.socket) -> None:
        self.cell = cell
        self.number = number
        self.client = Side("client", client)
        self.server: Side | None = None
        self._first_end = ""
        self._lost_octets = False
        # Not a cancellation: that could hit the clean-up, and leave a socket open.
        self._stop_ordered = asyncio.Event()

    async def run(self) -> None:
        """Relay until both streams have ended, or one was reset."""
        try:
            self.server = Side("server", await self.cell.dial())
        except (OSError, asyncio.TimeoutError) as error:
            self._tell("unreachable", "server", detail=type(error).__name__)
            _reset(self.client.sock)
            return
        self._tell("opened", "")
        pumps = [
            asyncio.create_task(self._pump(self.client, self.server)),
            asyncio.create_task(self._pump(self.server, self.client)),
        ]
        others = [
            asyncio.create_task(self._watch_kernel()),
            asyncio.create_task(self._stop_ordered.wait()),
        ]
        reset = True
        try:
            reset = await self._until_over(pumps, others)
        finally:
            for task in (*pumps, *others):
                task.cancel()
            await asyncio.gather(*pumps, *others, return_exceptions=True)
            self._finish(reset)

    def stop(self) -> None:
        """Have :meth:`run` reset both sides and return."""
        self._first_end = self._first_end or "relay"
        self._stop_ordered.set()

    async def _until_over(
        self, pumps: list[asyncio.Task[bool]], others: list[asyncio.Task[bool]]
    ) -> bool:
        """True as soon as anything was reset, False when both directions have ended."""
        waiting = {*pumps, *others}
        while not all(pump.done() for pump in pumps):
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if any(task.result() for task in done):
                return True
        return False

    def _finish(self, reset: bool) -> None:
        assert self.server is not None
        for side in (self.client, self.server):
            if side.parser.inside_frame:
                self._tell("torn", side.name, detail="the stream ended inside a frame")
            if reset:
                _reset(side.sock)
            else:
                side.sock.close()
        parsers = (self.client.parser, self.server.parser)
        frames, octets = sum(p.frames for p in parsers), sum(p.octets for p in parsers)
        self._tell("closed", self._first_end, frames=frames, octets=octets)

    async def _pump(self, source: Side, sink: Side) -> bool:
        """Carry one direction; True when a reset ended it, False at its FIN."""
        loop = asyncio.get_running_loop()
        while True:
            await _readable(source.sock)
            # No await between this look and the read: a deaf relay reads nothing.
            if self.cell.mode is Mode.DEAF:
                await self.cell.mode_changed()
                continue
            try:
                data = source.sock.recv(self.cell.chunk)
            except BlockingIOError:
                continue
            except OSError:
                self._ended(source, "rst")
                data = b""
            if not data:
                self._ended(source, "fin")
            if self.cell.mode is Mode.SWALLOW:
                self._lost_octets = self._lost_octets or bool(data)
                if not data:
                    await self.cell.mode_changed()
                continue
            if self._lost_octets or source.ended == "rst":
                return True
            if not data:
                with contextlib.suppress(OSError):
                    sink.sock.shutdown(socket.SHUT_WR)
                return False
            beats = self._listen_in(source, data)
            if source.name == "server" and beats and not source.parser.inside_frame:
                data += HEARTBEAT_FRAME * beats * self.cell.extra_heartbeats
            try:
                await loop.sock_sendall(sink.sock, data)
            except OSError:
                self._ended(sink, "rst")
                return True
            if self.cell.octets_a_second:
                await asyncio.sleep(len(data) / self.cell.octets_a_second)

    async def _watch_kernel(self) -> bool:
        """See ends that no pump reads, because it is deaf or waits to send; pass on a reset."""
        assert self.server is not None
        sides = (self.client, self.server)
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            for side in sides:
                end = side.kernel_end()
                if end is not None:
                    self._ended(side, end)
            if self.cell.mode is not Mode.PASS:
                continue
            # With octets lost the stream has a hole: behave like a firewall that forgot it.
            if self._lost_octets or any(side.ended == "rst" for side in sides):
                return True

    def _ended(self, side: Side, how: str) -> None:
        if side.ended is None:
            side.ended = how
            self._first_end = self._first_end or side.name
            self._tell(how, side.name, frames=side.parser.frames, octets=side.parser.octets)

    def _listen_in(self, side: Side, data: bytes) -> int:
        """Follow the frames in `data`; return how many heartbeats ended in it."""
        parser = side.parser
        beats = 0
        try:
            for frame in parser.feed(data):
                beats += frame.type == HEARTBEAT
                kind = "heartbeat" if frame.type == HEARTBEAT else frame.method
                if kind is not None:
                    self._tell(kind, side.name, frames=parser.frames, octets=parser.octets)
        except MalformedFrameError as error:
            self._tell("malformed", side.name, detail=str(error))
        return beats

    def _tell(
        self, kind: str, side: str, *, frames: int = 0, octets: int = 0, detail: str = ""
    ) -> None:
        self.cell.on_event(
            RelayEvent(kind, side, self.cell.name, self.number, time.time(), frames, octets, detail)
        )


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
        mode: what happens to bytes; set it with :meth:`set_mode`.
        octets_a_second: limit in each direction; None for none.
        extra_heartbeats: how many more follow each heartbeat of the server, so that
            days of idleness pass in seconds.
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
        self.mode = Mode.PASS
        self.octets_a_second: float | None = None
        self.extra_heartbeats = 0
        self.address = listen
        self._target = target
        self._buffers = {socket.SO_RCVBUF: receive_buffer, socket.SO_SNDBUF: send_buffer}
        self._mode_changes = asyncio.Event()
        self._listener: socket.socket | None = None
        self._acceptor: asyncio.Task[None] | None = None
        self._connections: dict[asyncio.Task[None], RelayedConnection] = {}
        self._number = 0

    @property
    def chunk(self) -> int:
        """How much to read at once."""
        if self.octets_a_second is None:
            return _CHUNK
        return max(1, min(_CHUNK, int(self.octets_a_second / _SLICES_A_SECOND)))

    async def listen(self) -> None:
        """Accept connections, at the same port as before.

        Raises:
            OSError: the port is taken.
        """
        if self._listener is not None:
            return
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._shrink(sock)  # accepted sockets inherit it
        sock.setblocking(False)
        try:
            sock.bind(self.address)
            sock.listen(1024)
        except OSError:
            sock.close()
            raise
        self.address = sock.getsockname()
        self._listener = sock
        self._acceptor = asyncio.create_task(self._accept(sock))

    async def refuse(self) -> None:
        """Refuse connections from now on; those that exist stay."""
        if self._acceptor is not None and self._listener is not None:
            self._acceptor.cancel()
            await asyncio.gather(self._acceptor, return_exceptions=True)
            self._listener.close()
            self._listener = self._acceptor = None

    async def stop(self) -> None:
        """Refuse connections, and reset those that exist."""
        await self.refuse()
        for connection in self._connections.values():
            connection.stop()
        await asyncio.gather(*self._connections)

    def set_mode(self, mode: Mode) -> None:
        """Change what happens to bytes from now on."""
        self.mode = mode
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
            await loop.getaddrinfo(*self._target, type=socket.SOCK_STREAM)
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

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(listener)
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._number += 1
            connection = RelayedConnection(self, self._number, sock)
            task = asyncio.create_task(connection.run())
            self._connections[task] = connection
            task.add_done_callback(self._connections.pop)

    def _shrink(self, sock: socket.socket) -> None:
        for option, size in self._buffers.items():
            if size is not None:
                sock.setsockopt(socket.SOL_SOCKET, option, size)


async def _readable(sock: socket.socket) -> None:
    """Wait without reading: `sock_recv` may lose bytes when it is cancelled."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(sock, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sock)


def _reset(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    sock.close()
