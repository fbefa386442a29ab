"""A heartbeat thread that is dead or stuck is replaced, and one that is merely slow is not."""

from __future__ import annotations

import ctypes
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from hbshim.adapters.sockets import native_socket
from hbshim.heartbeat.engine import Engine
from hbshim.heartbeat.link import Link
from hbshim.heartbeat.service import REPLACING_LIMIT, HeartbeatService
from hbshim.heartbeat.supervisor import GRACE_AT_LEAST, Supervisor
from hbshim.heartbeat.wire import HEARTBEAT_FRAME, Wire
from hbshim.heartbeat.workers import Worker
from hbshim.metrics import Metrics
from tests.concurrency import MODEL, needs_os_threads
from tests.heartbeat.test_engine import Clock, IdleWorker, Item
from tests.interrupts import interrupt_everywhere
from tests.threads import threads_of
from tests.waiting import wait_until

pytestmark = needs_os_threads


@pytest.fixture
def supervised() -> tuple[Engine, Supervisor, Clock, list[Any], Item]:
    """An engine whose turns the test takes itself, its supervisor, and what that one reported."""
    clock, broken = Clock(), []
    engine = Engine(cast(Worker, IdleWorker()), Metrics(), clock)
    supervisor = Supervisor(engine, lambda _, reason: broken.append(reason), clock=clock)
    supervisor.timeout = 2.0
    engine.watch(item := Item())
    clock.now += 0.125
    engine.run_once()
    assert len(item.checks) == 1
    return engine, supervisor, clock, broken, item


def pass_time(
    supervisor: Supervisor,
    clock: Clock,
    checks: int,
    meanwhile: Callable[..., Any] | Callable[[], None] = lambda: None,
) -> None:
    for _ in range(checks):
        clock.now += supervisor.check()  # type: ignore[operator]
        meanwhile()


def test_a_thread_that_runs_in_time_is_left_alone(
    supervised: tuple[Engine, Supervisor, Clock, list[Any], Item],
) -> None:
    engine, supervisor, clock, broken, _ = supervised
    pass_time(supervisor, clock, 20, engine.run_once)
    assert broken == []


def test_a_thread_that_makes_no_progress_is_reported(
    supervised: tuple[Engine, Supervisor, Clock, list[Any], Item],
) -> None:
    engine, supervisor, clock, broken, _ = supervised
    due = engine.next_due
    assert due is not None
    while not broken:
        assert clock.now < due + 3 * GRACE_AT_LEAST
        pass_time(supervisor, clock, 1)
    assert broken[0].startswith("it was stuck for")
    assert clock.now > due + GRACE_AT_LEAST


def test_a_thread_that_waits_for_its_share_of_the_machine_gets_more_time(
    supervised: tuple[Engine, Supervisor, Clock, list[Any], Item],
) -> None:
    engine, supervisor, clock, broken, _ = supervised
    supervisor._elsewhere = lambda: False
    due = engine.next_due
    assert due is not None
    while not broken:
        assert clock.now < due + 2 * supervisor.timeout
        pass_time(supervisor, clock, 1)
    assert clock.now >= due + supervisor.timeout


def test_a_thread_in_the_middle_of_many_checks_is_left_alone(
    supervised: tuple[Engine, Supervisor, Clock, list[Any], Item],
) -> None:
    engine, supervisor, clock, broken, _ = supervised

    def progress() -> None:
        engine.checks += 1

    pass_time(supervisor, clock, 20, progress)
    assert broken == []


def test_a_supervisor_that_was_late_itself_reports_nothing(
    supervised: tuple[Engine, Supervisor, Clock, list[Any], Item],
) -> None:
    """The whole process was stopped, or a call of C kept the GIL."""
    _, supervisor, clock, broken, _ = supervised
    for _ in range(20):
        clock.now += supervisor.check() + 30  # type: ignore[operator]
    assert broken == []
    pass_time(supervisor, clock, 4)
    assert broken


