"""Events of a link that dies are logged by the program's own thread.

    python tests/observe/logging_program.py native|eventlet|gevent

Prints "pass" at its end.
"""

from __future__ import annotations

# ruff: noqa: E402, T201 - patch first, import later; the answer is printed.
import sys
from typing import Any

MODEL = sys.argv[1]
if MODEL == "eventlet":
    import eventlet

    eventlet.monkey_patch()
elif MODEL == "gevent":
    from gevent import monkey

    monkey.patch_all()

import logging
import socket
import threading
import time

from hbshim.adapters.sockets import wire_for
from hbshim.heartbeat import service
from hbshim.heartbeat.link import Link
from hbshim.observe import keep_logging
from hbshim.runtime.unpatched import get_native_id


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[Any] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append((get_native_id(), record))


kept = Kept()
logging.getLogger("hbshim").addHandler(kept)
stop = threading.Event()
logs = threading.Thread(target=keep_logging, kwargs={"interval": 0.05, "wait": stop.wait})
logs.start()

server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
peer, _ = server.accept()
wire = wire_for(client)
link = Link(wire, 0.5, wire.name(), service.current().metrics)
service.current().watch(link, "pthread")
peer.close()

deadline = time.monotonic() + 60
while not kept.records:
    assert time.monotonic() < deadline, "nothing was logged"
    time.sleep(0.01)
stop.set()
logs.join()

((thread, record),) = kept.records
assert record.hbshim_kind == "peer-closed"
assert record.hbshim_link == link.name
assert link.name in record.getMessage()
assert record.levelno == logging.WARNING
assert 0 <= time.time() - record.hbshim_at < 60
worker: Any = service.current().engine("pthread").worker
assert thread != worker.native_id
if MODEL != "native":
    assert thread == get_native_id(), "not in the hub's thread"

for sock in (client, server):
    sock.close()
print("pass")
