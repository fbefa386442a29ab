"""A local server that speaks enough AMQP 0-9-1 to hold thousands of idle connections.

It does the handshake, answers channel.close and connection.close, sends a heartbeat every T/2, and
discards everything else. It runs in its own process, so that its CPU time is not the engine's:
``python -m hbshim.bench.sink T`` prints its port, and ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import struct
import sys

HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"
_HEADER = struct.Struct(">BHI")

#: AMQP 0-9-1 class and method ids, and how each is answered; arguments are packed below.
_START = (10, 10)
_START_OK, _TUNE = (10, 11), (10, 30)
_OPEN, _OPEN_OK = (10, 40), (10, 41)
_CLOSE, _CLOSE_OK = (10, 50), (10, 51)
_CHANNEL_OPEN, _CHANNEL_OPEN_OK = (20, 10), (20, 11)
_CHANNEL_CLOSE, _CHANNEL_CLOSE_OK = (20, 40), (20, 41)

#: The smallest frame-max that AMQP 0-9-1 allows; keeps the clients' buffers small.
FRAME_MAX = 4096


def method(channel: int, ids: tuple[int, int], arguments: bytes = b"") -> bytes:
    """One method frame."""
    payload = struct.pack(">HH", *ids) + arguments
    return _HEADER.pack(1, channel, len(payload)) + payload + b"\xce"


def _long_string(text: bytes) -> bytes:
    return struct.pack(">I", len(text)) + text


class SinkConnection(asyncio.Protocol):
    """The broker's side of one connection."""

    def __init__(self, timeout: int) -> None:
        self._timeout = timeout
        self._buffer = b""
        self._greeted = False
        self._transport: asyncio.Transport | None = None
        self._heartbeat_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._greeted and len(self._buffer) >= 8:
            self._buffer = self._buffer[8:]  # the protocol header, "AMQP" 0 0 9 1
            self._greeted = True
            self._send(method(0, _START, self._start_arguments()))
        while len(self._buffer) >= 8:
            kind, channel, size = _HEADER.unpack_from(self._buffer)
            if len(self._buffer) < size + 8:
                return
            payload, self._buffer = self._buffer[7 : 7 + size], self._buffer[8 + size :]
            if kind == 1:
                self._answer(channel, struct.unpack_from(">HH", payload))

    def _start_arguments(self) -> bytes:
        return (
            struct.pack(">BBI", 0, 9, 0) + _long_string(b"PLAIN AMQPLAIN") + _long_string(b"en_US")
        )

    def _answer(self, channel: int, ids: tuple[int, ...]) -> None:
        if ids == _START_OK:
            tuning = struct.pack(">HIH", 2047, FRAME_MAX, self._timeout)
            self._send(method(0, _TUNE, tuning))
        elif ids == _OPEN:
            self._send(method(0, _OPEN_OK, b"\x00"))
            self._send_heartbeat()
        elif ids == _CHANNEL_OPEN:
            self._send(method(channel, _CHANNEL_OPEN_OK, _long_string(b"")))
        elif ids == _CHANNEL_CLOSE:
            self._send(method(channel, _CHANNEL_CLOSE_OK))
        elif ids == _CLOSE:
            self._send(method(0, _CLOSE_OK))

    def _send(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)

    def _send_heartbeat(self) -> None:
        self._send(HEARTBEAT)
        loop = asyncio.get_running_loop()
        self._heartbeat_timer = loop.call_later(self._timeout / 2, self._send_heartbeat)

    def connection_lost(self, _error: Exception | None) -> None:
        if self._heartbeat_timer is not None:
            self._heartbeat_timer.cancel()


async def serve(timeout: int) -> None:
    """Serve on a free port of 127.0.0.1 until standard input ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SinkConnection(timeout), "127.0.0.1", 0, backlog=4096)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    ended = asyncio.Event()
    loop.add_reader(sys.stdin, ended.set)
    await ended.wait()


if __name__ == "__main__":
    from hbshim.bench.limits import raise_descriptor_limit

    raise_descriptor_limit()
    asyncio.run(serve(int(sys.argv[1])))
