"""What would end the thread that owns the sockets, or fill the proxy's memory."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator

import pytest

from hbshim.heartbeat import service
from hbshim.messaging.zmq.loop import Loop
from hbshim.messaging.zmq.proxy import requests
from hbshim.messaging.zmq.proxy.requests import ProxySettings, RequestProxy
from hbshim.messaging.zmq.settings import SocketSettings
from hbshim.metrics import Metrics
from tests.messaging.zmq.nodes import LIMIT, own_address


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


def test_clients_that_come_and_go_without_a_call_do_not_stay(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "_CLIENTS_KEPT", 3)
    directory = tempfile.mkdtemp(prefix="hbz")
    try:
        settings = ProxySettings("one", own_address(), 9501, directory, SocketSettings())
        proxy = RequestProxy(loop, settings, None, Metrics())
        for number in [0, *range(5), 2]:
            proxy._on_probe(b"c%d" % number)
        assert list(proxy._clients) == [b"c3", b"c4", b"c2"]
    finally:
        shutil.rmtree(directory)
