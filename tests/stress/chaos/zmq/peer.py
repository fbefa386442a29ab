"""A client or a server of a chaos run: ``peer.py native|eventlet|gevent client|server NAME IPC``.

Each line of standard input is a command, each of standard output a line of the journal, all JSON.
Times are those of ``time.monotonic()``, which all processes of a machine share.
"""
# ruff: noqa: E402 - patch first, import later.

from __future__ import annotations

import sys

MODEL, ROLE, NAME, IPC = sys.argv[1:5]
if MODEL == "eventlet":
    import eventlet

    eventlet.monkey_patch()
elif MODEL == "gevent":
    from gevent import monkey

    monkey.patch_all()

import itertools
import json
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from hbshim import messaging
from hbshim.errors import HbshimError
from hbshim.heartbeat import service
from hbshim.runtime.unpatched import original, start_native_thread
from tests.stress.chaos.zmq.faults import SENDS

TARGET = messaging.Target("chaos")

#: Topics of notifications, of those that are acknowledged too.
EVENTS, ACKED_EVENTS = "chaos-events", "chaos-acked"

#: Seconds that a handler works for.
WORK = (0.0, 0.0, 0.02, 0.3, 1.0)

#: Timeouts of calls; of what is acknowledged and may be sent again; of anything else.
CALL_TIMEOUTS, ACKED_TIMEOUT, TIMEOUT = (0.5, 3.0, 6.0), 12.0, 5.0

#: Seconds for the first acknowledgement.
ACK_WITHIN = 1.0

_LIMIT = 60.0
_PID = os.getpid()
_write, _sleep, _read = original("os", "write"), original("time", "sleep"), original("os", "read")


def write(kind: str, **details: Any) -> None:
    """Write a line of the journal: one system call, from any thread."""
    _write(1, (json.dumps({"kind": kind, **details}) + "\n").encode())


class Commands:
    """Reads commands in a native thread, which also reports how late it is."""

    def __init__(self) -> None:
        self.waiting: deque[dict[str, Any]] = deque()
        start_native_thread(self._run, lambda: None)
        start_native_thread(self._watch, lambda: None)

    def _run(self) -> None:
        pending = b""
        while piece := _read(0, 4096):
            *whole, pending = (pending + piece).split(b"\n")
            self.waiting.extend(json.loads(line) for line in whole)
        os._exit(1)

    def _watch(self) -> None:
        while True:
            began = time.monotonic()
            _sleep(0.05)
            late = time.monotonic() - began - 0.05
            if late > 0.2:
                write("starved", at=time.monotonic(), seconds=late)

    def next(self) -> dict[str, Any]:
        """Wait for a command; green threads run meanwhile."""
        while not self.waiting:
            time.sleep(0.02)
        return self.waiting.popleft()


class Endpoint:
    """Notes what it runs."""

    def work(self, request: messaging.Request, mark: str, seconds: float) -> str:
        write("ran", id=mark, at=time.monotonic(), again=request.may_have_run)
        time.sleep(seconds)
        return NAME

    def info(self, notification: messaging.Notification) -> None:
        id_ = notification.payload["id"]
        write("ran", id=id_, at=time.monotonic(), again=False)


def serve(commands: Commands) -> None:
    """Serve until the command to stop."""
    plain = messaging.connect("hbzmq://", rpc_zmq_ipc_dir=IPC)
    acked = messaging.connect("hbzmq://", rpc_zmq_ipc_dir=IPC, notification_acks=True)
    servers = [
        messaging.Server(plain, messaging.Target("chaos", server=NAME), [Endpoint()], workers=16),
        messaging.NotificationServer(plain, [EVENTS], [Endpoint()], pool="pool", workers=4),
        messaging.NotificationServer(acked, [ACKED_EVENTS], [Endpoint()], pool="pool", workers=4),
    ]
    started = [server.start(_LIMIT) for server in servers]
    write("started", well=all(started))
    commands.next()
    stopped = [server.stop(_LIMIT) for server in servers]
    for driver in (plain, acked):
        driver.close()
    write("counters", counters=service.current().metrics.snapshot())
    write("stopped", well=all(stopped))
    os._exit(0)


