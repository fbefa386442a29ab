"""What would end the thread that owns the sockets, or fill the proxy's memory."""

from __future__ import annotations

import contextlib
import errno
import shutil
import tempfile
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import zmq

from hbshim.heartbeat import service
from hbshim.messaging.zmq.frames import Header, Kind, unpack
from hbshim.messaging.zmq.link import Link
from hbshim.messaging.zmq.loop import Loop, try_send
from hbshim.messaging.zmq.proxy import clients, pubsub, requests
from hbshim.messaging.zmq.proxy.clients import REPLY_GRACE
from hbshim.messaging.zmq.proxy.endpoints import ProxySettings
from hbshim.messaging.zmq.proxy.pubsub import PubSubProxy
from hbshim.messaging.zmq.proxy.requests import RequestProxy
from hbshim.messaging.zmq.settings import SocketSettings
from hbshim.messaging.zmq.sockets import make
from hbshim.messaging.zmq.traffic import Traffic
from hbshim.metrics import Metrics
from tests.interrupts import interrupt_everywhere
from tests.messaging.zmq.nodes import LIMIT, own_address
from tests.waiting import wait_until


@pytest.fixture
def proxy(loop: Loop) -> Iterator[RequestProxy]:
    """One whose loop runs only when the test runs it."""
    directory = tempfile.mkdtemp(prefix="hbz")
    settings = ProxySettings("one", own_address(), directory)
    yield RequestProxy(loop, settings, None, Metrics())
    shutil.rmtree(directory)


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.end()


def test_an_error_of_the_poll_is_reported_and_the_loop_goes_on(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = Metrics()
    monkeypatch.setattr(service.current(), "metrics", metrics)
    poll, errors = loop._poller.poll, [OSError("no memory"), ValueError("not a socket")]

    def fail_first(timeout: int) -> object:
        if errors:
            raise errors.pop()
        return poll(timeout)

    monkeypatch.setattr(loop._poller, "poll", fail_first)
    thread = threading.Thread(target=loop.run, daemon=True)
    thread.start()
    ran = threading.Event()
    loop.post(ran.set)
    assert ran.wait(LIMIT)
    loop.stop()
    thread.join(LIMIT)
    assert [event.detail for event in metrics.take_events()] == [
        "ValueError: not a socket",
        "OSError: no memory",
    ]


def test_no_exception_at_any_instant_of_a_command_leaves_the_next_one_without_a_byte(
    loop: Loop,
) -> None:
    """Without it the loop sleeps on, until a timer is due."""

    def post() -> None:
        # As while the loop polls.
        loop._sleeping = True
        loop.post(lambda: None)

    def check() -> None:
        woken = not loop._sleeping
        while loop._commands:
            loop._commands.popleft()
        read = b""
        with contextlib.suppress(BlockingIOError):
            read = loop._wake_in.recv(4096)
        assert bool(read) >= woken

    assert interrupt_everywhere(post, check) > 3


def test_a_listener_that_is_closed_sends_what_it_keeps_first(loop: Loop) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    directory = tempfile.mkdtemp(prefix="hbz")
    address = f"ipc://{directory}/servers"
    received: list[list[bytes]] = []
    left: list[bool] = []
    link = Link(
        *(loop, SocketSettings(linger=LIMIT), address, [b"key"], 10),
        *(60.0, Traffic(Metrics()), lambda _: None),
    )
    link.open()
    # It is not connected yet.
    for number in range(3):
        link.reply(b"client", Header(Kind.RESULT, bytes(16)), b"%d" % number)
    link.close()
    loop.when_left(lambda: left.append(True))
    loop.run_once(0)
    assert (link.size > 0, left) == (True, [])
    with context.socket(zmq.ROUTER) as router:
        router.bind(address)
        wait_until(lambda: loop.run_once(0.01) or left, LIMIT)
        assert link.size == 0
        while len(received) < 4 and router.poll(int(1000 * LIMIT)):
            received.append(router.recv_multipart())
    assert [unpack(message[1]).body for message in received[:3]] == [b"0", b"1", b"2"]
    context.term()
    shutil.rmtree(directory)


def test_a_socket_whose_end_cannot_be_observed_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = Loop()
    left: list[bool] = []
    push = make(loop.context, "client-cast", SocketSettings(linger=LIMIT))
    loop.leave(push)
    loop.when_left(lambda: left.append(True))
    assert not left

    def no_descriptor(*_arguments: object) -> None:
        raise zmq.ZMQError(errno.EMFILE)

    with monkeypatch.context() as patched:
        patched.setattr(loop.context, "socket", no_descriptor)
        loop.close(push)
    assert left == [True]
    loop.end()


def test_a_loop_ends_while_a_socket_that_was_closed_still_sends() -> None:
    """What waits for the socket learns of the end of the loop."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    loop = Loop()
    left: list[bool] = []
    with context.socket(zmq.PULL) as pull:
        pull.set(zmq.RCVHWM, 1)
        address = f"tcp://{own_address()}:9504"
        pull.bind(address)
        push = make(loop.context, "client-cast", SocketSettings(linger=0.5))
        loop.look_after(push)
        push.connect(address)
        wait_until(lambda: push.poll(10, zmq.POLLOUT), LIMIT)
        while not try_send(push, [bytes(1_000_000)]):
            pass  # until nothing more is taken
        loop.close(push)
        loop.when_left(lambda: left.append(True))
        assert not left
        loop.end()
        assert left == [True]
    context.term()


def test_clients_that_come_and_go_without_a_call_do_not_stay(
    proxy: RequestProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "CLIENTS_KEPT", 3)
    for number in [0, *range(5), 2]:
        proxy._on_client([b"c%d" % number, b""])
    assert list(proxy._clients._known) == [b"c3", b"c4", b"c2"]


def test_a_reply_that_cannot_be_sent_is_held_for_its_own_time_and_then_reported(
    proxy: RequestProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    for module in (clients, requests):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    proxy._clients.reply(b"gone", Kind.RESULT, [b"reply"])
    for _ in range(3):
        clock[0] += REPLY_GRACE / 4
        proxy._clients.send_held(b"gone")  # as when there was no space for it
    proxy._check()
    assert proxy._metrics.take_events() == []
    clock[0] += REPLY_GRACE / 4
    proxy._check()
    proxy._check()
    (event,) = proxy._metrics.take_events()
    assert (event.kind, event.link) == ("zmq-dropped", "one")
    assert "0 requests" in event.detail
    assert "1 replies" in event.detail
    assert proxy._metrics.snapshot()["zmq_replies_dropped"] == 1


def test_a_proxy_in_c_that_ends_by_itself_has_failed_and_old_figures_are_none(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tempfile.mkdtemp(prefix="hbz")
    proxy = PubSubProxy(loop, "fanout", ProxySettings("one", own_address(), directory))
    assert proxy.statistics() is not None
    monkeypatch.setattr(pubsub, "_FRESH", 0.0)
    assert proxy.statistics() is None
    proxy._control.send(b"TERMINATE")  # nothing of hbshim's told it to
    loop.run()
    assert proxy.failed
    shutil.rmtree(directory)
