"""The application that faults befall: many connections of one library in one concurrency model.

    python -m tests.stress.chaos.application native|eventlet|gevent kombu|pika

The first line of standard input is its configuration, each further line a command,
all JSON. What happens on each connection goes to standard output as it happens, see
:mod:`.journal`; the invariant decides what it means. Without hbshim (``"shim": false``)
it is the same application, and its own control.
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

import time

#: The wall clock of this process can be made to jump. Before anything else is imported, so
#: that a library that keeps `time.time` for itself keeps this one.
_wall_clock_offset = [0.0]
_true_time = time.time
time.time = lambda: _true_time() + _wall_clock_offset[0]

import contextlib
import importlib
import json
import os
import random
import threading
from collections import deque
from typing import Any

import hbshim
from hbshim.heartbeat import service
from hbshim.heartbeat.link import Link
from hbshim.heartbeat.state import State
from hbshim.runtime.unpatched import original, start_native_thread
from tests.stress.chaos.plan import OPEN_LIMIT
from tests.stress.chaos.workloads import WORKLOADS
from tests.stress.clients import CLIENTS, AmqpClient

#: Seconds between two checks of each link's state, and between two reports of lateness.
_POLL_INTERVAL = 0.02
_REPORT_EVERY = 0.5
#: Seconds until a connection that could not be opened is tried again.
_RETRY_AFTER = 0.2


# eventlet's would wait in the hub, also when a native thread calls it.
_write = original("os", "write")


def write(kind: str, **details: Any) -> None:
    """Write a line of the journal. One system call: no lock, from any thread, native or green."""
    line = {"kind": kind, "at": time.monotonic(), **details}
    _write(1, (json.dumps(line) + "\n").encode())


class Session:
    """One connection's life, over and over: open, use, lose or close, open anew."""

    def __init__(self, config: dict[str, Any], spec: dict[str, Any]) -> None:
        self.name: str = spec["name"]
        self.workload = WORKLOADS[spec["workload"]]
        self.shim: bool = config["shim"]
        self.link: Link | None = None
        self.reported_lost = False
        self.over = False
        self.generation = 0
        self._number = 0
        self._heartbeat: int = config["heartbeat"]
        self._opening = {
            "host": config["host"],
            "port": spec["port"],
            "user": config["user"],
            "password": config["password"],
            "heartbeat": self._heartbeat,
            "name": self.name,
            "queue": self.name,
            "confirms": self.workload.confirms,
            "persistent": True,
            "open_limit": OPEN_LIMIT,
        }
        self._draw = random.Random(f"{config['seed']}/{self.name}")

    def run(self) -> None:
        """Live until :attr:`over`; then show once more that messages get through."""
        last_word = False
        while not last_word:
            client = CLIENTS[LIBRARY](self._opening)
            began = time.monotonic()
            try:
                client.connect()
                self.link = client.link() if self.shim else None
            except Exception as error:
                write("unreachable", name=self.name, began=began, error=_named(error))
                _let_go(client)
                time.sleep(_RETRY_AFTER)
                continue
            self.generation += 1
            self.reported_lost = False
            self._record("up", began=began, port=self._local_port())
            last_word = self._use(client)
            self.link = None
        write("over", name=self.name)

    def _local_port(self) -> int:
        """As the relay sees this connection; 0 without hbshim."""
        return int(self.link.name.split(" ")[0].rpartition(":")[2]) if self.link else 0

    def _use(self, client: AmqpClient) -> bool:
        """Use the connection until it ends; whether everything is said."""
        calls = 0
        while True:
            over = self.over
            try:
                if over or not self.workload.listens:
                    self._publish(client)
                else:
                    # Shorter than the broker's heartbeats come: py-amqp begins its limit anew
                    # with each of them.
                    client.listen(self._heartbeat / 4)
                calls += 1
                if over or calls == self.workload.closes_after:
                    began = time.monotonic()
                    client.close()
                    self._record("closed", began=began)
                    return over
            except Exception as error:
                self._record("down", error=_named(error), recoverable=client.recoverable(error))
                _let_go(client)
                return False
            self._pause()

    def _publish(self, client: AmqpClient) -> None:
        self._number += 1
        began = time.monotonic()
        try:
            client.send(str(self._number).encode())
        except Exception:
            self._record("refused", number=self._number, began=began)
            raise
        kind = "confirmed" if self.workload.confirms else "accepted"
        self._record(kind, number=self._number, began=began)

    def _pause(self) -> None:
        end = time.monotonic() + self.workload.pause(self._draw, self._heartbeat)
        while not self.over and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))

    def _record(self, kind: str, **details: Any) -> None:
        write(kind, name=self.name, generation=self.generation, **details)


