"""How late an event loop runs is measured while it has a connection that is kept alive."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop
from rich.console import Console

import hbshim
from hbshim.adapters.sockets import native_socket
from hbshim.heartbeat.link import Link
from hbshim.heartbeat.service import current
from hbshim.heartbeat.wire import Wire
from hbshim.observe import listening
from hbshim.observe import loops as observed
from hbshim.observe.answer import parse
from hbshim.observe.loops import LoopStatus, watch_loop
from hbshim.observe.measures import GAUGES
from hbshim.observe.snapshot import snapshot
from hbshim.observe.table import render
from hbshim.runtime.loops import inspect_loops, kind_of
from tests.concurrency import MODEL
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(MODEL != "native", reason="asyncio runs on an unpatched library")

LOOPS = {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}
T = 0.4


@pytest.fixture
def link() -> Iterator[Link]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        peer, _ = server.accept()
    wire = Wire(native_socket(client))
    made = Link(wire, T, wire.name(), current().metrics)
    yield made
    made.close()
    client.close()
    peer.close()


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> Iterator[Any]:
    made = LOOPS[request.param]()
    yield made
    made.close()


def of(kind: str) -> list[LoopStatus]:
    return [each for each in observed.loops() if each.kind == kind and each.links]


def blocked_events() -> int:
    return current().metrics.snapshot().get("event:loop-blocked", 0)


def test_a_blocked_loop_is_late_while_it_is_blocked_and_afterwards(loop: Any, link: Link) -> None:
    kind, before = kind_of(loop), blocked_events()
    seen: list[LoopStatus] = []

    async def main() -> None:
        watch_loop(loop, link)
        watcher = threading.Thread(target=lambda: wait_until(lambda: late_now()))
        watcher.start()
        time.sleep(0.05)
        watcher.join()  # blocks the loop until it is seen from outside
        while blocked_events() == before:
            await asyncio.sleep(0.01)

    def late_now() -> bool:
        seen[:] = [each for each in of(kind) if each.latest_lateness > T / 2]
        return bool(seen)

    loop.run_until_complete(main())
    (during,) = seen
    assert during.running
    assert during.heartbeat_timeout == T
    (after,) = of(kind)
    assert not after.running
    assert after.worst_lateness >= T / 2
    assert blocked_events() == before + 1
    link.close()
    assert of(kind) == []


def test_a_loop_that_runs_is_on_time_and_no_timer_stays(loop: Any, link: Link) -> None:
    async def main() -> None:
        watch_loop(loop, link)
        probe = observed._probes[loop]
        while len(probe._lateness) < 3:
            await asyncio.sleep(0.01)
        link.close()
        while probe._due is not None:
            await asyncio.sleep(0.01)

    loop.run_until_complete(main())


def test_a_loop_is_not_kept_alive(link: Link) -> None:
    def run_one() -> weakref.ref[Any]:
        loop = asyncio.SelectorEventLoop()

        async def main() -> None:
            watch_loop(loop, link)

        loop.run_until_complete(main())
        loop.close()
        return weakref.ref(loop)

    gone = run_one()
    gc.collect()
    assert gone() is None
    assert of("asyncio") == []


def test_a_loop_in_another_thread_is_measured_there(loop: Any, link: Link) -> None:
    thread = threading.Thread(target=loop.run_forever, name="loop of this test")
    thread.start()
    try:
        wait_until(loop.is_running)
        watch_loop(loop, link)
        wait_until(lambda: bool(of(kind_of(loop))))
        (status,) = of(kind_of(loop))
        assert status.thread == "loop of this test"
        assert status.running
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def test_status_watch_and_metrics_show_it(loop: Any, link: Link) -> None:
    current().watch(link, "pthread")
    kind = kind_of(loop)

    async def main() -> None:
        watch_loop(loop, link)
        time.sleep(T)
        await asyncio.sleep(2 * T / 8)
        assert [each.kind for each in hbshim.status().loops] == [kind]
        document = json.loads(listening.answer())
        assert document["loops"][0]["running"] is True
        out = io.StringIO()
        Console(width=100, file=out).print(render([parse(json.dumps(document).encode())], 100))
        assert f"event loop {kind} in MainThread: 1 link, " in out.getvalue()
        gauges = {each.name: dict(each.read(snapshot())) for each in GAUGES}
        assert gauges["loop_worst_lateness_seconds"][(kind, "MainThread")] > T / 2

    loop.run_until_complete(main())


@pytest.mark.parametrize("start", ["asyncio.run", "run_until_complete"])
@pytest.mark.parametrize("kind", LOOPS)
def test_the_running_loops_and_their_threads_are_detected(kind: str, start: str) -> None:
    def run(main: Callable[[], Any]) -> None:
        if start == "asyncio.run" and kind == "uvloop":
            uvloop.run(main())
        elif start == "asyncio.run":
            asyncio.run(main())
        else:
            loop = LOOPS[kind]()
            loop.run_until_complete(main())
            loop.close()

    found: list[tuple[str, str]] = []

    async def main() -> None:
        report = hbshim.detect()
        found.extend((each.kind, each.thread) for each in report.loops.running)
        assert any("in thread MainThread" in sentence for sentence in report.explain())

    run(main)
    assert found == [(kind, "MainThread")]
    assert inspect_loops().running == ()


def test_a_loop_in_another_thread_is_detected() -> None:
    loop = asyncio.SelectorEventLoop()
    thread = threading.Thread(target=loop.run_forever, name="another thread")
    thread.start()
    try:
        wait_until(loop.is_running)
        assert [each.thread for each in inspect_loops().running] == ["another thread"]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
