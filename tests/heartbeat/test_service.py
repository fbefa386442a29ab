"""Links go to the engine chosen for them, move off a late hub, and stay when forced."""

from __future__ import annotations

import itertools
import socket
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from hbshim.adapters.sockets import native_socket
from hbshim.errors import WorkerError
from hbshim.heartbeat.link import Link
from hbshim.heartbeat.service import HeartbeatService
from hbshim.heartbeat.state import State
from hbshim.heartbeat.wire import HEARTBEAT_FRAME, Wire
from hbshim.heartbeat.workers import WORKERS, GreenthreadWorker
from hbshim.options import WorkerName
from hbshim.runtime.unpatched import get_native_id
from tests.full_queues import fill
from tests.interrupts import collect_everywhere
from tests.waiting import wait_until


class ParkedWorker:
    """What a green worker is in a process whose hub never runs: started, and no turn taken."""

    name = "greenthread"
    running = False

    def start(self, turn: Callable[..., Any]) -> None:
        self.running = True

    def wake(self) -> None:
        pass

    def stop(self) -> None:
        self.running = False


@pytest.fixture
def parked_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WORKERS, "greenthread", ParkedWorker)


def link_on(client: socket.socket, service: HeartbeatService, timeout: float = 0.5) -> Link:
    return Link(Wire(native_socket(client)), timeout, "test", service.metrics)


def test_a_heartbeat_at_half_of_t(
    connected: tuple[socket.socket, socket.socket],
) -> None:
    client, peer = connected
    service = HeartbeatService()
    link = link_on(client, service)
    service.watch(link, "pthread")
    assert peer.recv(8) == HEARTBEAT_FRAME
    wait_until(lambda: link.heartbeats_sent >= 1)
    link.close()
    assert link.state is State.CLOSED
    wait_until(lambda: service.engine("pthread").next_due is None)
    assert service.links() == []


def test_a_parked_hub_loses_its_links_to_the_native_thread(
    connected: tuple[socket.socket, socket.socket], parked_hub: None
) -> None:
    client, peer = connected
    service = HeartbeatService()
    link = link_on(client, service)
    service.watch(link, "greenthread")
    assert peer.recv(8) == HEARTBEAT_FRAME
    kinds = [event.kind for event in service.metrics.take_events()]
    assert kinds == ["worker-late", "worker-moved"]
    assert service.moved
    assert [engine.worker.name for engine in service.engines()] == ["greenthread", "pthread"]


def test_a_link_that_the_user_put_on_a_parked_hub_stays_there(
    connected: tuple[socket.socket, socket.socket], parked_hub: None
) -> None:
    client, peer = connected
    service = HeartbeatService()
    link = link_on(client, service)
    service.watch(link, "greenthread", forced=True)
    wait_until(lambda: service.metrics.snapshot().get("event:worker-late"))
    peer.sendall(HEARTBEAT_FRAME)  # keeps the peer from looking dead
    assert link.heartbeats_sent == 0
    assert not service.moved


def test_forced_and_other_links_on_one_hub_are_each_watched_over(
    connected: tuple[socket.socket, socket.socket], parked_hub: None
) -> None:
    client, _ = connected
    service = HeartbeatService()
    chosen, forced = link_on(client, service, timeout=5), link_on(client, service, timeout=5)
    service.watch(chosen, "greenthread")
    service.watch(forced, "greenthread", forced=True)
    wait_until(lambda: service.moved)
    native = service.engine("pthread")
    wait_until(lambda: chosen in native.items())
    assert forced not in native.items()


def test_no_wake_up_once_the_hub_has_no_links(
    connected: tuple[socket.socket, socket.socket],
) -> None:
    class Hub(ParkedWorker):
        def start(self, turn: Callable[..., Any]) -> None:
            self.turn = turn
            turn()

    client, _ = connected
    service = HeartbeatService()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(WORKERS, "greenthread", Hub)
        link = link_on(client, service, timeout=0.5)
        service.watch(link, "greenthread")
        link.close()
        hub: Any = service.engine("greenthread").worker
        hub.turn()
        native = service.engine("pthread")
        wait_until(lambda: native.next_due is None)
        assert not service.moved
        # The next link is watched over again.
        again = link_on(client, service, timeout=0.5)
        service.watch(again, "greenthread")
        wait_until(lambda: service.moved)


