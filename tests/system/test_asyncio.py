"""An event loop that is blocked: aio-pika's connections stay open, and without hbshim they end.

``HBSHIM_ASYNCIO_BLOCKS=100`` blocks each loop 100 times, for 5 T each time.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import stat
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import aio_pika
import aiormq
import pytest

import hbshim
from hbshim.adapters.aiormq.heartbeat import transport_of, writer_of
from hbshim.doctor import examine
from hbshim.heartbeat import service
from hbshim.heartbeat.state import State
from tests.asyncio_clients import (
    KEPT_ALIVE,
    LIMIT,
    RECOVERABLE,
    T,
    Way,
    block_by_computing,
    block_by_sleeping,
    publish,
    publish_on,
    until,
)
from tests.concurrency import MODEL
from wsgi_harness.stack.broker import Broker

pytestmark = pytest.mark.skipif(MODEL != "native", reason="asyncio runs on an unpatched library")

#: How often the event loop is blocked, each time for 5 T.
BLOCKS = int(os.environ.get("HBSHIM_ASYNCIO_BLOCKS", "1"))


@pytest.fixture(autouse=True)
def uninstalled() -> Iterator[None]:
    yield
    hbshim.uninstall()


@pytest.fixture(params=KEPT_ALIVE, ids="-".join)
def way(request: pytest.FixtureRequest, broker: Broker) -> Way:
    loop, scheme = request.param
    return Way(loop, scheme, broker)


@pytest.mark.parametrize(
    "block", [block_by_sleeping, pytest.param(block_by_computing, marks=pytest.mark.extended)]
)
def test_a_connection_outlives_a_blocked_loop_and_a_stock_one_does_not(
    way: Way, block: Callable[[float], None]
) -> None:
    async def main() -> None:
        async with way.opened() as stock:
            await publish(stock)
            hbshim.install()
            known = service.current().links()
            async with way.opened() as kept:
                (link,) = [each for each in service.current().links() if each not in known]
                # One channel: aiormq waits no longer than T for the broker to close one.
                channel = await kept.channel()
                for _ in range(BLOCKS):
                    await publish_on(channel)
                    sent = link.heartbeats_sent
                    block(5 * T)
                    await publish_on(channel)
                    assert link.heartbeats_sent - sent >= 8
                # Not by a publish: aiormq's errors differ with the moment at which it ends.
                await until(lambda: not stock.transport.connection.is_opened)

    way.run(main())


def test_tls_on_uvloop_is_left_alone_as_the_doctor_says(broker: Broker) -> None:
    way = Way("uvloop", "amqps", broker)

    async def main() -> None:
        hbshim.install()
        async with way.opened() as connection:
            await publish(connection)
            finding = examine().finding("event-loop")
            assert "longer than 1.5 T = 1.5 s" in finding.sentence
            assert "--loop asyncio" in finding.remedy
            beneath = connection.transport.connection
            block_by_sleeping(4 * T)
            await until(lambda: not beneath.is_opened)

    way.run(main())


class BesideThem(NamedTuple):
    """What a process has beside a connection: they must be as many as before it."""

    threads: int
    descriptors: int
    links: int


def beside() -> BesideThem:
    gc.collect()
    descriptors = len(os.listdir("/proc/self/fd"))
    return BesideThem(threading.active_count(), descriptors, len(service.current().links()))


async def open_and_close(way: Way) -> None:
    async with way.opened() as connection:
        await publish(connection)


def test_loops_in_several_threads_are_blocked_and_paused_and_leave_nothing(broker: Broker) -> None:
    """The programs pause reading, too: what the broker sends waits in the receive queue."""
    ways = [Way(loop, scheme, broker) for loop, scheme in KEPT_ALIVE]
    hbshim.install()
    for way in ways:  # the first of a kind opens what stays open for the next
        way.run(open_and_close(way))
    before, together = beside(), threading.Barrier(len(ways), timeout=60)
    failures: list[BaseException] = []

    async def main(way: Way) -> None:
        async with way.opened() as connection:
            channel = await connection.channel()
            transport = transport_of(connection.transport.connection)
            transport.pause_reading()
            together.wait()
            block_by_sleeping(4 * T)
            transport.resume_reading()
            await publish_on(channel)

    def run(way: Way) -> None:
        try:
            way.run(main(way))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(way,)) for way in ways]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert beside() == before


def test_a_loop_that_is_closed_with_an_open_connection_leaves_nothing(way: Way) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.system.asyncio_closed_loop", way.loop],
        input=way.url(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_dead_peer_that_reads_no_more_ends_a_connection_with_a_full_buffer(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aiormq.Connection, "HEARTBEAT_GRACE_MULTIPLIER", 1)

    async def main() -> None:
        hbshim.install()
        with way.relay(receive_buffer=8192, send_buffer=8192) as relay:
            connection = await aio_pika.connect(way.url(relay))
            channel = await connection.channel()
            link = connection.transport.connection.hbshim_link
            relay.deaf()
            large = aio_pika.Message(bytes(8 << 20))
            writing = asyncio.ensure_future(channel.default_exchange.publish(large, "nowhere"))
            await until(link._half_written)
            await until(lambda: link.state is State.LOST)
            relay.resume()
            with pytest.raises(RECOVERABLE):
                await asyncio.wait_for(writing, LIMIT)
            await asyncio.wait_for(connection.close(), LIMIT)

    way.run(main())


def test_a_forked_child_leaves_its_parents_connection_alone(way: Way) -> None:
    async def main() -> None:
        hbshim.install()
        with way.relay() as relay:
            connection = await aio_pika.connect(way.url(relay))
            channel = await connection.channel()
            link = connection.transport.connection.hbshim_link
            for act in ACTS_OF_A_CHILD:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # Python 3.12: a fork among threads
                    pid = os.fork()
                if pid == 0:
                    in_child(act, connection, way)
                status: list[int] = []
                await until(lambda pid=pid, status=status: ended(pid, status))  # type: ignore[misc]
                assert (act.__name__, os.waitstatus_to_exitcode(status[0])) == (act.__name__, 0)
                await publish_on(channel)
            sent = link.heartbeats_sent
            await until(lambda: link.heartbeats_sent > sent)
            assert link.state is State.ALIVE
            await connection.close()

    way.run(main())


def ended(pid: int, status: list[int]) -> bool:
    found, code = os.waitpid(pid, os.WNOHANG)
    if found:
        status.append(code)
    return bool(found)


def in_child(act: Callable[[Any, Way], None], connection: Any, way: Way) -> None:
    """Do one thing to the parent's connection, and end the process."""
    code = 1
    try:
        signal.alarm(int(LIMIT))
        warnings.simplefilter("ignore")
        act(connection, way)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def write_in_child(connection: Any, way: Way) -> None:
    writer = writer_of(connection.transport.connection)
    number = writer.get_extra_info("socket").fileno()
    with pytest.raises(RECOVERABLE, match="before a fork"):
        writer.write(b"of the child")
    if way.loop == "uvloop":
        # It closes this number later, so no other connection may get it.
        assert stat.S_ISCHR(os.fstat(number).st_mode)


def close_in_child(connection: Any, _way: Way) -> None:
    link = connection.transport.connection.hbshim_link
    writer_of(connection.transport.connection).close()
    assert link.wire.closed


def collect_in_child(connection: Any, _way: Way) -> None:
    link = connection.transport.connection.hbshim_link
    del connection
    gc.collect()
    assert link.inherited


def connect_in_child(_connection: Any, way: Way) -> None:
    async def main() -> None:
        async with way.opened() as own:
            link = own.transport.connection.hbshim_link
            await until(lambda: link.heartbeats_sent)
            await publish(own)

    way.run(main())


ACTS_OF_A_CHILD = (write_in_child, close_in_child, collect_in_child, connect_in_child)