def test_a_thread_that_ended_is_reported_at_the_next_check(
    supervised: tuple[Engine, Supervisor, Clock, list[Any], Item],
) -> None:
    engine, supervisor, _, broken, _ = supervised
    engine.worker.running = False  # type: ignore[misc]
    assert supervisor.check() is not None
    assert broken == ["it ended"]


def test_a_supervisor_of_an_idle_engine_does_not_wake_up(
    supervised: tuple[Engine, Supervisor, Clock, list[Any], Item],
) -> None:
    engine, supervisor, _, broken, item = supervised
    engine.forget(item)
    engine.run_once()
    assert supervisor.check() is None
    assert broken == []


@pytest.fixture
def service(connected: tuple[socket.socket, socket.socket]) -> Iterator[HeartbeatService]:
    service = HeartbeatService()
    yield service
    service._supervisor.stop()
    service.engine("pthread").worker.stop()


def watched(service: HeartbeatService, sock: socket.socket, timeout: float = 0.5) -> Link:
    link = Link(Wire(native_socket(sock)), timeout, "test", service.metrics)
    service.watch(link, "pthread")
    return link


def test_heartbeats_go_on_while_the_thread_is_stuck_in_a_finalizer(
    connected: tuple[socket.socket, socket.socket], service: HeartbeatService
) -> None:
    client, peer = connected
    # The peer is silent at first: a machine that stalls for seconds must not make it look dead.
    link = watched(service, client, timeout=3.0)
    stuck, go_on = threading.Event(), threading.Event()

    class Finalized:
        def __del__(self) -> None:
            stuck.set()
            go_on.wait(30)

    class Blocking(Item):
        timeout, every = 1.0, 0.1

        def check(self, now: float) -> float | None:
            if not stuck.is_set():
                Finalized()
            return super().check(now)

    blocking = Blocking()
    engine = service.engine("pthread")
    engine.watch(blocking)
    try:
        assert stuck.wait(10)
        before = link.heartbeats_sent
        for _ in range(3):
            peer.sendall(HEARTBEAT_FRAME)
            sent = link.heartbeats_sent
            wait_until(lambda sent=sent: link.heartbeats_sent > sent)  # type: ignore[misc]
        assert link.heartbeats_sent >= before + 3
        # Nor does a client wait.
        started = time.monotonic()
        link.before_idle_write()
        link.close()
        assert time.monotonic() - started < 5
    finally:
        go_on.set()
    (event,) = [event for event in service.metrics.take_events() if event.kind != "peer-closed"]
    assert event.kind == "worker-replaced"
    assert "__del__ (test_supervisor.py:" in event.detail


def end_by(error: type[SystemExit], idents: set[int]) -> None:
    for ident in idents:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(error))


def wait_until_with(peer: socket.socket, condition: Callable[..., Any]) -> None:
    """Wait, while the peer sends heartbeats: the threads of a lost link have nothing to do."""

    def met() -> bool:
        peer.sendall(HEARTBEAT_FRAME)
        return condition()

    wait_until(met)


def test_threads_that_an_exception_ends_have_successors(
    connected: tuple[socket.socket, socket.socket], service: HeartbeatService
) -> None:
    client, peer = connected
    link = watched(service, client)
    worker: Any = service.engine("pthread").worker
    supervisor = service._supervisor
    assert supervisor is not None
    old, supervised_by = worker._thread, supervisor.started
    wait_until_with(peer, lambda: len(threads_of(old, supervisor)) == 2)
    end_by(SystemExit, threads_of(old, supervisor))
    wait_until_with(peer, lambda: old.ended and worker.running)
    wait_until_with(peer, lambda: supervisor.started > supervised_by and supervisor.running)
    wait_until_with(peer, lambda: len(threads_of(worker._thread, supervisor)) == 2)
    sent = link.heartbeats_sent
    wait_until_with(peer, lambda: link.heartbeats_sent > sent)
    kinds = [event.kind for event in service.metrics.take_events()]
    assert "worker-replaced" in kinds