class CountedItem:
    """No link, and due again at once."""

    timeout = 60.0
    checks = 0

    def check(self, now: float) -> float:
        self.checks += 1
        return now


def test_an_item_that_is_no_link_is_checked_by_the_next_worker_too() -> None:
    service = HeartbeatService()
    item = CountedItem()
    service.watch_item(item)
    wait_until(lambda: item.checks)
    service._replace_thread(service.engine("pthread"), "a test")
    seen = item.checks
    wait_until(lambda: item.checks > seen + 1)
    service.engine("pthread").retire()


def test_a_silent_peer_is_shut_down_and_reported(
    connected: tuple[socket.socket, socket.socket],
) -> None:
    client, _ = connected
    service = HeartbeatService()
    link = link_on(client, service, timeout=0.2)
    service.watch(link, "pthread")
    wait_until(lambda: "event:link-silent" in service.metrics.snapshot())
    assert link.state is State.LOST
    with pytest.raises(OSError):
        client.sendall(b"publish")
    assert [event.kind for event in service.metrics.take_events()] == ["link-silent"]


def test_unread_bytes_that_close_the_window_keep_a_peer_from_being_called_dead(
    connected: tuple[socket.socket, socket.socket],
) -> None:
    client, peer = connected
    fill(peer)
    service = HeartbeatService()
    link = link_on(client, service, timeout=0.2)
    service.watch(link, "pthread")
    wait_until(lambda: link.heartbeats_sent >= 8)
    assert link.state is State.ALIVE


def test_little_that_waits_is_no_excuse_for_a_silence(
    connected: tuple[socket.socket, socket.socket],
) -> None:
    client, peer = connected
    service = HeartbeatService()
    link = link_on(client, service, timeout=0.2)
    peer.sendall(b"\x01\x00\x01")
    service.watch(link, "pthread")
    wait_until(lambda: link.state is State.LOST)
    assert client.recv(10) == b"\x01\x00\x01"


@pytest.fixture
def checks(
    connected: tuple[socket.socket, socket.socket],
) -> tuple[socket.socket, socket.socket, Link, Callable[..., State]]:
    """A link, a peer, and a way to check the link when its kernel reports so long a silence."""
    client, peer = connected
    link = link_on(client, HeartbeatService(), timeout=1.0)
    view = link.wire.kernel_view()

    def look(now: float, silence: float) -> State:
        link.wire.kernel_view = lambda: view._replace(received_ago=silence)
        link.wire.plainly_idle = lambda *_: False
        link.check(now)
        return link.state

    return client, peer, link, look


def test_a_heartbeat_that_the_client_read_does_not_put_off_the_end_of_a_silence(
    checks: tuple[socket.socket, socket.socket, Link, Callable[..., State]],
) -> None:
    _, _, link, look = checks
    now = time.monotonic() + 100
    assert look(now - 1.1, silence=0.95) is State.ALIVE
    link.guard.last_read = now - 1.0
    assert look(now, silence=2.05) is State.LOST


def test_bytes_that_waited_in_a_silence_put_it_off_from_when_they_were_read(
    checks: tuple[socket.socket, socket.socket, Link, Callable[..., State]],
) -> None:
    client, peer, link, look = checks
    now = time.monotonic() + 100
    fill(peer)
    assert look(now - 3.0, silence=1.5) is State.ALIVE
    client.settimeout(0.5)
    with pytest.raises(TimeoutError):
        # The peer's kernel has some more to send.
        while client.recv(1 << 20):
            pass
    link.guard.last_read = now - 1.5
    assert look(now, silence=4.5) is State.ALIVE
    assert look(now + 0.6, silence=5.1) is State.LOST


def test_a_write_on_a_closed_peer_fails_instead_of_being_swallowed(
    connected: tuple[socket.socket, socket.socket],
) -> None:
    client, peer = connected
    link = link_on(client, HeartbeatService())
    peer.close()
    wait_until(lambda: link.wire.kernel_view().peer_closed)
    link.before_idle_write()
    with pytest.raises(BrokenPipeError):
        client.send(b"publish")