class Sender:
    """Sends messages of every kind, each kind from threads of its own."""

    def __init__(self) -> None:
        plain = messaging.connect("hbzmq://", rpc_zmq_ipc_dir=IPC)
        acked = messaging.connect(
            "hbzmq://",
            rpc_zmq_ipc_dir=IPC,
            rpc_use_acks=True,
            notification_acks=True,
            rpc_ack_timeout_base=ACK_WITHIN,
        )
        self._calls = messaging.Client(plain, TARGET)
        self._acked = messaging.Client(acked, TARGET, timeout=ACKED_TIMEOUT)
        self._events = messaging.Notifier(plain, EVENTS, NAME, timeout=TIMEOUT)
        self._acked_events = messaging.Notifier(acked, ACKED_EVENTS, NAME, timeout=ACKED_TIMEOUT)
        self._numbers = itertools.count(1)
        self._chance = random.Random(NAME)
        self._over = False
        self._threads: list[threading.Thread] = []
        self._sends: dict[str, Callable[[str, float], object]] = {
            "call": self._call,
            "cast": lambda id_, timeout: self._cast(self._calls, id_, timeout),
            "acked cast": lambda id_, timeout: self._cast(self._acked, id_, timeout),
            "fanout": self._fanout,
            "notification": lambda id_, _: self._events.info("happened", {"id": id_}),
            "acked notification": lambda id_, _: self._acked_events.info("happened", {"id": id_}),
        }

    def _call(self, id_: str, timeout: float) -> object:
        made = self._calls.prepare(timeout=timeout)
        return made.call("work", mark=id_, seconds=self._chance.choice(WORK))

    def _cast(self, client: messaging.Client, id_: str, timeout: float) -> None:
        client.prepare(timeout=timeout).cast("work", mark=id_, seconds=0)

    def _fanout(self, id_: str, timeout: float) -> None:
        made = self._calls.prepare(fanout=True, timeout=timeout)
        made.cast("work", mark=id_, seconds=0)

    def start(self) -> None:
        """Send until :meth:`end`."""
        self._over = False
        for what, count in SENDS.items():
            for _ in range(count):
                self._threads.append(threading.Thread(target=self._run, args=(what,), daemon=True))
        for thread in self._threads:
            thread.start()

    def _run(self, what: str) -> None:
        while not self._over and os.getpid() == _PID:
            self.send(what)
            time.sleep(self._chance.uniform(0.0, 0.2))

    def end(self) -> None:
        """Begin nothing more; report when all has ended."""
        self._over = True
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def send(self, what: str, prefix: str = "") -> str:
        """Send one message, and note what becomes of it; return the class of its error.

        The copy of a green thread goes on in a forked child; there it notes nothing.
        """
        pid = os.getpid()
        id_ = f"{NAME}-{prefix}{next(self._numbers)}"
        timeout = TIMEOUT
        if what == "call":
            timeout = CALL_TIMEOUTS[-1] if prefix else self._chance.choice(CALL_TIMEOUTS)
        elif what.startswith("acked"):
            timeout = ACKED_TIMEOUT
        write("began", id=id_, what=what, began=time.monotonic(), timeout=timeout)
        value, error, text = None, "", ""
        try:
            value = self._sends[what](id_, timeout)
        except HbshimError as raised:
            error, text = type(raised).__name__, str(raised)
        except Exception as raised:
            error, text = f"foreign: {type(raised).__name__}", str(raised)
        if os.getpid() == pid:
            ended = time.monotonic()
            write("ended", id=id_, ended=ended, error=error, text=text[:300], value=value)
        return error


def fork(sender: Sender) -> None:
    """Have a child send over the drivers that it inherits, each kind from a thread of its own."""
    pid = os.fork()
    if not pid:
        _be_child(sender)
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            write("forked", child=pid, status=os.waitstatus_to_exitcode(status))
            return
        time.sleep(0.02)


def _be_child(sender: Sender) -> None:
    """End well if a message of each kind does."""
    if MODEL == "eventlet":
        # It would share the epoll of its parent.
        eventlet.hubs.use_hub()
    until = time.monotonic() + _LIMIT

    def work(what: str) -> None:
        while sender.send(what, f"child-{os.getpid()}-") and time.monotonic() < until:
            time.sleep(0.1)
        well.append(time.monotonic() < until)

    well: list[bool] = []
    threads = [threading.Thread(target=work, args=(what,)) for what in SENDS]
    for thread in threads:
        thread.start()
    while len(well) < len(threads) and time.monotonic() < until:
        time.sleep(0.02)
    os._exit(0 if len(well) == len(threads) and all(well) else 3)


def drive(commands: Commands) -> None:
    """Send, and do what is commanded in the main thread, where a hub lives."""
    sender = Sender()
    sender.start()
    write("started", well=True)
    while True:
        command = commands.next()
        what = command["do"]
        if what == "block":
            _sleep(command["seconds"])
        elif what == "fork":
            fork(sender)
        elif what == "rest":
            sender.end()
            write("rested")
        elif what == "last":
            for kind in SENDS:
                for _ in range(command["count"]):
                    sender.send(kind, "last-")
            write("counters", counters=service.current().metrics.snapshot())
            write("said")
        else:
            os._exit(0)


if __name__ == "__main__":
    serve(Commands()) if ROLE == "server" else drive(Commands())
