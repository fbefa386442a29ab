"""aiormq and aio-pika on the real broker, on asyncio's own event loop and on uvloop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aio_pika
import aiormq
import pytest
from aiormq.connection import TransportFactory

import hbshim
from hbshim.adapters.aiormq import heartbeat as adapter
from hbshim.errors import AttachError, OptionError
from hbshim.heartbeat import service
from hbshim.heartbeat.guard import IDLE_BEFORE_CHECK
from hbshim.heartbeat.link import Link
from hbshim.heartbeat.state import State
from tests.asyncio_clients import KEPT_ALIVE, LIMIT, LOOPS, RECOVERABLE, T, Way, publish, until
from tests.concurrency import MODEL
from tests.waiting import wait_until
from wsgi_harness.stack.broker import Broker

pytestmark = pytest.mark.skipif(MODEL != "native", reason="asyncio runs on an unpatched library")

CONNECTS = [aio_pika.connect, aio_pika.connect_robust]


@pytest.fixture(params=KEPT_ALIVE, ids="-".join)
def way(request: pytest.FixtureRequest, broker: Broker) -> Way:
    loop, scheme = request.param
    return Way(loop, scheme, broker)


def link_of(connection: Any) -> Any:
    """The link of a connection of aio-pika or aiormq; None if it has none."""
    beneath = getattr(connection, "transport", None)
    return getattr(connection if beneath is None else beneath.connection, "hbshim_link", None)


def heartbeat_tasks() -> list[str]:
    """Tasks of aiormq that send heartbeats, in the running loop."""
    names = [str(task.get_coro()) for task in asyncio.all_tasks()]
    return [name for name in names if "__heartbeat" in name]


@pytest.mark.parametrize("connect", CONNECTS)
def test_keep_alive_sends_heartbeats(way: Way, connect: Callable[..., Any]) -> None:
    async def main() -> None:
        async with way.opened(connect) as connection:
            await until(heartbeat_tasks)
            assert hbshim.keep_alive(connection) is connection
            await until(lambda: link_of(connection).heartbeats_sent)
            assert heartbeat_tasks() == []
            await publish(connection)

    way.run(main())


def test_keep_alive_takes_a_connection_of_aiormq(way: Way) -> None:
    async def main() -> None:
        connection = await aiormq.connect(way.url())
        hbshim.keep_alive(connection, liveness_timeout=50)
        link = link_of(connection)
        hbshim.keep_alive(connection, liveness_timeout=70)
        assert link is link_of(connection)
        assert link.liveness_timeout == 70
        await until(lambda: link.heartbeats_sent)
        await connection.close()
        assert link.state is State.CLOSED
        with pytest.raises(AttachError, match="not open"):
            hbshim.keep_alive(connection)

    way.run(main())


def test_install_reaches_connections_opened_from_now_on(way: Way) -> None:
    async def main() -> None:
        async with way.opened() as before:
            hbshim.install()
            async with way.opened() as after:
                hbshim.uninstall()
                async with way.opened() as later:
                    kept = [link_of(c) is not None for c in (before, after, later)]
                    assert kept == [False, True, False]

    way.run(main())


def test_no_task_of_aiormq_sends_heartbeats_any_more(way: Way) -> None:
    async def main() -> None:
        hbshim.install()
        async with way.opened() as connection:
            await until(lambda: link_of(connection).heartbeats_sent)
            assert heartbeat_tasks() == []

    way.run(main())


def test_a_frame_reaches_the_kernel_before_the_iteration_of_the_loop_ends(way: Way) -> None:
    """uvloop before 0.23 would keep it, and the program may block the rest of the iteration."""

    async def main() -> None:
        hbshim.install()
        async with way.opened() as connection:
            underlay = connection.transport.connection
            writer = adapter.writer_of(underlay)
            heartbeat = bytes([8, 0, 0, 0, 0, 0, 0, 206])
            writer.write(heartbeat)
            assert writer.transport.get_write_buffer_size() == 0
            writer.writelines([heartbeat, heartbeat])
            assert not link_of(connection)._half_written()
            await publish(connection)

    way.run(main())


def test_options_in_the_url_are_read_and_checked(way: Way) -> None:
    async def main() -> None:
        hbshim.install()
        async with way.opened(hbshim_liveness_timeout=77) as connection:
            assert link_of(connection).liveness_timeout == 77
        with pytest.raises(OptionError, match="worker='fiber'"):
            await aio_pika.connect(way.url(hbshim_worker="fiber"))
        with pytest.raises(OptionError, match="hbshim_wrong is not an option"):
            await aio_pika.connect(way.url(hbshim_wrong="1"))

    way.run(main())


def test_a_connection_without_heartbeats(way: Way, events: Callable[..., Any]) -> None:
    async def main() -> None:
        async with way.opened(heartbeat=0) as connection:
            with pytest.raises(AttachError, match="negotiated no heartbeat"):
                hbshim.keep_alive(connection)
            hbshim.install(heartbeat=T)
            async with way.opened(heartbeat=0) as asking:
                link = link_of(asking)
                assert link.timeout == T
                await until(lambda: link.heartbeats_sent)
                await publish(asking)

    way.run(main())
    assert events() == ["not-negotiated"]


@pytest.mark.parametrize("how", ["install", "keep_alive"])
def test_a_robust_connection_is_kept_alive_after_each_reconnection(way: Way, how: str) -> None:
    async def main() -> None:
        if how == "install":
            hbshim.install(liveness_timeout=88)
        with way.relay() as relay:
            url = way.url(relay)
            connection = await aio_pika.connect_robust(url, reconnect_interval=0.1)
            if how == "keep_alive":
                hbshim.keep_alive(connection, liveness_timeout=77)
                hbshim.keep_alive(connection, liveness_timeout=88)
            seen: list[Link] = []
            for number in range(3):
                await until(lambda: link_of(connection) not in (None, *seen))
                link = link_of(connection)
                seen.append(link)
                assert link.liveness_timeout == 88
                if number < 2:
                    relay.reset()
            await until(lambda: link.heartbeats_sent)
            await publish(connection)
            await connection.close()
            assert [link.state in (State.CLOSED, State.LOST) for link in seen] == [True] * 3

    way.run(main())


def test_a_broker_may_be_silent_for_as_long_as_for_aiormq_itself(
    broker: Broker, events: Callable[..., Any]
) -> None:
    """As one that a busy machine starves; aiormq waits for 3 (T + 1) s."""
    way = Way("uvloop", "amqp", broker)

    async def main() -> None:
        with way.relay() as relay:
            stock = await aio_pika.connect(way.url(relay))
            hbshim.install()
            kept = await aio_pika.connect(way.url(relay))
            wire = link_of(kept).wire
            relay.deaf(sides=["server"])
            await until(lambda: wire.closed or wire.kernel_view().received_ago > 2.5 * T)
            relay.resume()
            for connection in (stock, kept):
                await publish(connection)
                await connection.close()

    way.run(main())
    assert events() == []


def test_a_peer_that_goes_silent_is_reported_and_a_robust_connection_reconnects(
    way: Way, events: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aiormq.Connection, "HEARTBEAT_GRACE_MULTIPLIER", 1)

    async def main() -> None:
        hbshim.install()
        with way.relay() as relay:
            url = way.url(relay)
            connection = await aio_pika.connect_robust(url, reconnect_interval=0.1)
            link = link_of(connection)
            relay.deaf(swallow=True)
            await until(lambda: link.state is State.LOST)
            relay.resume()
            await until(lambda: link_of(connection) not in (None, link))
            await publish(connection)
            await connection.close()

    way.run(main())
    assert events() == ["link-silent"]


def test_a_write_to_a_closed_peer_raises_the_librarys_error_and_sends_nothing(
    way: Way,
) -> None:
    def prevented() -> int:
        return service.current().metrics.snapshot().get("stale_writes_prevented", 0)

    async def main() -> None:
        hbshim.install()
        with way.relay() as relay:
            connection = await aio_pika.connect(way.url(relay))
            channel = await connection.channel()
            link = link_of(connection)
            before = prevented()
            relay.stop()
            # The event loop is blocked: it does not see the end before it writes.
            wait_until(lambda: link.wire.kernel_view().peer_closed)
            time.sleep(2 * IDLE_BEFORE_CHECK)
            with pytest.raises(RECOVERABLE):
                await channel.default_exchange.publish(aio_pika.Message(b""), "without-a-reader")
            await connection.close()
        assert prevented() == before + 1

    way.run(main())


@pytest.mark.parametrize("how", ["install", "keep_alive"])
def test_a_close_after_a_long_block_is_announced_to_the_broker(
    way: Way, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """aiormq would drop a connection that it has read nothing from, and not send ``Close``."""
    monkeypatch.setattr(aiormq.Connection, "HEARTBEAT_GRACE_MULTIPLIER", 0.1)
    written: list[bytes] = []

    async def main() -> None:
        if how == "install":
            hbshim.install()
        connection = await aio_pika.connect(way.url())
        if how == "keep_alive":
            hbshim.keep_alive(connection)
        beneath = connection.transport.connection
        writer = adapter.writer_of(beneath)
        write = writer.write
        monkeypatch.setattr(writer, "write", lambda data: written.append(data) or write(data))
        time.sleep(0.3)
        assert not beneath.is_connection_was_stuck
        await connection.close()
        # It is still the limit for a broker that reads nothing.
        assert getattr(beneath, adapter._GRACE) == (T + 1) * 0.1

    way.run(main())
    assert [data[7:11] for data in written] == [b"\0\x0a\0\x32"]  # connection.close


@pytest.mark.parametrize("loop", LOOPS)
def test_a_close_waits_no_longer_than_aiormqs_limit_for_a_broker_that_reads_nothing(
    loop: str, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker in a memory alarm reads nothing, and sends heartbeats."""
    monkeypatch.setattr(aiormq.Connection, "HEARTBEAT_GRACE_MULTIPLIER", 0.01)
    way = Way(loop, "amqp", broker)

    async def main() -> None:
        hbshim.install()
        with way.relay(receive_buffer=8192, send_buffer=8192) as relay:
            connection = await aio_pika.connect(way.url(relay, heartbeat=60))
            channel = await connection.channel(publisher_confirms=False)
            relay.deaf(sides=["client"])
            large = aio_pika.Message(bytes(8 << 20))
            writing = asyncio.ensure_future(channel.default_exchange.publish(large, "nowhere"))
            await until(link_of(connection)._half_written)
            link, closing = link_of(connection), asyncio.ensure_future(connection.close())
            # Without the limit: when the broker misses heartbeats, after 120 s.
            await until(lambda: link.state is State.CLOSED)
            relay.stop()
            await asyncio.gather(writing, closing, return_exceptions=True)

    way.run(main())