def test_concurrent_writers_are_reported_once(
    connected: tuple[socket.socket, socket.socket],
) -> None:
    client, _ = connected
    service = HeartbeatService()
    link = link_on(client, service, timeout=30)
    write = link.guard.around_send(
        lambda nested: nested and nested(), lambda: None, lambda _: False
    )
    write(lambda: write(None))
    link.check(0.0)
    link.check(0.0)
    kinds = [event.kind for event in service.metrics.take_events()]
    assert kinds == ["concurrent-writers"]


def test_after_a_broken_off_write_no_heartbeat_is_sent_and_it_is_reported_once(
    connected: tuple[socket.socket, socket.socket],
) -> None:
    client, _ = connected
    service = HeartbeatService()
    link = link_on(client, service, timeout=30)

    def break_off(_: object) -> NoReturn:
        raise TimeoutError

    write = link.guard.around_send(break_off, lambda: None, lambda _: True)
    with pytest.raises(TimeoutError):
        write(b"frame")
    link.timeout = 0.01  # a heartbeat would have been due long ago
    link.check(0.0)
    link.check(0.0)
    assert link.heartbeats_sent == 0
    kinds = [event.kind for event in service.metrics.take_events()]
    assert kinds.count("write-broken-off") == 1


@pytest.mark.parametrize("worker", ["greenthread", "tpool"])
def test_a_green_worker_without_a_green_library_says_what_to_do(
    connected: tuple[socket.socket, socket.socket],
    worker: WorkerName,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client, _ = connected
    for library in ("eventlet", "gevent"):
        monkeypatch.delitem(sys.modules, library, raising=False)
    service = HeartbeatService()
    with pytest.raises(WorkerError, match="heartbeat_in_pthread=auto"):
        service.watch(link_on(client, service), worker)


def test_without_tcp_info_the_guard_counts(connected: tuple[socket.socket, socket.socket]) -> None:
    client, peer = connected
    service = HeartbeatService()
    link = Link(Wire(native_socket(client), tcp_info=False), 0.5, "test", service.metrics)
    service.watch(link, "pthread")
    assert peer.recv(8) == HEARTBEAT_FRAME
    peer.sendall(HEARTBEAT_FRAME)
    wait_until(lambda: service.metrics.snapshot().get("heartbeats_drained"))
    wait_until(lambda: link.state is State.LOST)  # the peer said nothing more


def test_a_hosts_thread_without_a_python_frame_has_not_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Apache's threads run no Python between two requests; a forced worker stays where it is."""
    worker = GreenthreadWorker()
    worker._token, worker._hub_thread = object(), get_native_id()
    monkeypatch.setattr("sys._current_frames", dict)
    assert worker.running
    worker._hub_thread = -1
    assert not worker.running


def test_a_child_drops_the_other_links_where_one_cannot_be_dropped(
    connected: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = HeartbeatService()
    links = [link_on(connected[0], service, timeout=60) for _ in range(3)]
    for link in links:
        service.watch(link, "pthread")
    refused = service.links()[0]

    def orphan(link: Link, drop: Callable[..., Any] = Link.orphan) -> None:
        if link is refused:
            raise OSError("cannot be dropped")
        drop(link)

    monkeypatch.setattr(Link, "orphan", orphan)
    service.orphan_links()
    states = [link.state is State.ORPHANED for link in links if link is not refused]
    assert states == [True, True]
    refused.close()


def test_an_engine_is_added_while_it_is_asked_whether_a_worker_is_late() -> None:
    service = HeartbeatService()
    engines: dict[Any, Any] = service._engines
    hub = SimpleNamespace(worker=SimpleNamespace(name="greenthread"), lateness=())
    engines.update({("greenthread", number): hub for number in range(30)})
    numbers = itertools.count(100)

    def add() -> None:
        engines["greenthread", next(numbers)] = hub

    assert collect_everywhere(service.worker_late, add)
