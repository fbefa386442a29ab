"""One relayed connection: carries, breaks and listens in, in an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import socket
import struct
import time
from collections.abc import Callable
from typing import Protocol

from wsgi_harness.wire.events import Mode, RelayEvent
from wsgi_harness.wire.frame import HEARTBEAT, MalformedFrameError
from wsgi_harness.wire.frames import FrameParser

#: How often the kernel is asked for a FIN or RST that no read would find (seconds).
_LOOK_EVERY = 0.1

_TCP_CLOSE, _TCP_CLOSE_WAIT = 7, 8
#: struct tcp_info of <linux/tcp.h>: tcpi_last_data_recv, in milliseconds.
_TCP_INFO_SIZE, _LAST_DATA_RECEIVED = 104, 52
#: A socket's own packet filter sits before its TCP: what it drops is not acknowledged, just as
#: with a firewall's DROP rule, and it needs no privilege. The program is one instruction,
#: "return 0 octets" (<linux/filter.h>: BPF_RET | BPF_K).
_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_instruction = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0), 8)
_DROP_ALL = struct.pack("HP", 1, ctypes.addressof(_instruction))

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: on, zero seconds


class Port(Protocol):
    """What a connection needs of the port that accepted it; see :class:`.relay_cell.Cell`."""

    name: str
    on_event: Callable[[RelayEvent], None]
    bytes_per_second: float | None
    extra_heartbeats: int
    forget_idle_after: float | None

    def mode_of(self, side: str) -> Mode:
        """What happens to the bytes that this side sends."""

    @property
    def chunk(self) -> int:
        """How much to read at once."""

    async def mode_changed(self) -> None:
        """Wait until the mode is set."""

    async def dial(self) -> socket.socket:
        """Connect to the broker; raises OSError or asyncio.TimeoutError."""


class Side:
    """One of the two sockets of a connection, and the stream that comes out of it."""

    def __init__(self, name: str, sock: socket.socket) -> None:
        self.name = name
        self.sock = sock
        self.parser = FrameParser()
        self.ended: str | None = None
        self.port = self._port()

    def _port(self) -> int:
        """The other end's port; 0 when it is gone already, and for a listener."""
        try:
            return int(self.sock.getpeername()[1])
        except OSError:
            return 0

    def vanish(self, gone: bool) -> None:
        """Have the kernel drop what arrives, unacknowledged, or take it again."""
        with contextlib.suppress(OSError):  # closed by ourselves, or no filter to take away
            if gone:
                self.sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, _DROP_ALL)
            else:
                self.sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)

    def idle_for(self) -> float:
        """Seconds since the kernel received a byte, however late we are to read it."""
        try:
            info = self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_SIZE)
        except OSError:
            return 0.0  # closed by ourselves
        (milliseconds,) = struct.unpack_from("I", info, _LAST_DATA_RECEIVED)
        return float(milliseconds) / 1000

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

    def __init__(self, port: Port, number: int, client: socket.socket) -> None:
        self.port = port
        self.number = number
        self.client = Side("client", client)
        self.server: Side | None = None
        self._first_end = ""
        self._lost_bytes = False
        self._forgotten = False
        # Not a cancellation: that could hit the clean-up, and leave a socket open.
        self._stop_ordered = asyncio.Event()

    async def run(self) -> None:
        """Relay until both streams have ended, or one was reset."""
        try:
            self.server = Side("server", await self.port.dial())
        except (OSError, asyncio.TimeoutError) as error:
            self._report("unreachable", "server", detail=type(error).__name__)
            _reset(self.client.sock)
            return
        self._report("opened", "", detail=str(self.client.port))
        self.apply_mode()
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

    def apply_mode(self) -> None:
        """Have the kernel vanish or come back, by the mode."""
        for side in (self.client, self.server):
            if side is not None:
                side.vanish(self._mode_of(side) is Mode.VANISH)

    def _mode_of(self, side: Side) -> Mode:
        return Mode.VANISH if self._forgotten else self.port.mode_of(side.name)

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
                self._report("torn", side.name, detail="the stream ended inside a frame")
            if reset:
                _reset(side.sock)
            else:
                side.sock.close()
        parsers = (self.client.parser, self.server.parser)
        frames, byte_count = sum(p.frames for p in parsers), sum(p.byte_count for p in parsers)
        self._report("closed", self._first_end, frames=frames, byte_count=byte_count)

    async def _pump(self, source: Side, sink: Side) -> bool:
        """Carry one direction; True when a reset ended it, False at its FIN."""
        loop = asyncio.get_running_loop()
        while True:
            await _readable(source.sock)
            # No await between this check and the read: a deaf relay reads nothing.
            if self._mode_of(source) in (Mode.DEAF, Mode.VANISH):
                await self.port.mode_changed()
                continue
            try:
                data = source.sock.recv(self.port.chunk)
            except BlockingIOError:
                continue
            except OSError:
                self._ended(source, "rst")
                data = b""
            if not data:
                self._ended(source, "fin")
            if self._mode_of(source) is Mode.SWALLOW:
                self._lost_bytes = self._lost_bytes or bool(data)
                if not data:
                    await self.port.mode_changed()
                continue
            if self._lost_bytes or source.ended == "rst":
                return True
            if not data:
                with contextlib.suppress(OSError):
                    sink.sock.shutdown(socket.SHUT_WR)
                return False
            heartbeats = self._listen_in(source, data)
            if source.name == "server" and heartbeats and not source.parser.inside_frame:
                data += source.parser.heartbeat * heartbeats * self.port.extra_heartbeats
            try:
                await loop.sock_sendall(sink.sock, data)
            except OSError:
                self._ended(sink, "rst")
                return True
            if self.port.bytes_per_second:
                await asyncio.sleep(len(data) / self.port.bytes_per_second)

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
            self._forget_if_idle()
            if any(self._mode_of(side) is not Mode.PASS for side in sides):
                continue
            # With bytes lost the stream has a hole: behave like a firewall that forgot it.
            if self._lost_bytes or any(side.ended == "rst" for side in sides):
                return True

    def _forget_if_idle(self) -> None:
        # What the server sends does not count: RFC 4787, REQ-6, has a NAT refresh its mapping
        # on outbound packets, and leaves it free not to on inbound ones.
        limit = self.port.forget_idle_after
        if limit and not self._forgotten and self.client.idle_for() > limit:
            self._forgotten = True
            self.apply_mode()
            self._report("forgotten", "client")

    def _ended(self, side: Side, how: str) -> None:
        if side.ended is None:
            side.ended = how
            self._first_end = self._first_end or side.name
            self._report(
                how, side.name, frames=side.parser.frames, byte_count=side.parser.byte_count
            )

    def _listen_in(self, side: Side, data: bytes) -> int:
        """Follow the frames in `data`; return how many heartbeats ended in it."""
        parser = side.parser
        heartbeats = 0
        try:
            for frame in parser.feed(data):
                heartbeats += frame.type == HEARTBEAT
                kind = "heartbeat" if frame.type == HEARTBEAT else frame.method
                if kind is not None:
                    self._report(
                        kind, side.name, frames=parser.frames, byte_count=parser.byte_count
                    )
        except MalformedFrameError as error:
            self._report("malformed", side.name, detail=str(error))
        return heartbeats

    def _report(
        self, kind: str, side: str, *, frames: int = 0, byte_count: int = 0, detail: str = ""
    ) -> None:
        self.port.on_event(
            RelayEvent(
                kind, side, self.port.name, self.number, time.time(), frames, byte_count, detail
            )
        )


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
