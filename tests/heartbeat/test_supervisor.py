"""A heartbeat thread that is dead or stuck is replaced, and one that is merely slow is not."""

import ctypes
import sys
import threading
import time

import pytest

from hbshim.adapters.sockets import native_socket
from hbshim.heartbeat.engine import Engine
from hbshim.heartbeat.link import Link
from hbshim.heartbeat.service import REPLACING_LIMIT, HeartbeatService
from hbshim.heartbeat.supervisor import GRACE_AT_LEAST, Supervisor
from hbshim.heartbeat.wire import HEARTBEAT_FRAME, Wire
from hbshim.metrics import Metrics
from tests.heartbeat.test_engine import Clock, IdleWorker, Item
from tests.interrupts import interrupt_everywhere
from tests.waiting import wait_until
from tests.worlds import WORLD, needs_os_threads

pytestmark = needs_os_threads


@pytest.fixture
def supervised():
    """An engine whose turns the test takes itself, its supervisor, and what that one reported."""
    clock, broken = Clock(), []
    engine = Engine(IdleWorker(), Metrics(), clock)
    supervisor = Supervisor(engine, lambda _, reason: broken.append(reason), clock=clock)
    supervisor.timeout = 2.0
    engine.watch(item := Item())
    clock.now += 0.125
    engine.run_once()
    assert len(item.looked_at) == 1
    return engine, supervisor, clock, broken, item


def pass_time(supervisor, clock, checks, meanwhile=lambda: None):
    for _ in range(checks):
        clock.now += supervisor.check()
        meanwhile()


def test_a_thread_that_takes_its_turns_is_left_alone(supervised):
    engine, supervisor, clock, broken, _ = supervised
    pass_time(supervisor, clock, 20, engine.run_once)
    assert broken == []


def test_a_thread_that_makes_no_progress_is_reported(supervised):
    engine, supervisor, clock, broken, _ = supervised
    due = engine.next_due
    while not broken:
        assert clock.now < due + 3 * GRACE_AT_LEAST
        pass_time(supervisor, clock, 1)
    assert broken[0].startswith("it was stuck for")
    assert clock.now > due + GRACE_AT_LEAST


def test_a_thread_that_waits_for_its_share_of_the_machine_gets_more_time(supervised):
    engine, supervisor, clock, broken, _ = supervised
    supervisor._elsewhere = lambda: False
    due = engine.next_due
    while not broken:
        assert clock.now < due + 2 * supervisor.timeout
        pass_time(supervisor, clock, 1)
    assert clock.now >= due + supervisor.timeout


def test_a_thread_in_the_middle_of_many_checks_is_left_alone(supervised):
    engine, supervisor, clock, broken, _ = supervised

    def progress():
        engine.checks += 1

    pass_time(supervisor, clock, 20, progress)
    assert broken == []


def test_a_supervisor_that_was_late_itself_reports_nothing(supervised):
    """The whole process was stopped, or a call of C kept the GIL."""
    _, supervisor, clock, broken, _ = supervised
    for _ in range(20):
        clock.now += supervisor.check() + 30
    assert broken == []
    pass_time(supervisor, clock, 4)
    assert broken


def test_a_thread_that_ended_is_reported_at_the_next_check(supervised):
    engine, supervisor, _, broken, _ = supervised
    engine.worker.running = False
    assert supervisor.check() is not None
    assert broken == ["it ended"]


def test_a_supervisor_of_an_idle_engine_does_not_wake_up(supervised):
    engine, supervisor, _, broken, item = supervised
    engine.forget(item)
    engine.run_once()
    assert supervisor.check() is None
    assert broken == []


@pytest.fixture
def service(connected):
    service = HeartbeatService()
    yield service
    service._supervisor.stop()
    service.engine("pthread").worker.stop()


def watched(service, sock, timeout=0.5):
    link = Link(Wire(native_socket(sock)), timeout, "test", service.metrics)
    service.watch(link, "pthread")
    return link


def test_heartbeats_go_on_while_the_thread_is_stuck_in_a_finalizer(connected, service):
    client, peer = connected
    link = watched(service, client, timeout=1.0)
    stuck, go_on = threading.Event(), threading.Event()

    class Finalized:
        def __del__(self):
            stuck.set()
            go_on.wait(30)

    class Blocking(Item):
        timeout, every = 1.0, 0.1

        def check(self, now):
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
            wait_until(lambda sent=sent: link.heartbeats_sent > sent)
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


def end_by(error, idents):
    for ident in idents:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(error))


def threads_of(*owners):
    """Identities of the threads that run a method of one of these objects."""
    found = set()
    for ident, frame in sys._current_frames().items():
        while frame is not None:
            if any(frame.f_locals.get("self") is owner for owner in owners):
                found.add(ident)
            frame = frame.f_back
    return found


def wait_until_with(peer, condition):
    """Wait, while the peer sends heartbeats: the threads of a lost link have nothing to do."""

    def met():
        peer.sendall(HEARTBEAT_FRAME)
        return condition()

    wait_until(met)


def test_threads_that_an_exception_ends_have_successors(connected, service):
    client, peer = connected
    link = watched(service, client)
    worker, supervisor = service.engine("pthread").worker, service._supervisor
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


def test_a_client_that_uses_its_link_has_dead_threads_replaced(connected, service, monkeypatch):
    """The last resort: neither thread could start its successor."""
    client, peer = connected
    link = watched(service, client)
    engine, supervisor = service.engine("pthread"), service._supervisor
    threads = engine.worker._thread, supervisor
    wait_until_with(peer, lambda: len(threads_of(*threads)) == 2)
    with monkeypatch.context() as patch:
        patch.setattr(engine.worker._thread, "_on_death", lambda _: None)
        patch.setattr(supervisor, "ensure", lambda: None)
        end_by(SystemExit, threads_of(*threads))
        wait_until_with(peer, lambda: not supervisor.running and not engine.worker.running)
    link.before_idle_write()
    sent = link.heartbeats_sent
    wait_until_with(peer, lambda: link.heartbeats_sent > sent)
    assert supervisor.running


def test_a_link_that_comes_while_the_thread_is_replaced_is_not_lost(connected, service):
    """The old thread goes on in that moment, and takes what is meant for its successor."""
    client, peer = connected
    first = watched(service, client, timeout=30)
    engine = service.engine("pthread")
    old_run_once = engine.worker._thread._run_once
    placements, late = service.placements, []

    def placements_with_a_late_link():
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


def test_a_thread_that_is_being_replaced_is_not_replaced_again(connected, service):
    client, _ = connected
    watched(service, client, timeout=30)
    engine = service.engine("pthread")
    placements = service.placements

    def placements_of_one_of_two():
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
    connected, service, monkeypatch
):
    client, _ = connected
    watched(service, client, timeout=30)
    service._replacing_until = time.monotonic() + REPLACING_LIMIT
    engine = service.engine("pthread")
    wait_until(lambda: service._replace_thread(engine, "it ended") or service.metrics.recorded())


@pytest.mark.skipif(WORLD != "native", reason="a signal handler of Python's own")
def test_no_exception_at_any_instant_keeps_the_supervisor_from_being_started():
    def make():
        return Supervisor(Engine(IdleWorker(), Metrics()), lambda _engine, _reason: None)

    supervisors = [make()]

    def started():
        before = supervisors[-1]
        supervisors.append(make())
        thread = threading.Thread(target=before.ensure)
        thread.start()
        thread.join(30)
        wait_until(lambda: before._parked)
        before.stop()

    assert interrupt_everywhere(lambda: supervisors[-1].ensure(), started)
    supervisors[-1].stop()
