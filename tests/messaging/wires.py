"""Wires: byte relays between TCP or Unix sockets, which break their connections on command."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import threading
from collections.abc import Coroutine, Mapping
from typing import TypeAlias

#: Host and port, or the path of a Unix socket.
Address: TypeAlias = tuple[str, int] | str

_CHUNK = 64 * 1024

#: Seconds that a command may take; the machine may be busy.
_COMMAND_LIMIT = 30.0

#: A socket with this is reset when it is closed.
_RESET = struct.pack("ii", 1, 0)


class Wires:
    """Accept connections at addresses, and pass their bytes on to others.

    Parameters:
        routes: where each address leads.

    Attributes:
        opened: how many connections were passed on so far.
        swallowed: bytes that were thrown away.
    """

    def __init__(self, routes: Mapping[Address, Address]) -> None:
        self.opened = self.swallowed = 0
        self._swallows = False
        self._routes = routes
        self._servers: list[asyncio.Server] = []
        self._connections: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="wires", daemon=True)
        self._thread.start()
        self.accept()

    def cut(self) -> None:
        """Break every connection; new ones are accepted."""
        self._run(self._cut())

    def swallow(self) -> None:
        """Throw away what comes, until the connections are broken."""
        self._swallows = True

    def stop(self) -> None:
        """Break every connection, and accept none until :meth:`accept`."""
        self._run(self._stop())

    def accept(self) -> None:
        """Accept connections."""
        self._run(self._accept())

    def close(self) -> None:
        """Stop for ever."""
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_COMMAND_LIMIT)
        self._loop.close()

    def _run(self, command: Coroutine[None, None, None]) -> None:
        asyncio.run_coroutine_threadsafe(command, self._loop).result(_COMMAND_LIMIT)

    async def _accept(self) -> None:
        for here, target in self._routes.items():

            async def connected(
                reader: asyncio.StreamReader,
                writer: asyncio.StreamWriter,
                target: Address = target,
            ) -> None:
                await self._relay(reader, writer, target)

            if isinstance(here, str):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(here)
                self._servers.append(await asyncio.start_unix_server(connected, here))
            else:
                self._servers.append(await asyncio.start_server(connected, *here))

    async def _stop(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()
        await self._cut()

    async def _cut(self) -> None:
        self._swallows = False
        connections = dict(self._connections)
        for task, writers in connections.items():
            for writer in writers:
                _reset(writer)
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _relay(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: Address
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        writers = self._connections[task] = [writer]
        try:
            if isinstance(target, str):
                far_reader, far_writer = await asyncio.open_unix_connection(target)
            else:
                far_reader, far_writer = await asyncio.open_connection(*target)
            writers.append(far_writer)
            self.opened += 1
            ways = [self._pump(reader, far_writer), self._pump(far_reader, writer)]
            await asyncio.wait(
                [asyncio.ensure_future(way) for way in ways],
                return_when=asyncio.FIRST_COMPLETED,
            )
        except (OSError, asyncio.CancelledError):
            pass  # a cut, or nothing listens there now
        finally:
            for each in writers:
                _reset(each)
            del self._connections[task]

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                if self._swallows:
                    self.swallowed += len(data)
                    continue
                writer.write(data)
                await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