def _named(error: BaseException) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}: {error}"[:300]


def _let_go(client: AmqpClient) -> None:
    # It has failed already, and failed once more while it was put away.
    with contextlib.suppress(Exception):
        client.abandon()


class Watcher:
    """Reports when hbshim gives a link up, and how late its checks are; in a native thread."""

    def __init__(self, sessions: list[Session]) -> None:
        self._sessions = sessions
        self._sleep = original("time", "sleep")
        self._own_lateness = 0.0

    def run(self) -> None:
        report_at = 0.0
        while True:
            due = time.monotonic() + _POLL_INTERVAL
            for session in self._sessions:
                link = session.link
                if link is not None and link.state is State.LOST and not session.reported_lost:
                    session.reported_lost = True
                    write("lost", name=session.name, generation=session.generation)
            if time.monotonic() >= report_at:
                report_at = time.monotonic() + _REPORT_EVERY
                self._report()
                due = time.monotonic() + _POLL_INTERVAL
            self._sleep(max(0.0, due - time.monotonic()))
            self._own_lateness = max(self._own_lateness, time.monotonic() - due)

    def _report(self) -> None:
        heartbeats = service.current()
        late: dict[str, float] = {
            engine.worker.name: max(list(engine.lateness), default=0.0)
            for engine in heartbeats.engines()
        }
        for engine in heartbeats.engines():
            engine.lateness.clear()
        for event in hbshim.take_events():
            write("event", event=event.kind, link=event.link, detail=event.detail)
        # How late this very thread was, which waits for nothing else, shows how much of
        # that is the machine's doing. And the wall clock, to see that it has jumped.
        late["idle"], self._own_lateness = self._own_lateness, 0.0
        jumped = time.time() - _true_time()
        write("pulse", lateness=late, jumped=jumped, counters=heartbeats.metrics.snapshot())


class Commands:
    """Reads commands in a native thread; the main thread carries them out."""

    def __init__(self) -> None:
        self.waiting: deque[dict[str, Any]] = deque()

    def read(self) -> None:
        # No file object: eventlet's would make the descriptor non-blocking.
        read, pending = original("os", "read"), b""
        while piece := read(0, 4096):
            *whole, pending = (pending + piece).split(b"\n")
            self.waiting.extend(json.loads(line) for line in whole)
        self.waiting.append({"do": "end"})


def _carry_out(command: dict[str, Any], sessions: list[Session]) -> bool:
    """Do one command in the main thread, where the hub lives; False after the last one."""
    what, seconds = command["do"], command.get("seconds", 0.0)
    if what == "block":
        original("time", "sleep")(seconds)
    elif what == "burn":
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            sum(range(1000))
    elif what == "jump":
        _wall_clock_offset[0] += seconds
    else:
        for session in sessions:
            session.over = True
    return bool(what != "end")


def main() -> None:
    """Run until the command to end."""
    commands = Commands()
    start_native_thread(commands.read, lambda: None)
    while not commands.waiting:
        time.sleep(_POLL_INTERVAL)
    config = commands.waiting.popleft()
    if config["shim"]:
        hbshim.install()
    # Here, not in each of many threads at once.
    importlib.import_module(LIBRARY)
    sessions = [Session(config, spec) for spec in config["connections"]]
    start_native_thread(Watcher(sessions).run, lambda: None)
    threads = [threading.Thread(target=session.run, daemon=True) for session in sessions]
    for thread in threads:
        thread.start()
    going = True
    while going or any(thread.is_alive() for thread in threads):
        if commands.waiting:
            going = _carry_out(commands.waiting.popleft(), sessions) and going
        time.sleep(_POLL_INTERVAL)
    write("end")
    os._exit(0)


if __name__ == "__main__":
    main()