def test_a_connection_that_is_closed_or_dropped_leaves_nothing(way: Way) -> None:
    links: list[weakref.ref[Any]] = []
    connections: list[weakref.ref[Any]] = []

    async def main() -> None:
        hbshim.install()
        for _ in range(3):
            async with way.opened() as connection:
                link = link_of(connection)
                links.append(weakref.ref(link))
                connections.append(weakref.ref(connection.transport.connection))
            assert link.state is State.CLOSED
            assert link.wire.closed
            del connection, link

    way.run(main())
    gc.collect()
    assert [reference() for reference in (*links, *connections)] == [None] * 6


class UnixFactory(TransportFactory):  # type: ignore[misc]
    """A program's own way to a broker behind a Unix socket, as a proxy beside it listens on."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def create(self, url: Any, **_arguments: Any) -> Any:
        return await asyncio.open_unix_connection(self._path)


@contextlib.contextmanager
def unix_proxy(path: Path, broker: Broker) -> Iterator[None]:
    """Forward one connection to the broker, in threads."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(str(path))
        server.listen()

        def forward(source: socket.socket, target: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while data := source.recv(65536):
                    target.sendall(data)
                target.shutdown(socket.SHUT_WR)

        def serve() -> None:
            client, _ = server.accept()
            with client, socket.create_connection((broker.host, broker.amqp_port)) as upstream:
                back = threading.Thread(target=forward, args=(upstream, client))
                back.start()
                forward(client, upstream)
                back.join()

        serving = threading.Thread(target=serve)
        serving.start()
        yield
        serving.join(LIMIT)


def test_a_connection_over_a_unix_socket_outlives_a_blocked_loop(
    broker: Broker, tmp_path: Path
) -> None:
    way, path = Way("asyncio", "amqp", broker), tmp_path / "broker"

    async def main() -> None:
        hbshim.install()
        connection = aiormq.Connection(way.url(), transport_factory=UnixFactory(path))
        await connection.connect()
        link = link_of(connection)
        assert link.name == f"unix -> {path}"
        time.sleep(4 * T)
        assert link.heartbeats_sent >= 6
        await (await connection.channel()).basic_publish(b"", routing_key="nowhere")
        await connection.close()

    with unix_proxy(path, broker):
        way.run(main())


def test_a_connection_of_another_loop_is_refused(way: Way) -> None:
    async def main() -> None:
        async with way.opened() as connection:
            caught: list[BaseException] = []

            def elsewhere() -> None:
                try:
                    hbshim.keep_alive(connection)
                except AttachError as error:
                    caught.append(error)

            await asyncio.to_thread(elsewhere)
            assert "runs in another thread" in str(caught[0])
            assert link_of(connection) is None

    way.run(main())


def test_an_unknown_version_works_as_without_hbshim(
    way: Way, events: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        hbshim.install()
        monkeypatch.setattr(adapter, "__version__", "99.0")
        async with way.opened() as connection:
            assert link_of(connection) is None
            await until(heartbeat_tasks)
            await publish(connection)

    way.run(main())
    assert events() == ["not-kept-alive"]


def test_a_connection_that_cannot_be_watched_has_aiormqs_own_heartbeats(
    way: Way, events: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object) -> None:
        raise RuntimeError("no thread can be started")

    async def main() -> None:
        hbshim.install()
        monkeypatch.setattr(adapter, "watch", fail)
        async with way.opened() as connection:
            assert link_of(connection) is None
            await until(heartbeat_tasks)
            await publish(connection)
            writer = adapter.writer_of(connection.transport.connection)
            assert "write" not in {**vars(writer), **getattr(writer.transport, "__dict__", {})}

    way.run(main())
    assert events() == ["not-kept-alive"]


class CancellingReader:
    """Cancels the task that opens a connection when it waits for bytes for the n-th time."""

    def __init__(self, reader: asyncio.StreamReader, factory: CancellingFactory) -> None:
        self._reader, self._factory = reader, factory

    async def readexactly(self, size: int) -> bytes:
        self._factory.reads += 1
        if self._factory.reads == self._factory.nth:
            self._factory.cancel()
            await asyncio.sleep(0)
        return await self._reader.readexactly(size)

    def at_eof(self) -> bool:
        return self._reader.at_eof()


class CancellingFactory(TransportFactory):  # type: ignore[misc]
    """Opens a stream as aiormq does; 0 stands for the moment at which TCP connects."""

    def __init__(self, stock: TransportFactory, nth: int) -> None:
        self._stock = stock
        self.nth, self.reads = nth, 0
        self.writer: Any = None
        self.cancel: Callable[[], object] = lambda: None

    async def create(self, url: Any, **arguments: Any) -> Any:
        if self.nth == 0:
            asyncio.get_running_loop().call_soon(self.cancel)
        reader, self.writer = await self._stock.create(url, **arguments)
        return CancellingReader(reader, self), self.writer


#: For each of the three frames that the broker sends until a connection is open: of its first byte,
#: of the rest of its header, and of its payload.
READS = 3 * 3


async def left_open_by_a_cancelled_opening(way: Way, nth: int) -> bool:
    """Cancel the opening of a connection; return whether its transport stays open."""
    connection = aiormq.Connection(way.url())
    factory = CancellingFactory(connection._transport_factory, nth)
    connection._transport_factory = factory
    task = asyncio.ensure_future(connection.connect())
    factory.cancel = task.cancel
    with pytest.raises(asyncio.CancelledError):
        await task
    await connection.close()
    me = asyncio.current_task()
    await until(lambda: asyncio.all_tasks() <= {me})
    if factory.writer is None or factory.writer.transport.is_closing():
        return False
    factory.writer.transport.abort()
    return True


def test_opening_can_be_cancelled_at_any_moment(way: Way) -> None:
    """aiormq before 7 leaves a transport open whose opening is cancelled before the first frame."""

    async def left_open() -> list[bool]:
        return [await left_open_by_a_cancelled_opening(way, nth) for nth in range(READS + 1)]

    async def main() -> None:
        stock, links = await left_open(), len(service.current().links())
        hbshim.install()
        kept = await left_open()
        assert [nth for nth in range(READS + 1) if kept[nth] > stock[nth]] == []
        gc.collect()
        assert len(service.current().links()) == links
        async with way.opened() as connection:
            await publish(connection)

    way.run(main())
