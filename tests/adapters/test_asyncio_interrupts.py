"""A write in an event loop that an exception interrupts anywhere inside of hbshim, or of asyncio.

What has arrived at the peer is whole frames, and a heartbeat can follow it; or the stream is shut
down. No lock stays held.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trustme

from hbshim.adapters.asyncio.streams import open_link
from hbshim.heartbeat.guard import IDLE_BEFORE_CHECK
from hbshim.heartbeat.link import Link
from hbshim.heartbeat.state import State
from hbshim.heartbeat.wire import HEARTBEAT_FRAME
from tests.asyncio_clients import LOOPS
from tests.concurrency import MODEL
from tests.interrupts import InterruptError, interrupt_everywhere

pytestmark = pytest.mark.skipif(MODEL != "native", reason="asyncio runs on an unpatched library")

#: Where the code of asyncio is.
ASYNCIO = (os.path.dirname(asyncio.__file__) + os.sep,)

FRAME = b"\x01\x00\x00\x00\x00\x00\x04data\xce"


class Stream:
    """A client's stream with its link, and what its peer has received."""

    def __init__(self) -> None:
        self.received = b""
        self.ended = asyncio.Event()
        self.writer: Any = None
        self.link: Link | None = None
        self.end: Callable[[], None] = lambda: None

    async def serve(self, reader: Any, writer: Any) -> None:
        with contextlib.suppress(OSError, ssl.SSLError):
            while data := await reader.read(65536):
                self.received += data
        self.ended.set()
        writer.close()

    def send_heartbeat(self) -> bool:
        assert self.link is not None
        permit = self.link.guard.writers.try_acquire()
        assert permit is not None, "a lock stays held"
        try:
            return not self.link._half_written() and self.link.wire.send_heartbeat(permit)
        finally:
            self.link.guard.writers.release()


class Streams:
    """Makes streams in one event loop, from one server.

    Parameters:
        contexts: of the server and the client; None for plain TCP.
    """

    def __init__(self, loop: Any, contexts: tuple[Any, Any] | None) -> None:
        self.loop, self._contexts = loop, contexts
        self._opened: list[Stream] = []
        self._server: Any = loop.run_until_complete(
            asyncio.start_server(
                lambda *pair: self._opened[-1].serve(*pair),
                "localhost",
                0,
                ssl=contexts and contexts[0],
            )
        )

    async def _open(self) -> Stream:
        self._opened.append(stream := Stream())
        port = self._server.sockets[0].getsockname()[1]
        _, stream.writer = await asyncio.open_connection(
            "localhost", port, ssl=self._contexts and self._contexts[1]
        )
        return stream

    def connect(self) -> Stream:
        return self.loop.run_until_complete(self._open())

    def attach(self, stream: Stream) -> None:
        writer = stream.writer
        stream.link, stream.end = open_link(writer, 10.0, 20.0, ConnectionError, lambda: None, bool)

    def run_until(self, condition: Callable[[], bool]) -> None:
        async def wait() -> None:
            while not condition():
                await asyncio.sleep(0.001)

        self.loop.run_until_complete(asyncio.wait_for(wait(), 20))

    def close(self, stream: Stream) -> None:
        async def close() -> None:
            stream.writer.close()
            # asyncio reports what has closed it once more.
            with contextlib.suppress(OSError, ssl.SSLError, InterruptError):
                await stream.writer.wait_closed()
            await stream.ended.wait()

        self.loop.run_until_complete(asyncio.wait_for(close(), 20))

    def end(self) -> None:
        async def end() -> None:
            self._server.close()
            await self._server.wait_closed()

        self.loop.run_until_complete(end())


@pytest.fixture(params=["asyncio-plain", "asyncio-tls", "uvloop-plain"])
def streams(request: pytest.FixtureRequest) -> Iterator[Streams]:
    kind, route = request.param.split("-")
    contexts = None
    if route == "tls":
        authority = trustme.CA()
        server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
        authority.issue_cert("localhost").configure_cert(server)
        authority.configure_trust(client)
        contexts = server, client
    loop = LOOPS[kind]()
    asyncio.set_event_loop(loop)
    made = Streams(loop, contexts)
    yield made
    made.end()
    asyncio.set_event_loop(None)
    loop.close()
    gc.collect()


@pytest.mark.parametrize("idle", [False, True])
def test_a_write_interrupted_anywhere_leaves_whole_frames_or_a_closed_stream(
    streams: Streams, *, idle: bool
) -> None:
    stream, torn = Stream(), 0

    def prepare() -> None:
        nonlocal stream
        stream = streams.connect()
        streams.attach(stream)
        assert stream.link is not None
        if idle:  # so that the write checks the peer first
            stream.link.guard.last_write = time.monotonic() - 2 * IDLE_BEFORE_CHECK

    def check() -> None:
        nonlocal torn
        link = stream.link
        assert link is not None
        assert link.guard.writers.inside == set()
        # asyncio closes a transport whose system call was interrupted.
        if link.guard.torn or link.state is State.CLOSED:
            torn += 1
            assert link.state in (State.LOST, State.CLOSED)
            streams.run_until(stream.ended.is_set)
            assert stream.received in (b"", FRAME)
        else:
            assert link.state is State.ALIVE
            assert stream.send_heartbeat()
            whole = (HEARTBEAT_FRAME, FRAME + HEARTBEAT_FRAME)
            streams.run_until(lambda: len(stream.received) >= len(HEARTBEAT_FRAME))
            streams.run_until(lambda: stream.received in whole)
        streams.close(stream)
        prepare()

    prepare()
    interrupts = interrupt_everywhere(lambda: stream.writer.write(FRAME), check, ASYNCIO)
    streams.close(stream)
    assert interrupts > 3
    assert torn < interrupts


def test_attaching_interrupted_anywhere_leaves_a_stream_that_can_be_used(streams: Streams) -> None:
    stream = streams.connect()

    def check() -> None:
        nonlocal stream
        stream.writer.write(FRAME)
        streams.run_until(lambda: stream.received == FRAME)
        streams.close(stream)
        stream = streams.connect()

    interrupts = interrupt_everywhere(lambda: streams.attach(stream), check)
    streams.close(stream)
    assert interrupts > 20
