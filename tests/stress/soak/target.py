"""The process that endures: connects and closes thousands of times, and lives for hours.

    python -m tests.stress.soak.target native|eventlet|gevent kombu|pika

Its configuration is one line of JSON on standard input; it reports on standard output,
a line at a time: ``census`` (at rest, before and after each phase), ``sample`` (while
it lives) and ``end``.
"""
# ruff: noqa: E402 - patch first, import later.

from __future__ import annotations

import sys

MODEL, LIBRARY = sys.argv[1:3]
if MODEL == "eventlet":
    import eventlet

    eventlet.monkey_patch()
elif MODEL == "gevent":
    from gevent import monkey

    monkey.patch_all()

import dataclasses
import importlib
import json
import os
import threading
import time
from typing import Any

import hbshim
from hbshim.heartbeat import service
from hbshim.heartbeat.syscalls import gil_keeping_calls
from hbshim.runtime.unpatched import original, start_native_thread
from tests.stress.clients import CLIENTS, AmqpClient
from tests.stress.soak.measure import Census, descriptors, resident, threads

#: Cycles before the first count: caches are filled, the engine runs.
_WARM_UP = 40
#: Cycles side by side.
_ABREAST = 4
#: One cycle in so many is not closed: the application just lets go of its connection.
_DROPPED = 10
#: Seconds after which a thread without work wakes up, to measure how late that is.
_NAP = 0.02
#: Seconds that everything may take to come to rest.
_REST_LIMIT = 20.0
#: A connection that endures publishes each so many T.
_SPEAKS_EVERY = 3

_write = original("os", "write")
_native_sleep = original("time", "sleep")


def write(kind: str, **details: Any) -> None:
    """Write a line; from any thread."""
    _write(1, (json.dumps({"kind": kind, "at": time.monotonic(), **details}) + "\n").encode())


class Target:
    """One process's life."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = config
        self._phase = "start"
        self._cycles_done = 0
        self._before: Census | None = None

    def live(self) -> None:
        """Go through all phases."""
        start_native_thread(self._sample_for_ever, lambda: None)
        # Made once, by the first heartbeat, which may come after the first count.
        gil_keeping_calls()
        self._cycle(_WARM_UP)
        self._before = self._rest("warm-up")
        for number in ("first", "second"):
            self._phase = f"{number} cycles"
            self._cycle(self._config["cycles"])
            self._rest(self._phase)
            if number == "first":
                self._phase = "endurance"
                self._endure()
                self._rest(self._phase)
        write("end")

    def _open(self, name: str) -> AmqpClient:
        where = ("host", "port", "user", "password", "heartbeat")
        opening = {key: self._config[key] for key in where}
        client = CLIENTS[LIBRARY]({**opening, "name": name, "queue": name, "persistent": True})
        client.connect()
        return client

    def _cycle(self, cycles: int) -> None:
        failed: list[BaseException] = []

        def some(first: int) -> None:
            try:
                for number in range(first, cycles, _ABREAST):
                    self._once(number)
            except BaseException as error:
                failed.append(error)

        workers = [threading.Thread(target=some, args=(first,)) for first in range(_ABREAST)]
        for thread in workers:
            thread.start()
        for thread in workers:
            thread.join()
        for error in failed:
            raise error

    def _once(self, number: int) -> None:
        client = self._open("soak-cycle")
        client.send(b"x")
        if number % _DROPPED:
            client.close()
        self._cycles_done += 1

    def _endure(self) -> None:
        config = self._config
        clients = [self._open(f"soak-{number}") for number in range(config["connections"])]
        end = time.monotonic() + config["seconds"]
        # One after the other, so that each is idle for most of the time.
        pause = _SPEAKS_EVERY * config["heartbeat"] / len(clients)
        while time.monotonic() < end:
            for client in clients:
                client.send(b"x")
                time.sleep(pause)
        for client in clients:
            client.close()

    def _rest(self, phase: str) -> Census:
        """Wait until nothing remains, or for as long as that may take; return what does."""
        self._phase = f"rest after {phase}"
        deadline = time.monotonic() + _REST_LIMIT
        while True:
            time.sleep(0.5)
            census = Census.take()
            before = self._before
            if before is not None and not census.left_over(before):
                break
            if time.monotonic() > deadline or (before is None and self._idle()):
                break
        left = {} if before is None else census.left_over(before)
        write("census", phase=phase, **dataclasses.asdict(census), left_over=left)
        return census

    def _idle(self) -> bool:
        return not service.current().links()

    def _sample_for_ever(self) -> None:
        while True:
            starved = self._sleep_until_next()
            heartbeats = service.current()
            # As a program that logs them does; they are no leftovers.
            heartbeats.metrics.take_events()
            late = 0.0
            for engine in heartbeats.engines():
                late = max([late, *engine.lateness])
                engine.lateness.clear()
            write(
                "sample",
                phase=self._phase,
                resident=resident(),
                descriptors=descriptors(),
                threads=threads(),
                lateness=late,
                starved=starved,
                links=len(heartbeats.links()),
                cycles=self._cycles_done,
                counters=heartbeats.metrics.snapshot(),
            )

    def _sleep_until_next(self) -> float:
        """Wait for the time of a sample; return how late a thread without work was meanwhile."""
        end = time.monotonic() + self._config["sample_every"]
        late = 0.0
        while (now := time.monotonic()) < end:
            due = min(end, now + _NAP)
            _native_sleep(due - now)
            late = max(late, time.monotonic() - due)
        return late


def main() -> None:
    """Read the configuration and live."""
    config = json.loads(sys.stdin.readline())
    if config["shim"]:
        hbshim.install()
    importlib.import_module(LIBRARY)
    Target(config).live()
    os._exit(0)


if __name__ == "__main__":
    main()