def test_a_client_that_uses_its_link_has_dead_threads_replaced(
    connected: tuple[socket.socket, socket.socket],
    service: HeartbeatService,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The last resort: neither thread could start its successor."""
    client, peer = connected
    link = watched(service, client)
    engine, supervisor = service.engine("pthread"), service._supervisor
    assert supervisor is not None
    worker: Any = engine.worker
    threads = worker._thread, supervisor
    wait_until_with(peer, lambda: len(threads_of(*threads)) == 2)
    with monkeypatch.context() as patch:
        patch.setattr(worker._thread, "_on_death", lambda _: None)
        patch.setattr(supervisor, "ensure", lambda: None)
        end_by(SystemExit, threads_of(*threads))
        wait_until_with(peer, lambda: not supervisor.running and not engine.worker.running)
    link.before_idle_write()
    sent = link.heartbeats_sent
    wait_until_with(peer, lambda: link.heartbeats_sent > sent)
    assert supervisor.running


def test_a_link_that_comes_while_the_thread_is_replaced_is_not_lost(
    connected: tuple[socket.socket, socket.socket], service: HeartbeatService
) -> None:
    """The old thread goes on in that moment, and takes what is meant for its successor."""
    client, peer = connected
    first = watched(service, client, timeout=30)
    engine = service.engine("pthread")
    worker: Any = engine.worker
    old_run_once = worker._thread._run_once
    placements = service.placements
    late: list[Any] = []

    def placements_with_a_late_link() -> list[tuple[Link, Engine]]:
        found = placements()
        if not late:
            late.append(Link(Wire(native_socket(peer)), 30, "late", service.metrics))
            service.watch(late[0], "pthread")
            old_run_once()
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service, "placements", placements_with_a_late_link)
        service._replace_thread(engine, "it was stuck")
    wait_until(lambda: {first, *late} <= set(engine.items()))


def test_a_thread_that_is_being_replaced_is_not_replaced_again(
    connected: tuple[socket.socket, socket.socket], service: HeartbeatService
) -> None:
    client, _ = connected
    watched(service, client, timeout=30)
    engine = service.engine("pthread")
    placements = service.placements

    def placements_of_one_of_two() -> list[Any]:
        patch.setattr(service, "placements", placements)
        service._replace_thread(engine, "it ended")  # another thread has noticed it, too
        return placements()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service, "placements", placements_of_one_of_two)
        service._replace_thread(engine, "it ended")
    assert [event.kind for event in service.metrics.take_events()] == ["worker-replaced"]
    service._replace_thread(engine, "it ended")
    assert [event.kind for event in service.metrics.take_events()] == ["worker-replaced"]


def test_a_thread_that_was_stopped_while_it_replaced_the_worker_is_not_waited_for(
    connected: tuple[socket.socket, socket.socket],
    service: HeartbeatService,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client, _ = connected
    watched(service, client, timeout=30)
    service._replacing_until = time.monotonic() + REPLACING_LIMIT
    engine = service.engine("pthread")
    wait_until(lambda: service._replace_thread(engine, "it ended") or service.metrics.recorded())


@pytest.mark.skipif(MODEL != "native", reason="a signal handler of Python's own")
def test_no_exception_at_any_instant_keeps_the_supervisor_from_being_started() -> None:
    def make() -> Supervisor:
        return Supervisor(
            Engine(cast(Worker, IdleWorker()), Metrics()), lambda _engine, _reason: None
        )

    supervisors = [make()]

    def started() -> None:
        before = supervisors[-1]
        supervisors.append(make())
        thread = threading.Thread(target=before.ensure)
        thread.start()
        thread.join(30)
        wait_until(lambda: before._parked)
        before.stop()

    assert interrupt_everywhere(lambda: supervisors[-1].ensure(), started)
    supervisors[-1].stop()
