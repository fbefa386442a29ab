"""The thread of the watch socket has a successor when an exception ends it."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

from hbshim.observe.protocol import REQUEST
from hbshim.observe.server import WatchServer
from hbshim.observe.socketfile import SocketFile
from hbshim.runtime.unpatched import original_module
from tests.concurrency import needs_os_threads
from tests.threads import threads_of
from tests.waiting import wait_until

pytestmark = needs_os_threads


def ask(path: str) -> bytes:
    socket = original_module("socket")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(path)
        try:
            client.sendall(REQUEST)
            return client.recv(100)
        except OSError:
            return b""


def test_an_exception_from_outside_does_not_end_the_watch(tmp_path: Path) -> None:
    path = str(tmp_path / "watch.sock")
    errors: list[Any] = []
    starts: list[Any] = []
    start = WatchServer._start

    class Counting(WatchServer):
        def _start(self) -> None:
            starts.append(None)
            start(self)

    server = Counting(SocketFile(path), lambda: b"answer", errors.append)
    try:
        wait_until(lambda: ask(path) == b"answer")
        (thread,) = threads_of(server)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread), ctypes.py_object(SystemExit)
        )
        wait_until(lambda: ask(path) == b"answer" and len(starts) == 2)
        assert ask(path) == b"answer"
    finally:
        server.stop()
    wait_until(lambda: threads_of(server) == set())
    assert len(starts) == 2
    assert errors == []
