"""Two-way traffic of large bodies in an event loop, with heartbeats forced from another thread.

``HBSHIM_ASYNCIO_SECONDS=600`` makes it ten minutes for each way. Over plain TCP the bytes pass a
narrow relay, which parses every frame; buffers are small, so that writes end in mid-frame over and
over. Under TLS the SSL object is watched from beneath hbshim, and each call lingers inside. The
controls have no guard, or no lock: they must see torn frames, and two threads in one session.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import aio_pika
import pytest

import hbshim
from hbshim.heartbeat import engine as engine_module
from hbshim.heartbeat import schedule, service
from hbshim.heartbeat.link import Link
from hbshim.heartbeat.state import State
from tests.asyncio_clients import LIMIT, LOOPS, Way, publish_on, until
from tests.concurrency import MODEL
from tests.forcing import NoLock, blind_guard, check_often, force_heartbeats
from tests.system.ssl_witness import Witness
from wsgi_harness.stack.broker import Broker
from wsgi_harness.wire.relay import Relay

pytestmark = [
    pytest.mark.skipif(MODEL != "native", reason="asyncio runs on an unpatched library"),
    # A busy relay, a busy loop and a busy heartbeat thread.
    pytest.mark.alone,
]

SECONDS = float(os.environ.get("HBSHIM_ASYNCIO_SECONDS", "5"))
EVERY = 0.005
MEBIBYTE = 1 << 20
#: Bytes of bodies: several frames, and one.
SIZES = (MEBIBYTE, 10, 100_000, 0, 5_000)
#: Messages under way, so that the broker writes while the client does.
WINDOW = 3
#: Publishes that are cancelled.
CANCELLED = 40
#: Seconds to linger inside of each call into a session.
LINGER = 0.001


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(schedule, "SLOT", schedule.SLOT)
    monkeypatch.setattr(engine_module, "SLOT", schedule.SLOT)
    yield
    hbshim.uninstall()
    # Links that were forced are in cycles, and would be checked all the time until then.
    gc.collect()


@pytest.fixture
def narrow_relay(broker: Broker) -> Iterator[Relay]:
    with Relay(broker.host, broker.amqp_port, receive_buffer=8192, send_buffer=8192) as relay:
        relay.slow(4 * MEBIBYTE)
        yield relay


@pytest.fixture
def witness(monkeypatch: pytest.MonkeyPatch) -> Witness:
    """Watches each session of asyncio that begins from now on."""
    watching = Witness(LINGER)
    create: Any = ssl.SSLContext._wrap_bio  # type: ignore[attr-defined]
    monkeypatch.setattr(ssl.SSLContext, "_wrap_bio", watching.watching(create), raising=False)
    return watching


async def connect(url: str) -> tuple[Any, Link]:
    """Open a connection whose heartbeats are all from hbshim, with a small send buffer."""
    known = service.current().links()
    connection = await asyncio.wait_for(aio_pika.connect(url), LIMIT)
    (link,) = [link for link in service.current().links() if link not in known]
    link.wire.native.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    return connection, link


async def converse(connection: Any, seconds: float) -> int:
    """Publish and consume for so long; return the number of messages that came back as sent."""
    loop = asyncio.get_running_loop()
    channel = await connection.channel()
    await channel.set_qos(prefetch_count=WINDOW)
    queue = await channel.declare_queue(exclusive=True)
    until_time, window, came = loop.time() + seconds, asyncio.Semaphore(WINDOW), 0

    async def publish(number: int) -> None:
        body = number.to_bytes(8, "big") + os.urandom(SIZES[number % len(SIZES)])
        sent[number] = body
        await channel.default_exchange.publish(aio_pika.Message(body), queue.name)

    async def on_message(message: Any) -> None:
        nonlocal came
        number = int.from_bytes(message.body[:8], "big")
        assert message.body == sent.pop(number)
        came += 1
        window.release()
        await message.ack()

    sent: dict[int, bytes] = {}
    await queue.consume(on_message)
    number, tasks = 0, set()
    try:
        while loop.time() < until_time:
            await asyncio.wait_for(window.acquire(), 60)
            task = asyncio.ensure_future(publish(number))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            number += 1
        await asyncio.wait_for(asyncio.gather(*tasks), 60)
        await until(lambda: came == number)
    finally:
        # aiormq 6.9 never ends a publish whose writer has failed before.
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return came


@pytest.mark.parametrize("loop", LOOPS)
def test_no_frame_is_torn(narrow_relay: Relay, broker: Broker, loop: str) -> None:
    relay = narrow_relay
    way = Way(loop, "amqp", broker)

    async def main() -> None:
        hbshim.install(worker="pthread")
        connection, link = await connect(way.url(relay, heartbeat=5))
        check_often(EVERY)
        force_heartbeats(link, EVERY)
        assert await converse(connection, SECONDS) > SECONDS
        assert link.state is State.ALIVE
        sent = link.heartbeats_sent
        await connection.close()
        await until(lambda: relay.seen("closed"))
        assert len(relay.seen("heartbeat", "client")) >= sent >= 5 * SECONDS
        print(f"{loop}: {sent} heartbeats in {relay.seen('closed')[0].frames} frames")  # noqa: T201

    way.run(main())
    assert relay.errors == []


@pytest.mark.parametrize("loop", LOOPS)
def test_without_a_guard_this_test_sees_torn_frames(
    narrow_relay: Relay, broker: Broker, loop: str
) -> None:
    relay = narrow_relay
    way = Way(loop, "amqp", broker)

    async def main() -> None:
        hbshim.install(worker="pthread")
        connection, link = await connect(way.url(relay, heartbeat=5))
        blind_guard(link)
        check_often(EVERY)
        force_heartbeats(link, EVERY)
        talking = asyncio.ensure_future(converse(connection, 60))
        await until(lambda: relay.errors)
        relay.stop()  # aiormq would wait for the broker's answer
        talking.cancel()
        await asyncio.gather(talking, return_exceptions=True)
        await connection.close()

    way.run(main())
    assert {event.kind for event in relay.errors} & {"malformed", "torn"}


@pytest.mark.parametrize("loop", LOOPS)
def test_cancelled_publishes_tear_no_frame_and_leave_no_task(
    narrow_relay: Relay, broker: Broker, loop: str
) -> None:
    relay = narrow_relay
    way = Way(loop, "amqp", broker)

    async def main() -> None:
        hbshim.install(worker="pthread")
        connection, link = await connect(way.url(relay, heartbeat=5))
        channel = await connection.channel()
        tasks = len(asyncio.all_tasks())
        check_often(EVERY)
        force_heartbeats(link, EVERY)
        cancelled = 0
        for number in range(CANCELLED):
            publishing = asyncio.ensure_future(publish_on(channel, os.urandom(100_000)))
            await asyncio.sleep(number % 10 * EVERY)
            publishing.cancel()
            await asyncio.gather(publishing, return_exceptions=True)
            cancelled += publishing.cancelled()
        assert cancelled > CANCELLED / 2
        await publish_on(channel)
        assert link.state is State.ALIVE
        await until(lambda: len(asyncio.all_tasks()) == tasks)
        await connection.close()

    way.run(main())
    assert relay.errors == []


def test_no_record_is_corrupted_and_no_two_threads_meet(broker: Broker, witness: Witness) -> None:
    way = Way("asyncio", "amqps", broker)

    async def main() -> None:
        hbshim.install(worker="pthread")
        connection, link = await connect(way.url(heartbeat=5))
        check_often(EVERY)
        force_heartbeats(link, EVERY)
        assert await converse(connection, SECONDS) > SECONDS
        assert link.state is State.ALIVE
        assert link.heartbeats_sent >= 5 * SECONDS
        print(f"TLS: {link.heartbeats_sent} heartbeats, {witness.report()}")  # noqa: T201
        await connection.close()

    way.run(main())
    report = witness.report()
    # The loop's, the heartbeat thread, and one that has replaced it on a busy machine.
    assert report["threads"] >= 2
    assert report["overlaps"] == 0, report


def test_without_its_lock_two_threads_meet(broker: Broker, witness: Witness) -> None:
    way = Way("asyncio", "amqps", broker)

    async def main() -> None:
        hbshim.install(worker="pthread")
        connection, link = await connect(way.url(heartbeat=5))
        link.wire._session.lock = NoLock()  # type: ignore[attr-defined]
        check_often(EVERY)
        force_heartbeats(link, EVERY)
        talking = asyncio.ensure_future(converse(connection, 60))
        await until(lambda: witness.report()["overlaps"])
        talking.cancel()
        await asyncio.gather(talking, return_exceptions=True)
        await connection.close()

    way.run(main())
