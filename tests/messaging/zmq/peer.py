"""A process on a machine of its own: ``peer.py server|client URL IPC_DIRECTORY TOPIC [NAME]``.

A server prints each number that it works on. A client reads commands, and prints the outcome of
each call. All lines are JSON; times are those of the machine's monotonic clock, which its processes
share. HBSHIM_TEST_CLOCK has seconds by which the wall clock of the process is wrong.
"""
# ruff: noqa: E402 - the clock is wrong before anything reads it.

from __future__ import annotations

import os
import time

_offset = float(os.environ.get("HBSHIM_TEST_CLOCK", "0"))
_true_time = time.time
time.time = lambda: _true_time() + _offset

import itertools
import json
import sys
import threading
from typing import Any

from hbshim import messaging
from hbshim.errors import HbshimError

#: Seconds for what takes none; the machine may be busy.
LIMIT = 30.0


def emit(**line: object) -> None:
    """Write a line, whole, from any thread."""
    os.write(1, (json.dumps(line) + "\n").encode())


class Endpoint:
    """Works on numbers."""

    def __init__(self, name: str) -> None:
        self._name = name

    def work(self, _request: messaging.Request, number: int, seconds: float) -> str:
        emit(ran=number, name=self._name)
        time.sleep(seconds)
        return self._name


def serve(driver: messaging.Driver, target: messaging.Target, name: str) -> None:
    """Serve until standard input ends, then stop gracefully."""
    server = messaging.Server(driver, target, [Endpoint(name)], workers=8)
    assert server.start(LIMIT)
    emit(started=name, clock=time.time())
    sys.stdin.read()
    emit(stopped=server.stop(LIMIT))


class Caller:
    """Calls on command."""

    def __init__(self, driver: messaging.Driver, target: messaging.Target) -> None:
        self._client = messaging.Client(driver, target)
        # No two clients have the same.
        self._numbers = itertools.count(os.getpid() * 1_000_000)
        self._resting = threading.Event()
        self._threads: list[threading.Thread] = []

    def run(self) -> None:
        for line in sys.stdin:
            command = json.loads(line)
            getattr(self, command.pop("do"))(**command)

    def call(self, number: int, seconds: float, timeout: float) -> None:
        """Call once, in a thread of its own."""
        threading.Thread(target=self._call, args=(number, seconds, timeout), daemon=True).start()

    def load(self, threads: int, seconds: float, timeout: float, pause: float) -> None:
        """Call from many threads, until :meth:`rest`."""
        self._resting.clear()

        def work() -> None:
            while not self._resting.is_set():
                self._call(next(self._numbers), seconds, timeout)
                time.sleep(pause)

        self._threads = [threading.Thread(target=work) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def rest(self) -> None:
        """End the load, once its calls have ended."""
        self._resting.set()
        for thread in self._threads:
            thread.join()
        emit(rested=True)

    def _call(self, number: int, seconds: float, timeout: float) -> None:
        outcome: dict[str, Any] = {"number": number, "began": time.monotonic(), "error": ""}
        try:
            made = self._client.prepare(timeout=timeout)
            outcome["host"] = made.call("work", number=number, seconds=seconds)
        except HbshimError as error:
            outcome["error"] = type(error).__name__
        emit(**outcome, ended=time.monotonic())


def main(role: str, url: str, ipc: str, topic: str, name: str = "") -> None:
    driver = messaging.connect(url, rpc_zmq_ipc_dir=ipc)
    target = messaging.Target(topic)
    if role == "server":
        serve(driver, target, name)
    else:
        emit(started=name, clock=time.time())
        Caller(driver, target).run()
    driver.close()


main(*sys.argv[1:])
