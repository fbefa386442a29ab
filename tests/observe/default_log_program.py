"""A program that asks for no log gets its problems logged by its own thread.

    python tests/observe/default_log_program.py native|eventlet|gevent

Prints "pass" at its end; what is logged goes to stderr, as Python has it by default.
"""

from __future__ import annotations

# ruff: noqa: E402, T201 - patch first, import later; the answer is printed.
import sys
from typing import Any, NoReturn

MODEL = sys.argv[1]
if MODEL == "eventlet":
    import eventlet

    eventlet.monkey_patch()
elif MODEL == "gevent":
    from gevent import monkey

    monkey.patch_all()

import logging
import socket
import time

import hbshim
from hbshim.adapters.attach import not_negotiated, watch
from hbshim.adapters.sockets import wire_for
from hbshim.heartbeat import service
from hbshim.heartbeat.link import Link
from hbshim.runtime.unpatched import get_native_id

logged: list[Any] = []


class Noting(logging.Filter):
    def filter(self, record: Any) -> bool:
        logged.append((record.hbshim_kind, get_native_id()))
        return True


logging.getLogger("hbshim").addFilter(Noting())
metrics = service.current().metrics
server = socket.create_server(("127.0.0.1", 0))
opened: list[Any] = []


def connect() -> Link:
    client = socket.create_connection(server.getsockname())
    opened.extend((client, server.accept()[0]))
    wire = wire_for(client)
    link = Link(wire, 0.5, wire.name(), metrics)
    watch(link, hbshim.Options(heartbeat_in_pthread=True))
    return link


def die() -> None:
    """Let a link lose its peer, and wait until the heartbeat thread has recorded it."""
    before = len(metrics.recorded())
    link = connect()
    del logged[:]
    opened[-1].close()
    deadline = time.monotonic() + 60
    while len(metrics.recorded()) == before:
        assert time.monotonic() < deadline, "nothing was recorded"
        time.sleep(0.01)
    assert not logged, "logged by the heartbeat thread"
    link.close()


mine = get_native_id()
die()
hbshim.status()
hbshim.status()
assert logged == [("peer-closed", mine)], logged

die()
connect()  # the program connects anew
assert logged == [("peer-closed", mine)], logged

del logged[:]
for _ in range(3):
    not_negotiated("a:1 -> b:2", hbshim.Options())
assert logged == [("not-negotiated", mine)], logged

del logged[:]
for reason in ("no thread", "no thread", "unknown version"):
    metrics.record("not-kept-alive", "a:1 -> b:2", reason)
hbshim.status()
assert [kind for kind, _ in logged] == ["not-kept-alive"] * 2, logged

kinds = [event.kind for event in hbshim.take_events()]
assert kinds == ["peer-closed"] * 2 + ["not-negotiated"] * 3 + ["not-kept-alive"] * 3, kinds

# What the program takes is its own business.
metrics.record("link-silent", "", "taken")
hbshim.take_events()
del logged[:]
hbshim.status()
assert not logged, logged

# INFO is for those who ask for it, and an error of a handler ends nothing.
metrics.record("worker-moved", "", "no problem")
hbshim.status()
assert not logged, logged


class Broken(logging.Handler):
    def handle(self, record: logging.LogRecord) -> NoReturn:
        raise RuntimeError("a handler with a fault")


logging.getLogger("hbshim").addHandler(Broken())
metrics.record("check-failed", "", "a problem")
hbshim.status()
assert [kind for kind, _ in logged] == ["check-failed"], logged

for sock in (*opened, server):
    sock.close()
print("pass")
