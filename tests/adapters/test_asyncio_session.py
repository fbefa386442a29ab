"""asyncio's TLS session shared with the engine: what reaches the peer, and in which order."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import AsyncIterator
from typing import TypeAlias

import pytest
import trustme

from hbshim.adapters.asyncio.streams import open_link
from hbshim.adapters.asyncio.tls import MemoryTlsWire
from hbshim.heartbeat.guard import Permit
from hbshim.heartbeat.link import Link
from hbshim.heartbeat.state import State
from hbshim.heartbeat.wire import HEARTBEAT_FRAME
from tests.concurrency import MODEL
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(MODEL != "native", reason="asyncio runs on an unpatched library")

Contexts: TypeAlias = tuple[ssl.SSLContext, ssl.SSLContext]

FRAME = b"\x01\x00\x00\x00\x00\x00\x04data\xce"
LARGE = 1 << 20


@pytest.fixture(scope="module", params=["TLSv1_2", "TLSv1_3"])
def contexts(request: pytest.FixtureRequest) -> Contexts:
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    client.minimum_version = client.maximum_version = ssl.TLSVersion[request.param]
    return server, client


class Session:
    """A client's stream with its link, and what its peer has received."""

    def __init__(self, writer: asyncio.StreamWriter, peer: Peer) -> None:
        self.writer, self.peer = writer, peer
        self.link, self.end = open_link(writer, 10.0, 20.0, ConnectionError, lambda: None, bool)
        assert isinstance(self.link.wire, MemoryTlsWire)
        self.wire = self.link.wire

    def send_heartbeat(self) -> bool:
        permit = self.link.guard.writers.try_acquire()
        assert permit is not None
        try:
            return self.wire.send_heartbeat(permit)
        finally:
            self.link.guard.writers.release()

    def kernel_takes(self, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let the kernel take no more than so many bytes of the engine at once."""
        send = self.wire.send_some

        def send_some(data: bytes, permit: Permit) -> int | None:
            return send(data[:most], permit)

        monkeypatch.setattr(self.wire, "send_some", send_some)


class Peer:
    def __init__(self) -> None:
        self.received = b""
        self.reads = asyncio.Event()
        self.reads.set()
        self.error: Exception | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                self.received += data
                await self.reads.wait()
        except Exception as error:
            self.error = error
        finally:
            writer.close()

    async def has(self, expected: bytes) -> None:
        async def wait() -> None:
            while len(self.received) < len(expected):
                assert self.error is None
                await asyncio.sleep(0.005)

        await asyncio.wait_for(wait(), 20)
        assert self.received == expected


@contextlib.asynccontextmanager
async def connected(contexts: Contexts) -> AsyncIterator[Session]:
    peer = Peer()
    server = await asyncio.start_server(peer.serve, "localhost", 0, ssl=contexts[0])
    port = server.sockets[0].getsockname()[1]
    _, writer = await asyncio.open_connection("localhost", port, ssl=contexts[1])
    session = Session(writer, peer)
    try:
        yield session
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        server.close()
        await server.wait_closed()


def test_heartbeats_and_frames_arrive_in_their_order(contexts: Contexts) -> None:
    async def main() -> None:
        async with connected(contexts) as session:
            assert session.send_heartbeat()
            session.writer.write(FRAME)
            assert session.send_heartbeat()
            await session.peer.has(HEARTBEAT_FRAME + FRAME + HEARTBEAT_FRAME)

    asyncio.run(main())


def test_the_rest_of_a_heartbeat_is_sent_by_the_next_check(
    contexts: Contexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with connected(contexts) as session:
            session.kernel_takes(10, monkeypatch)
            assert not session.send_heartbeat()
            monkeypatch.undo()
            assert session.send_heartbeat()
            await session.peer.has(HEARTBEAT_FRAME)

    asyncio.run(main())


def test_the_rest_of_a_heartbeat_goes_before_the_clients_next_record(
    contexts: Contexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with connected(contexts) as session:
            session.kernel_takes(10, monkeypatch)
            assert not session.send_heartbeat()
            session.writer.write(FRAME)
            monkeypatch.undo()
            assert session.send_heartbeat()
            await session.peer.has(HEARTBEAT_FRAME + FRAME + HEARTBEAT_FRAME)

    asyncio.run(main())


def test_no_heartbeat_while_a_part_of_a_frame_is_buffered(contexts: Contexts) -> None:
    async def main() -> None:
        async with connected(contexts) as session:
            session.peer.reads.clear()
            written = 0
            while not session.link._half_written():
                session.writer.write(bytes(LARGE))
                written += LARGE
            # For a check that asked before the client wrote.
            assert not session.send_heartbeat()
            session.peer.reads.set()
            await session.peer.has(bytes(written))
            assert session.send_heartbeat()
            await session.peer.has(bytes(written) + HEARTBEAT_FRAME)

    asyncio.run(main())


def test_no_heartbeat_once_the_session_is_closing(contexts: Contexts) -> None:
    async def main() -> None:
        async with connected(contexts) as session:
            session.writer.close()
            assert session.link.state is State.CLOSED
            assert session.link._half_written()

    asyncio.run(main())


def test_a_session_can_be_given_up_and_kept_alive_again(contexts: Contexts) -> None:
    async def main() -> None:
        async with connected(contexts) as session:
            assert session.send_heartbeat()
            session.end()
            session.writer.write(FRAME)
            again = Session(session.writer, session.peer)
            assert again.send_heartbeat()
            await session.peer.has(HEARTBEAT_FRAME + FRAME + HEARTBEAT_FRAME)

    asyncio.run(main())


def test_an_engine_that_is_stuck_while_it_sends_ends_the_stream(
    contexts: Contexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the record was sent is not known then, so nothing may follow it."""
    stuck, go_on = threading.Event(), threading.Event()

    async def main() -> None:
        async with connected(contexts) as session:

            def send_some(_data: bytes, _permit: Permit) -> int | None:
                stuck.set()
                go_on.wait(30)
                return None

            monkeypatch.setattr(session.wire, "send_some", send_some)
            monkeypatch.setattr("hbshim.adapters.ssl_lock._WAITS_FOR_CALL", 10)
            engine = threading.Thread(target=session.send_heartbeat)
            engine.start()
            wait_until(stuck.is_set)
            try:
                session.writer.write(FRAME)
                assert session.link.guard.torn
                assert session.link.state is State.LOST
            finally:
                go_on.set()
                engine.join(30)

    asyncio.run(main())


def test_what_the_client_reads_meanwhile_stays_intact(contexts: Contexts) -> None:
    async def main() -> None:
        async with connected(contexts) as session:
            over = threading.Event()
            heartbeats: list[bool] = []

            def send_often(link: Link) -> None:
                while not over.is_set():
                    permit = link.guard.writers.try_acquire()
                    if permit is not None:
                        heartbeats.append(session.wire.send_heartbeat(permit))
                        link.guard.writers.release()

            engine = threading.Thread(target=send_often, args=(session.link,))
            engine.start()
            try:
                frames = number = 0
                while number < 200 or sum(heartbeats) < 20:
                    session.writer.write(FRAME * (number % 200))
                    await session.writer.drain()
                    await asyncio.sleep(0)
                    frames += number % 200
                    number += 1
            finally:
                over.set()
                engine.join(30)
            expected = frames * len(FRAME) + sum(heartbeats) * len(HEARTBEAT_FRAME)

            async def everything() -> None:
                while len(session.peer.received) < expected:
                    await asyncio.sleep(0.005)

            await asyncio.wait_for(everything(), 20)
            rest = session.peer.received.replace(HEARTBEAT_FRAME, b"")
            assert rest == FRAME * frames

    asyncio.run(main())
